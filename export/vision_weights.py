"""The vision chain's tensors from the original's three files, merged as the original merges them."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from ..engines.errors import ExportError
from .checkpoints import check_shapes, load_state_dict, not_finite, refuse
from .progress import bar
from .vision_model import (
    IMAGE_SIZE,
    QFORMER_HEAD_WIDTH,
    VIT_HEAD_WIDTH,
    VisionConfig,
    VisionModel,
)

ENCODER = "visual_encoder."
LAYER = "Qformer.bert.encoder.layer."
ADAPTER_PREFIXES = (ENCODER, "ln_vision.", "query_tokens", "Qformer.", "llama_proj.")


def read_vision(vit: Path, qformer: Path, adapter: Path) -> tuple[VisionConfig, dict[str, Tensor]]:
    """Sizes and tensors of the vision chain; what the adapter holds wins.

    The tensors are memory-mapped, in their stored types, under the full model's names, and exactly those that
    `VisionModel` needs. Raises ExportError naming tensors that are missing, misshapen, NaN or infinite.
    """
    vit_blocks = load_state_dict(vit)
    merged = {ENCODER + name: tensor for name, tensor in vit_blocks.items()}
    merged |= load_state_dict(qformer)
    merged |= {n: t for n, t in load_state_dict(adapter).items() if n.startswith(ADAPTER_PREFIXES)}
    config = read_config(merged, depth=_count(vit_blocks, r"blocks\.(\d+)\.") - 1)
    position = ENCODER + "pos_embed"
    merged[position] = resize_positions(merged[position], config.patches + 1)
    expected = expected_shapes(config)
    check_shapes(expected, {name: tuple(tensor.shape) for name, tensor in merged.items()})
    tensors = {name: merged[name] for name in expected}
    refuse(problem for name, tensor in tensors.items() for problem in not_finite(name, tensor))
    return config, tensors


def read_config(tensors: Mapping[str, Tensor], depth: int) -> VisionConfig:
    """Sizes from the tensors' own shapes. `eva_vit_g.pth` has one block more than the model uses.

    Raises ExportError if a tensor that tells a size is missing.
    """

    def shape(name: str, dimensions: int) -> torch.Size:
        if name not in tensors:
            raise ExportError(f"the checkpoints cannot be used:\n  {name}: missing")
        if tensors[name].dim() != dimensions:
            found = tuple(tensors[name].shape)
            raise ExportError(f"the checkpoints cannot be used:\n  {name}: shape {found}, not {dimensions}-D")
        return tensors[name].shape

    shape(ENCODER + "pos_embed", 3)
    patch = shape(ENCODER + "patch_embed.proj.weight", 4)
    queries = shape("query_tokens", 3)
    layers = _count(tensors, re.escape(LAYER) + r"(\d+)\.")
    cross = {int(m[1]) for n in tensors if (m := re.match(re.escape(LAYER) + r"(\d+)\.crossattention\.", n))}
    config = VisionConfig(
        width=patch[0],
        depth=depth,
        mlp=shape(ENCODER + "blocks.0.mlp.fc1.weight", 2)[0],
        patch=patch[2],
        queries=queries[1],
        qformer_width=queries[2],
        qformer_layers=layers,
        qformer_mlp=shape(LAYER + "0.intermediate_query.dense.weight", 2)[0],
        cross_layers=tuple(sorted(cross)),
        n_embd=shape("llama_proj.weight", 2)[0],
    )
    if config.width % VIT_HEAD_WIDTH or config.qformer_width % QFORMER_HEAD_WIDTH:
        raise ExportError(
            f"ViT width {config.width} and Q-Former width {config.qformer_width} are not "
            f"multiples of their heads' widths, {VIT_HEAD_WIDTH} and {QFORMER_HEAD_WIDTH}"
        )
    if depth < 1 or IMAGE_SIZE % config.patch:
        raise ExportError(
            f"the file for --vit holds {depth + 1} blocks and patches of {config.patch} pixels: no EVA ViT"
        )
    return config


def expected_shapes(config: VisionConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor the vision chain needs."""
    with torch.device("meta"):
        model = VisionModel(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def resize_positions(positions: Tensor, length: int) -> Tensor:
    """Position embeddings (1, n, width) for `length` positions: bicubic over the grid of patches."""
    if positions.shape[1] == length:
        return positions
    old, new = (round((n - 1) ** 0.5) for n in (positions.shape[1], length))
    if old * old + 1 != positions.shape[1]:
        return positions  # not a square grid: reported as misshapen
    cls, grid = positions[:, :1].float(), positions[:, 1:].float()
    grid = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat((cls, grid.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)


def save_float32(shapes: Mapping[str, tuple[int, ...]], tensor: Callable[[str], Tensor], path: Path) -> None:
    """Write the tensors that `tensor` gives by name as a float32 safetensors file, one after the other.

    The safetensors library's own writer holds all of them twice: 8 GB for the full-size model.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data is aligned
    with path.open("wb") as file, bar("writing the vision weights as float32") as move:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in shapes:
            tensor(name).float().contiguous().numpy().tofile(file)
            move(header[name]["data_offsets"][1], end)


def load_vision_model(config: VisionConfig, path: Path) -> VisionModel:
    """The torch model over a memory-mapped file of `save_float32`."""
    with torch.device("meta"):
        model = VisionModel(config)
    model.load_state_dict(load_file(path), assign=True)
    return model.eval().requires_grad_(False)


def _count(names: Mapping[str, Tensor], pattern: str) -> int:
    return max((int(m[1]) for name in names if (m := re.match(pattern, name))), default=-1) + 1
