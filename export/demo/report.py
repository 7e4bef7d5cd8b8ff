"""The accuracy tables of docs/demonstration-model.md and its pictures, from the demonstration's checkpoints.

`python -m skingpt_edge.export.demo.report DEMO_MODEL_FOLDER RESULTS_FOLDER`: exports every precision, asks all of
them and torch about the same held-out hard drawings, and the shipped one and torch about easy ones. Writes
`accuracy.json`, `accuracy-easy.json`, `accuracy.md`, `robustness.json`, `robustness.png` and `contact-sheet.jpg`; the
learning curve is copied beside them.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...engines.errors import ExportError, SkinGPTError
from ...runtime.bundle import read_bundle
from ...runtime.skingpt import SkinGPT
from ..compare_plot import check_plotter
from ..progress import step
from ..torch_engines import open_original
from .accuracy_tables import Rows, by_attribute, by_condition, by_precision, by_tone, smallest_difference
from .checkpoint import checkpoints_in
from .contact_sheet import contact_sheet
from .evaluate import evaluate, table
from .make_demo import SEED, export_demo
from .plots import plot_robustness
from .robustness import disturb
from .scenes import Kind

PICTURES = 500
DISTURBED = 100  # pictures at each level
SHIPPED = ("int8", "q8_0")
PRECISIONS = (
    ("f32", "f32"), ("f16", "f16"), SHIPPED, ("int8", "q4_k_m"), ("int8", "q4_0"), ("int8", "q3_k_m"),
    ("int8", "q2_k"), ("int8", "tq2_0"),
)  # fmt: skip
TOLD = ("int8 + q2_k", "int8 + tq2_0")
"""Rows of the tables by attribute, skin tone and condition, beside torch and the one that is shipped."""
TORCH = "torch float32"


def make_report(source: Path, target: Path) -> None:
    """Evaluate every precision of the demonstration model in `source`; write results and plots into `target`.

    `source` is what `skingpt-export demo-model` wrote, with the bundle that is shipped. Raises ExportError and what
    the stages raise.
    """
    check_plotter()
    for name in ("checkpoint", "bundle", "learning-curve.png", "curve.json"):
        if not (source / name).exists():
            raise ExportError(f"{source / name}: missing; `make demo-model` makes it")
    target.mkdir(parents=True, exist_ok=True)
    hard = _evaluate(source, {_name(pair): pair for pair in PRECISIONS}, "hard", target / "accuracy.json")
    easy = _evaluate(source, {_name(SHIPPED): SHIPPED}, "easy", target / "accuracy-easy.json")
    (target / "accuracy.md").write_text(markdown(hard, easy))
    contact_sheet().save(target / "contact-sheet.jpg", quality=85)
    with SkinGPT.open(source / "bundle") as model:
        robustness = disturb(model, DISTURBED, SEED)
    plot_robustness(robustness, target / "robustness.png")
    _write(target / "robustness.json", robustness.to_json())
    for name in ("learning-curve.png", "curve.json"):
        shutil.copyfile(source / name, target / name)


def _name(precision: tuple[str, str]) -> str:
    return " + ".join(precision)


def _evaluate(source: Path, precisions: Mapping[str, tuple[str, str]], kind: Kind, target: Path) -> dict[str, Any]:
    """Ask torch and each precision about the same drawings; the file is written after each."""
    rows: dict[str, Any] = {}
    for name in (TORCH, *precisions):
        step(name)
        opened = _original(source) if name == TORCH else SkinGPT.open(_bundle(source, *precisions[name]))
        with opened as model:
            found = evaluate(model, PICTURES, SEED, kind)
        step(table(found))
        rows[name] = found.to_json()
        _write(target, rows)
    return rows


def _bundle(source: Path, vision: str, llm_type: str) -> Path:
    if (vision, llm_type) == SHIPPED:
        return source / "bundle"
    target = source / "precisions" / f"{vision}-{llm_type}"
    # A limit that is missed is recorded in the bundle, and what it means for the words is what is counted here.
    export_demo(source / "checkpoint", target, vision, llm_type, force=True, accept_parity=True)
    return target


def _original(source: Path) -> SkinGPT:
    return open_original(checkpoints_in(source / "checkpoint"), read_bundle(source / "bundle"))


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n")


def markdown(hard: Rows, easy: Rows) -> str:
    """All tables, under headings."""
    few = {name: hard[name] for name in (TORCH, _name(SHIPPED), *TOLD)}
    least = f"{100 * smallest_difference(hard):.1f} points"
    return "\n".join((
        f"**{PICTURES} hard drawings**\n", by_precision(hard),
        f"Between two rows that say almost the same, {PICTURES} drawings can tell a difference of {least} from none.\n",
        "**By attribute**\n", by_attribute(few),
        "**By skin tone**: attributes / conditions right\n", by_tone(few),
        "**By condition**: attributes / conditions right\n", by_condition(few),
        f"**{PICTURES} easy drawings**\n", by_precision(easy),
    ))  # fmt: skip


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: python -m skingpt_edge.export.demo.report DEMO_MODEL_FOLDER RESULTS_FOLDER", file=sys.stderr)
        return 2
    try:
        make_report(Path(sys.argv[1]), Path(sys.argv[2]))
    except SkinGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
