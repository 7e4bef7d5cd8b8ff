"""The training data of the vision encoder: drawings, with labels for each picture and for each patch."""

import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt

from ..vision_model import IMAGE_MEAN, IMAGE_STD
from .conditions import CONDITIONS, VALUES, Findings
from .draw import FRAME, GRID, draw
from .scenes import training_scene

PATCH = FRAME // GRID
NO_SKIN_SHARE = 0.04
HEADS = {**{name: len(values) for name, values in VALUES.items()}, "condition": len(CONDITIONS) + 1}
"""Attributes and their numbers of classes; the last condition is a picture without skin."""
UNKNOWN = -100  # a label that torch's cross entropy leaves out

TRAINING_SEEDS = 1 << 40
"""Training draws from here on, validation from half of it on, `evaluate` below 2^32: they never meet."""
VALIDATION_SEEDS = 1 << 39


@dataclass(frozen=True)
class LabelledDrawings:
    """Pictures and labels; `side` patches to a side, all of a picture or a window of it."""

    pictures: npt.NDArray[np.uint8]
    """(n, 3, side × PATCH, side × PATCH)"""
    positions: npt.NDArray[np.int64]
    """Which of the whole picture's patches these are, (n, side × side)."""
    labels: npt.NDArray[np.int64]
    """(n, len(HEADS))"""
    coverage: npt.NDArray[np.float32]
    """Part of each patch that is lesion, (n, side × side)."""
    centres: npt.NDArray[np.float32]
    """1 where a lesion has its middle, (n, side × side)."""


def labels(findings: Findings | None) -> list[int]:
    """The number of each attribute's value, in the order of HEADS."""
    if findings is None:
        return [UNKNOWN] * len(VALUES) + [len(CONDITIONS)]
    names = [condition.name for condition in CONDITIONS]
    return [values.index(getattr(findings, name)) for name, values in VALUES.items()] + [
        names.index(findings.condition)
    ]


def label_drawings(seeds: Sequence[int], side: int) -> LabelledDrawings:
    """Draw the scenes of the seeds; a window smaller than the picture lies over a lesion."""
    parts = [_one(seed, side) for seed in seeds]
    return LabelledDrawings(*(np.stack(column) for column in zip(*parts, strict=True)))


def _one(seed: int, side: int) -> tuple[npt.NDArray[np.generic], ...]:
    scene = training_scene(seed, no_skin=NO_SKIN_SHARE)
    drawing = draw(scene)
    centres = np.zeros((GRID, GRID), np.float32)
    for x, y in drawing.centres:
        centres[int(y / PATCH), int(x / PATCH)] = 1
    top, left = _window(seed, drawing.centres, side)
    rows, columns = slice(top, top + side), slice(left, left + side)
    pixels = np.asarray(drawing.image)[top * PATCH : (top + side) * PATCH, left * PATCH : (left + side) * PATCH]
    positions = np.arange(GRID * GRID).reshape(GRID, GRID)[rows, columns].ravel()
    return (
        np.ascontiguousarray(pixels.transpose(2, 0, 1)),
        positions,
        np.array(labels(scene.findings)),
        drawing.coverage[rows, columns].ravel(),
        centres[rows, columns].ravel(),
    )


def _window(seed: int, centres: Sequence[tuple[float, float]], side: int) -> tuple[int, int]:
    if side == GRID:
        return 0, 0
    random = np.random.default_rng((seed, 3))
    x, y = centres[int(random.integers(len(centres)))] if centres else random.uniform(0, FRAME, 2)
    wanted = np.array((y, x)) / PATCH - side / 2 + random.uniform(-1.5, 1.5, 2)
    top, left = np.clip(np.rint(wanted), 0, GRID - side).astype(int)
    return int(top), int(left)


class DrawingPool:
    """Draws on all cores."""

    def __init__(self, workers: int) -> None:
        # Forked from a process that has used torch's threads, a worker could hang.
        # An interrupt is the main process's to answer.
        ignore = (signal.SIGINT, signal.SIG_IGN)
        context = get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=signal.signal, initargs=ignore)

    def draw(self, first_seed: int, count: int, side: int) -> LabelledDrawings:
        """The drawings of `count` seeds from `first_seed` on."""
        step = 64
        seeds = [range(s, min(s + step, first_seed + count)) for s in range(first_seed, first_seed + count, step)]
        parts = list(self._pool.map(label_drawings, seeds, [side] * len(seeds)))
        return LabelledDrawings(
            *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(LabelledDrawings))
        )

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def normalise(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Pixels (n, 3, h, w) as the vision encoder takes them."""
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    return np.asarray((pictures.astype(np.float32) / 255 - mean) / std, np.float32)
