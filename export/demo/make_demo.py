"""Make the demonstration model from nothing: draw, train, save as the original's checkpoints, export, evaluate.

Every step leaves its result in the folder, so that `--resume` goes on after an interruption.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from ...engines.errors import ExportError
from ...runtime.manifest import Manifest
from ...runtime.skingpt import SkinGPT
from ..make import Choices, export_bundle, sample_pictures
from ..progress import bar, step
from . import train_language, train_vision
from .checkpoint import LLM, checkpoints_in, save_checkpoints
from .conditions import Findings
from .draw import GRID, random_scene
from .evaluate import evaluate, table
from .lesson import NO_SKIN_SHARE, TRAINING_SEEDS, Studio
from .plots import plot_curve
from .train_language import Seen, Speaker
from .train_vision import CHUNK, PHASES, Phase, Point, Pupil, batches

Model = TypeVar("Model", bound=torch.nn.Module)
SEED = 0
THREADS = 2  # more would sum in another order, and train another model
SEEN_SEEDS = TRAINING_SEEDS + (1 << 30)  # none the vision chain was trained on
NAME = "SkinGPT Edge demonstration (drawn pictures)"
NOTICE = (
    "Demonstration on drawn pictures with made-up conditions. Not for diagnosis: it knows nothing of real skin; have "
    "any skin condition examined by a doctor."
)


@dataclass(frozen=True)
class Plan:
    """How much is drawn, learned and asked."""

    phases: tuple[Phase, ...] = PHASES
    seen: int = 16_384
    """Drawings that the language model is trained on."""
    steps: int = train_language.STEPS
    pictures: int = 500
    """Held-out drawings that the bundle is asked about."""


def make_demo_model(
    folder: Path, *, resume: bool = False, plan: Plan = Plan(), accept_parity: bool = False
) -> Manifest:
    """Train and export into `folder`: `checkpoint/`, `bundle/`, `curve.json`, `learning-curve.png`, `accuracy.json`.

    Raises ExportError if the folder has content and `resume` is not given.
    """
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise ExportError(f"{folder}: not empty; name a new folder, or go on with --resume")
    checkpoint = folder / "checkpoint"
    (checkpoint / LLM).mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)  # else threads add a gathered tensor's gradients in any order
    with _studio() as studio, _curve(folder) as tell:
        vision = _kept(folder / "vision.pt", Pupil, lambda: _train_vision(studio, plan, tell))
        tokenizer = checkpoint / LLM / "tokenizer.model"
        if not tokenizer.exists():
            train_language.train_tokenizer(tokenizer)
        make = partial(Speaker, tokenizer)
        speaker = _kept(folder / "language.pt", make, lambda: _train_language(studio, vision, make(), plan, tell))
    save_checkpoints(checkpoint, vision.vision, speaker)
    manifest = export_demo(checkpoint, folder / "bundle", "int8", "q8_0", force=resume, accept_parity=accept_parity)
    found = evaluate(SkinGPT.open(folder / "bundle"), plan.pictures, SEED)
    (folder / "accuracy.json").write_text(json.dumps(found.to_json(), indent=1) + "\n")
    step(table(found))
    return manifest


def export_demo(
    checkpoint: Path, target: Path, vision: str, llm_type: str, *, force: bool = False, accept_parity: bool = False
) -> Manifest:
    """Export the demonstration's checkpoints as anybody's are, under its own name and notice."""
    choices = Choices(vision, llm_type, NAME, force=force, accept_parity=accept_parity, notice=NOTICE)
    return export_bundle(checkpoints_in(checkpoint), target, choices, sample_pictures()[:3])


def _kept(path: Path, empty: Callable[[], Model], train: Callable[[], Model]) -> Model:
    """The model whose weights are in `path`; trained first if they are not there yet."""
    if path.exists():
        step(f"{path.name}: kept from an earlier run")
        model = empty()
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    torch.manual_seed(SEED)
    model = train()
    temporary = path.with_suffix(".partial")
    torch.save(model.state_dict(), temporary)
    temporary.replace(path)
    return model.eval()


@contextmanager
def _studio() -> Iterator[Studio]:
    studio = Studio(os.cpu_count() or 1)
    try:
        yield studio
    finally:
        studio.close()


@contextmanager
def _curve(folder: Path) -> Iterator[Callable[[Point], None]]:
    """Hears of the learning curve's points, tells them, and keeps them as JSON and as a picture."""
    path = folder / "curve.json"
    points = json.loads(path.read_text()) if path.exists() else []

    def tell(point: Point) -> None:
        points.append(asdict(point))
        path.write_text(json.dumps(points) + "\n")
        seen = "  ".join(f"{name} {value:.1%}" for name, value in point.accuracy.items())
        step(f"{point.phase}: {point.pictures:,} pictures, {point.minutes:.1f} min, loss {point.loss:.3f}  {seen}")

    yield tell
    plot_curve(points, folder / "learning-curve.png")


def _train_vision(studio: Studio, plan: Plan, tell: Callable[[Point], None]) -> Pupil:
    step("training ViT and Q-Former to see")
    return train_vision.train(studio, tell, plan.phases)


def _train_language(
    studio: Studio, pupil: Pupil, speaker: Speaker, plan: Plan, tell: Callable[[Point], None]
) -> Speaker:
    seen = look(studio, pupil, plan.seen)
    step("training projection and Llama to speak")
    train_language.train(speaker, seen, tell, plan.steps)
    return speaker


def look(studio: Studio, pupil: Pupil, count: int) -> Seen:
    """New drawings as the trained Q-Former sees them, in float32 as it will be exported."""
    outputs: list[torch.Tensor] = []
    findings: list[Findings | None] = []
    with torch.no_grad(), bar("looking at drawings", unit=" pictures") as move:
        for start in range(SEEN_SEEDS, SEEN_SEEDS + count, CHUNK):
            size = min(CHUNK, SEEN_SEEDS + count - start)
            findings += [random_scene(seed, no_skin=NO_SKIN_SHARE).findings for seed in range(start, start + size)]
            for batch in batches(studio.lesson(start, size, GRID), 64):
                outputs.append(pupil.vision.query(pupil.vision.encode(batch.pixels))[0])
                move(sum(map(len, outputs)), count)
    return Seen(torch.cat(outputs), findings)
