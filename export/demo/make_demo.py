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
from ..compare_plot import check_plotter
from ..make import Choices, export_bundle, sample_pictures
from ..progress import bar, step
from . import train_language, train_vision
from .checkpoint import LLM, checkpoints_in, save_checkpoints
from .conditions import Findings
from .draw import GRID
from .evaluate import evaluate, table
from .labelled_drawings import NO_SKIN_SHARE, TRAINING_SEEDS, DrawingPool
from .plots import plot_curve
from .scenes import training_scene
from .train_language import ProjectedLlama, QueryOutputs
from .train_vision import CHUNK, PHASES, Phase, Point, VisionWithHeads, batches

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

    With `resume` a step whose weights are there is not done again, whatever code made them. Raises ExportError if
    the folder has content and `resume` is not given, ParityError if a limit is missed and `accept_parity` is not given.
    """
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise ExportError(f"{folder}: not empty; name a new folder, or go on with --resume")
    check_plotter()
    checkpoint = folder / "checkpoint"
    (checkpoint / LLM).mkdir(parents=True, exist_ok=True)
    with _reproducible(), _drawing_pool() as pool, _curve(folder, plan) as tell:
        vision = _kept(folder / "vision.pt", VisionWithHeads, lambda: _train_vision(pool, plan, tell))
        tokenizer = checkpoint / LLM / "tokenizer.model"
        if not tokenizer.exists():
            train_language.train_tokenizer(tokenizer)
        make = partial(ProjectedLlama, tokenizer)
        language = _kept(folder / "language.pt", make, lambda: _train_language(pool, vision, make(), plan, tell))
    save_checkpoints(checkpoint, vision.vision, language)
    manifest = export_demo(checkpoint, folder / "bundle", "int8", "q8_0", force=resume, accept_parity=accept_parity)
    with SkinGPT.open(folder / "bundle") as model:
        found = evaluate(model, plan.pictures, SEED)
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
def _reproducible() -> Iterator[None]:
    """The same sums in the same order every time, on the same kind of CPU."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)  # else threads add a gathered tensor's gradients in any order
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


@contextmanager
def _drawing_pool() -> Iterator[DrawingPool]:
    pool = DrawingPool(os.cpu_count() or 1)
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def _curve(folder: Path, plan: Plan) -> Iterator[Callable[[Point], None]]:
    """Hears of the learning curve's points, tells them, and keeps them as JSON and as a picture."""
    path = folder / "curve.json"
    points = json.loads(path.read_text()) if path.exists() else []
    order = [*(phase.name for phase in plan.phases), "language"]

    def tell(point: Point) -> None:
        # A step that is done again after an interruption replaces what it told before.
        now = (order.index(point.phase), point.pictures)
        points[:] = [old for old in points if (order.index(old["phase"]), old["pictures"]) < now]
        points.append(asdict(point))
        path.write_text(json.dumps(points) + "\n")
        seen = "  ".join(f"{name} {value:.1%}" for name, value in point.accuracy.items())
        step(f"{point.phase}: {point.pictures:,} pictures, {point.minutes:.1f} min, loss {point.loss:.3f}  {seen}")

    yield tell
    plot_curve(points, folder / "learning-curve.png")


def _train_vision(pool: DrawingPool, plan: Plan, tell: Callable[[Point], None]) -> VisionWithHeads:
    step("training ViT and Q-Former to see")
    return train_vision.train(pool, tell, plan.phases)


def _train_language(
    pool: DrawingPool, model: VisionWithHeads, language: ProjectedLlama, plan: Plan, tell: Callable[[Point], None]
) -> ProjectedLlama:
    seen = query_outputs(pool, model, plan.seen)
    step("training projection and Llama to speak")
    train_language.train(language, seen, tell, plan.steps)
    return language


def query_outputs(pool: DrawingPool, model: VisionWithHeads, count: int) -> QueryOutputs:
    """New drawings as the trained Q-Former sees them, in float32 as it will be exported."""
    outputs: list[torch.Tensor] = []
    findings: list[Findings | None] = []
    with torch.no_grad(), bar("looking at drawings", unit=" pictures") as move:
        for start in range(SEEN_SEEDS, SEEN_SEEDS + count, CHUNK):
            size = min(CHUNK, SEEN_SEEDS + count - start)
            findings += [training_scene(seed, no_skin=NO_SKIN_SHARE).findings for seed in range(start, start + size)]
            for batch in batches(pool.draw(start, size, GRID), 64):
                outputs.append(model.vision.query(model.vision.encode(batch.pixels))[0])
                move(sum(map(len, outputs)), count)
    return QueryOutputs(torch.cat(outputs), findings)
