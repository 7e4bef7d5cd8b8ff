"""The README's accuracy table and the plots, from the demonstration's checkpoints.

`python -m skingpt_edge.export.demo.report DEMO_MODEL_FOLDER RESULTS_FOLDER`: exports every precision, asks all of
them and torch about the same held-out drawings, and writes `accuracy.json` and `accuracy.md`.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.bundle import read_bundle
from ...runtime.skingpt import SkinGPT
from ..progress import step
from ..torch_engines import open_original
from .checkpoint import checkpoints_in
from .conditions import TONES
from .evaluate import evaluate, table
from .make_demo import SEED, export_demo
from .plots import plot_robustness
from .robustness import disturb
from .robustness import to_json as robustness_json
from .score import Share

PICTURES = 500
DISTURBED = 100  # pictures at each level
SHIPPED = ("int8", "q8_0")
PRECISIONS = (("f32", "f32"), ("f16", "f16"), SHIPPED, ("int8", "q4_k_m"))
TORCH = "torch float32"


def make_report(source: Path, target: Path) -> None:
    """Evaluate every precision of the checkpoints in `source`; write results and plots into `target`."""
    target.mkdir(parents=True, exist_ok=True)
    bundles = {}
    for vision, llm_type in PRECISIONS:
        name = f"{vision} + {llm_type}"
        bundles[name] = source / "precisions" / f"{vision}-{llm_type}"
        if not bundles[name].exists():
            export_demo(source / "checkpoint", bundles[name], vision, llm_type)
    shipped = bundles[" + ".join(SHIPPED)]
    rows: dict[str, Any] = {}
    for name in (TORCH, *bundles):
        step(name)
        if name == TORCH:
            model = open_original(checkpoints_in(source / "checkpoint"), read_bundle(shipped))
        else:
            model = SkinGPT.open(bundles[name])
        found = evaluate(model, PICTURES, SEED)
        step(table(found))
        rows[name] = found.to_json()
        (target / "accuracy.json").write_text(json.dumps(rows, indent=1) + "\n")
    (target / "accuracy.md").write_text(markdown(rows))
    sweeps = disturb(SkinGPT.open(shipped), DISTURBED, SEED)
    plot_robustness(sweeps, target / "robustness.png")
    (target / "robustness.json").write_text(robustness_json(sweeps, DISTURBED, SEED))
    for name in ("learning-curve.png", "curve.json"):
        shutil.copyfile(source / name, target / name)


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
        cells = [name, *map(_cell, scores.values()), _pair(lowest), _pair(mixed)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(share: Share) -> str:
    low, high = share.interval
    return f"{share.part:.1%} ({low:.1%}–{high:.1%})"


def _pair(parts: Sequence[float]) -> str:
    return " / ".join(f"{part:.1%}" for part in parts)


if __name__ == "__main__":
    make_report(Path(sys.argv[1]), Path(sys.argv[2]))
