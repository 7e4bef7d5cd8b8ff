"""Trains vision encoder and Q-Former to see the attributes of drawings.

Linear classifiers on the Q-Former's outputs, one group of outputs an attribute, and on the ViT's patches give the
training signal. They are removed afterwards. Training begins on windows of 8 × 8 patches around lesions, which cost a
quarter, and ends on whole pictures. There is no text in this stage.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...engines import processor
from ..vision_model import VisionConfig, VisionModel
from .draw import GRID
from .labelled_drawings import (
    HEADS,
    TRAINING_SEEDS,
    UNKNOWN,
    VALIDATION_SEEDS,
    DrawingPool,
    LabelledDrawings,
    normalise,
)

CONFIG = VisionConfig(
    width=176, depth=4, mlp=768, patch=14, queries=32, qformer_width=128, qformer_layers=4, qformer_mlp=512,
    cross_layers=(0, 2), n_embd=256,
)  # fmt: skip
GROUP = CONFIG.queries // len(HEADS)
PATCH_WEIGHT = 0.5
INSIDE = 0.4  # a patch covered this much shows the lesion
POSITION, LONGEST = 0.6, 30.0  # size of the first position embeddings, and their longest wave over 2 pi
DECAY = 0.05
CHUNK = 4096  # pictures drawn at a time
VALIDATION = 512


@dataclass(frozen=True)
class Phase:
    """Training on so many pictures, of `side` patches to a side."""

    name: str
    pictures: int
    side: int
    batch: int
    peak: float
    """The highest learning rate, after the warm-up."""


PHASES = (Phase("windows", 32_768, 8, 64, 2e-3), Phase("pictures", 57_344, GRID, 32, 7e-4))
WARM_UP = 150  # steps
LEVEL = 0.3  # of a phase's steps


@dataclass
class Point:
    """A point of the learning curve."""

    phase: str
    pictures: int
    minutes: float
    loss: float
    accuracy: dict[str, float] = field(default_factory=dict)


class VisionWithHeads(nn.Module):
    """The vision chain and the heads it is trained with."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = VisionModel(CONFIG)
        self.heads = nn.ModuleDict({name: nn.Linear(CONFIG.qformer_width, size) for name, size in HEADS.items()})
        patch = {"coverage": 1, "centre": 1, **HEADS}
        self.patch_heads = nn.ModuleDict({name: nn.Linear(CONFIG.width, size) for name, size in patch.items()})
        self.apply(_initialise)
        nn.init.normal_(self.vision.visual_encoder.cls_token, std=0.02)
        nn.init.normal_(self.vision.query_tokens)
        self.vision.visual_encoder.pos_embed.data[:, :1] = 0
        self.vision.visual_encoder.pos_embed.data[:, 1:] = POSITION * waves(CONFIG.width)

    def features(self, pixels: Tensor, positions: Tensor) -> Tensor:
        """Image features (b, 1 + patches, width) of the patches at these positions of the grid."""
        vit = self.vision.visual_encoder
        embedded = vit.pos_embed[0]
        patches = vit.patch_embed(pixels) + embedded[1:][positions]
        x = torch.cat(((vit.cls_token[0] + embedded[:1]).expand(len(pixels), 1, -1), patches), dim=1)
        for block in vit.blocks:
            x = block(x)
        out: Tensor = self.vision.ln_vision(x)
        return out

    def forward(self, pixels: Tensor, positions: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Logits by attribute (b, classes) and by patch (b, patches, classes)."""
        features = self.features(pixels, positions)
        output, _ = self.vision.query(features)
        groups = output.reshape(len(output), len(HEADS), GROUP, -1).mean(dim=2)
        whole = {name: head(groups[:, i]) for i, (name, head) in enumerate(self.heads.items())}
        return whole, {name: head(features[:, 1:]) for name, head in self.patch_heads.items()}


def waves(width: int) -> Tensor:
    """Sines and cosines of the rows and columns of the grid, (GRID × GRID, width), as in He et al. 2021 (MAE).

    Small random position embeddings, the usual start, are drowned by the patches': after 40,000 pictures such a
    model still told neither a round border from a jagged one nor a group from a line.
    """
    rates = LONGEST ** -(torch.arange(width // 4) / (width // 4))
    turns = torch.arange(GRID)[:, None] * rates
    axis = torch.cat((turns.sin(), turns.cos()), dim=1)
    rows, columns = axis[:, None].expand(-1, GRID, -1), axis[None].expand(GRID, -1, -1)
    return torch.cat((rows, columns), dim=-1).flatten(0, 1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for name in ("q_bias", "v_bias"):
        if hasattr(module, name):
            nn.init.zeros_(getattr(module, name))


@dataclass(frozen=True)
class Batch:
    pixels: Tensor
    positions: Tensor
    labels: Tensor
    coverage: Tensor
    centres: Tensor


def batches(drawings: LabelledDrawings, size: int) -> Iterator[Batch]:
    """The drawings in order, `size` pictures at a time."""
    for start in range(0, len(drawings.pictures), size):
        part = slice(start, start + size)
        arrays: list[np.ndarray[Any, Any]] = [
            normalise(drawings.pictures[part]), drawings.positions[part], drawings.labels[part],
            drawings.coverage[part], drawings.centres[part],
        ]  # fmt: skip
        yield Batch(*map(torch.from_numpy, arrays))


def loss_of(model: VisionWithHeads, batch: Batch) -> Tensor:
    """Cross entropies of all heads."""
    whole, patches = model(batch.pixels, batch.positions)
    total = torch.zeros(())
    for name in HEADS:
        label = batch.labels[:, list(HEADS).index(name)]
        total = total + F.cross_entropy(whole[name].float(), label, ignore_index=UNKNOWN)
    seen = F.binary_cross_entropy_with_logits(patches["coverage"].float().squeeze(-1), batch.coverage)
    middle = F.binary_cross_entropy_with_logits(patches["centre"].float().squeeze(-1), batch.centres)
    local = seen + 3 * middle
    inside = batch.coverage > INSIDE
    if inside.any():
        for name in HEADS:
            label = batch.labels[:, list(HEADS).index(name), None].expand_as(batch.coverage)
            local = local + F.cross_entropy(patches[name].float()[inside], label[inside], ignore_index=UNKNOWN)
    return total + PATCH_WEIGHT * local


def train(pool: DrawingPool, tell: Callable[[Point], None], phases: Sequence[Phase] = PHASES) -> VisionWithHeads:
    """Train from the seed torch was given; `tell` hears of every point of the learning curve."""
    model = VisionWithHeads()
    validation = pool.draw(VALIDATION_SEEDS, VALIDATION, GRID)
    seed, begun = TRAINING_SEEDS, time.monotonic()
    for phase in phases:
        steps = phase.pictures // phase.batch
        optimiser = make_optimiser(model, phase.peak)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(learning_rate, steps=steps))
        for start in range(0, phase.pictures, CHUNK):
            drawings = pool.draw(seed, min(CHUNK, phase.pictures - start), phase.side)
            seed += len(drawings.pictures)
            losses = [_step(model, batch, optimiser, schedule) for batch in batches(drawings, phase.batch)]
            minutes = (time.monotonic() - begun) / 60
            done = start + len(drawings.pictures)
            tell(Point(phase.name, done, minutes, float(np.mean(losses)), accuracy(model, validation)))
    return model.eval()


def make_optimiser(model: nn.Module, peak: float) -> torch.optim.Optimizer:
    """AdamW that pulls only matrices towards zero."""
    matrices = [p for name, p in model.named_parameters() if p.dim() > 1 and "pos_embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() <= 1 or "pos_embed" in name]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, peak, betas=(0.9, 0.98))


def learning_rate(step: int, steps: int) -> float:
    """Of the peak: a linear warm-up, level for a while, then a cosine to 2 %: most is learned on the way down."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    late = max(0.0, (step - LEVEL * steps) / ((1 - LEVEL) * steps))
    return 0.02 + 0.98 * (1 + math.cos(math.pi * late)) / 2


def fast_arithmetic() -> torch.autocast:
    """Products in bfloat16 where the processor has vectors for them; elsewhere oneDNN takes tens of times as long."""
    return torch.autocast("cpu", torch.bfloat16, enabled="avx512bw" in processor.flags())


def _step(model: VisionWithHeads, batch: Batch, optimiser: Any, schedule: Any) -> float:
    with fast_arithmetic():
        loss = loss_of(model, batch)
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    schedule.step()
    return float(loss.detach())


def accuracy(model: VisionWithHeads, drawings: LabelledDrawings) -> dict[str, float]:
    """Part of the pictures whose attribute the heads see right, and `all` of a picture's at once.

    Of a picture without skin only the condition counts.
    """
    right: list[Tensor] = []
    with torch.no_grad(), fast_arithmetic():
        for batch in batches(drawings, 64):
            whole, _ = model(batch.pixels, batch.positions)
            chosen = torch.stack([whole[name].argmax(-1) for name in HEADS], dim=1)
            right.append((chosen == batch.labels) | (batch.labels == UNKNOWN))
    table = torch.cat(right).float()
    return {name: float(table[:, i].mean()) for i, name in enumerate(HEADS)} | {
        "all": float(table.min(dim=1).values.mean())
    }
