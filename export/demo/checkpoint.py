"""Save the trained model in the layout in which users have the original's checkpoints."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig

from ..make import Checkpoints
from ..vision_model import VisionModel
from ..vision_weights import ENCODER
from .train_language import ProjectedLlama

VIT, QFORMER, ADAPTER, LLM = "eva_vit_g.pth", "blip2_pretrained.pth", "skingpt4.pth", "llm"


def checkpoints_in(folder: Path) -> Checkpoints:
    """The four sources of a folder in this layout."""
    return Checkpoints(folder / VIT, folder / QFORMER, folder / ADAPTER, folder / LLM)


def save_checkpoints(folder: Path, vision: VisionModel, language: ProjectedLlama) -> None:
    """Write the four sources; `tokenizer.model` is in the `llm` folder already.

    As upstream, the ViT's matrices and the Llama are float16, and the ViT has one block more than is used.
    """
    state = vision.state_dict()
    vit = {name.removeprefix(ENCODER): tensor for name, tensor in state.items() if name.startswith(ENCODER)}
    depth = len(vision.visual_encoder.blocks)
    last = f"blocks.{depth - 1}."
    vit |= {name.replace(last, f"blocks.{depth}."): tensor for name, tensor in vit.items() if name.startswith(last)}
    torch.save({name: _half_matrix(name, tensor) for name, tensor in vit.items()}, folder / VIT)
    qformer = {name: tensor for name, tensor in state.items() if not name.startswith((ENCODER, "llama_proj."))}
    torch.save({"model": qformer}, folder / QFORMER)
    adapter = {f"llama_proj.{name}": tensor for name, tensor in language.projection.state_dict().items()}
    torch.save({"model": adapter}, folder / ADAPTER)
    language.llama.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    language.llama.half().save_pretrained(folder / LLM)


def _half_matrix(name: str, tensor: Tensor) -> Tensor:
    return tensor.half() if name.endswith(".weight") and tensor.dim() > 1 else tensor
