"""Drawings with their answers, to calibrate the demonstration model with: some that it was trained on.

`python -m skingpt_edge.export.demo.calibration_set FOLDER`, then `skingpt-export … --calibrate FOLDER`.
"""

import sys
from pathlib import Path

import numpy as np

from .answers import PROTOCOL, answer
from .draw import draw
from .make_demo import SEEN_SEEDS
from .scenes import training_scene

PICTURES = 64


def write_calibration_set(folder: Path, pictures: int = PICTURES) -> None:
    """Write `NUMBER.png` and `NUMBER.txt`, whose paragraphs answer the report's questions."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(pictures):
        scene = training_scene(SEEN_SEEDS + number)
        draw(scene).image.save(folder / f"{number:03}.png")
        answers = [answer(topic, scene.findings, random) for topic in range(PROTOCOL)]
        (folder / f"{number:03}.txt").write_text("\n\n".join(answers) + "\n")


if __name__ == "__main__":
    write_calibration_set(Path(sys.argv[1]))
