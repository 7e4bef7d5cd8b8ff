"""The accuracy table of docs/demonstration-model.md and its plots, from the demonstration's checkpoints.

`python -m skingpt_edge.export.demo.report DEMO_MODEL_FOLDER RESULTS_FOLDER`: exports every precision, asks all of
them and torch about the same held-out drawings, and writes `accuracy.json`, `accuracy.md`, `robustness.json` and
`robustness.png`; the learning curve is copied beside them.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...engines.errors import ExportError, SkinGPTError
from ...runtime.bundle import read_bundle
from ...runtime.skingpt import SkinGPT
from ..compare_plot import check_plotter
from ..progress import step
from ..share import Share
from ..torch_engines import open_original
from .checkpoint import checkpoints_in
from .conditions import TONES
from .evaluate import evaluate, table
from .make_demo import SEED, export_demo
from .plots import plot_robustness
from .robustness import disturb

PICTURES = 500
DISTURBED = 100  # pictures at each level
SHIPPED = ("int8", "q8_0")
PRECISIONS = (("f32", "f32"), ("f16", "f16"), SHIPPED, ("int8", "q4_k_m"))
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
    bundles = {f"{vision} + {llm_type}": _bundle(source, vision, llm_type) for vision, llm_type in PRECISIONS}
    rows: dict[str, Any] = {}
    for name in (TORCH, *bundles):
        step(name)
        opened = _original(source) if name == TORCH else SkinGPT.open(bundles[name])
        with opened as model:
            found = evaluate(model, PICTURES, SEED)
        step(table(found))
        rows[name] = found.to_json()
        _write(target / "accuracy.json", rows)
    (target / "accuracy.md").write_text(markdown(rows))
    with SkinGPT.open(source / "bundle") as model:
        robustness = disturb(model, DISTURBED, SEED)
    plot_robustness(robustness, target / "robustness.png")
    _write(target / "robustness.json", robustness.to_json())
    for name in ("learning-curve.png", "curve.json"):
        shutil.copyfile(source / name, target / name)


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


def markdown(rows: Mapping[str, Any]) -> str:
    """A table of the attributes and conditions right by precision, and the lowest of the skin tones."""
    lines = [
        "| | attributes right | conditions right | by skin tone, lowest | answers shuffled |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        scores = {what: Share(**row["scores"][what]) for what in ("attributes", "condition")}
        tones = [row["by_tone"][tone] for tone in TONES]
        lowest = [min(Share(**tone[what]).part for tone in tones) for what in scores]
        mixed = [Share(**row["shuffled"][what]).part for what in scores]
        cells = [name, *(share.cell for share in scores.values()), _pair(lowest), _pair(mixed)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _pair(parts: Sequence[float]) -> str:
    return " / ".join(f"{part:.1%}" for part in parts)


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
