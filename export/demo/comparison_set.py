"""Drawings for `skingpt-export compare`: some with their answers, to calibrate with, and others to compare on.

`python -m skingpt_edge.export.demo.comparison_set FOLDER` writes `FOLDER/calibrate` and `FOLDER/pictures`.
"""

import sys
from pathlib import Path

import numpy as np

from .answers import PROTOCOL, answer
from .draw import draw
from .evaluate import held_out_seeds
from .make_demo import SEEN_SEEDS
from .scenes import random_scene, training_scene

CALIBRATED = 64
COMPARED = 48
SEED = 1  # of the held-out drawings; answers about those of seed 0 are counted


def write_calibration_set(folder: Path, pictures: int = CALIBRATED) -> None:
    """Write `NUMBER.png`, drawings the model was trained on, and `NUMBER.txt`: a paragraph for each question."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(pictures):
        scene = training_scene(SEEN_SEEDS + number)
        draw(scene).image.save(folder / f"{number:03}.png")
        answers = [answer(topic, scene.findings, random) for topic in range(PROTOCOL)]
        (folder / f"{number:03}.txt").write_text("\n\n".join(answers) + "\n")


def write_held_out_pictures(folder: Path, pictures: int = COMPARED) -> None:
    """Write `NUMBER.png`: hard drawings that the model has not seen."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in held_out_seeds(SEED, pictures):
        draw(random_scene(number, kind="hard")).image.save(folder / f"{number}.png")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_calibration_set(target / "calibrate")
    write_held_out_pictures(target / "pictures")
