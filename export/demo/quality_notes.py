"""How often the runtime's notes on quality appear, on usual drawings and on disturbed ones.

python -m skingpt_edge.export.demo.quality_notes [--bundle BUNDLE] [--pictures N]

Prints the Markdown tables of docs/photos.md. Beside each level of a disturbance stands the accuracy that
`skingpt-export robustness` measured (benchmarks/results/demo/robustness.json), and for long pictures, which are not
among its disturbances, the accuracy of the bundle's answers measured anew.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ...runtime.image import resize
from ...runtime.image_notes import SIDE, quality_notes
from ...runtime.skingpt import SkinGPT
from .conditions import TONES
from .draw import draw
from .evaluate import ask, held_out_seeds
from .robustness import DISTURBANCES, choose_scenes
from .scenes import Scene, random_scene
from .score import Case, score

LENGTHS = (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4)
NOTED = {"light": ("dark", "bright"), "blur": ("blurred",), "resolution": ("small", "blurred")}


def codes(image: Image.Image) -> list[str]:
    """The notes on a picture."""
    return [note.code for note in quality_notes(image.size, resize(image, SIDE))]


def lengthened(scene: Scene, length: float) -> Image.Image:
    """A photo `length` times as long as high, with the drawing in its middle and skin beside it."""
    image = draw(scene).image
    skin = tuple(int(v) for v in np.median(np.asarray(image).reshape(-1, 3), axis=0))
    wide = Image.new("RGB", (round(image.width * length), image.height), skin)
    wide.paste(image, ((wide.width - image.width) // 2, 0))
    return wide


def usual(pictures: int) -> Iterable[str]:
    """Rows: how many held-out drawings get each note, by skin tone."""
    found: dict[str, Counter[str]] = {tone: Counter() for tone in TONES}
    for number in held_out_seeds(0, pictures):
        scene = random_scene(number)
        found[scene.tone].update(["drawings", *codes(draw(scene).image)])
    for tone, counts in found.items():
        noted = ", ".join(f"{code} {n}" for code, n in counts.items() if code != "drawings")
        yield f"| {tone} | {counts['drawings']} | {noted or 'none'} |"


def disturbed(pictures: int, measured: dict[str, list[dict[str, object]]]) -> Iterable[str]:
    """Rows: the part of the drawings that gets each note, at each level of the disturbances that have one."""
    scenes = choose_scenes(pictures, 0)
    for name, noted in NOTED.items():
        for row in measured[name]:
            level = float(str(row["level"]))
            counts = Counter(code for scene in scenes for code in codes(DISTURBANCES[name].show(scene, level)))
            shares = ", ".join(f"{code} {counts[code] / pictures:.0%}" for code in noted)
            yield f"| {name} {level:g} | {_right(row['attributes'])} | {_right(row['condition'])} | {shares} |"


def _right(share: object) -> str:
    assert isinstance(share, dict)
    return f"{share['right'] / share['of']:.0%}"


def long_ones(model: SkinGPT, pictures: int) -> Iterable[str]:
    """Rows: accuracy and notes for photos that are longer than wide."""
    scenes = [(scene, scene.findings) for scene in choose_scenes(pictures, 0)]
    for length in LENGTHS:
        shown = [(scene.tone, findings, lengthened(scene, length)) for scene, findings in scenes if findings]
        scores = score([Case(tone, findings, ask(model, image)) for tone, findings, image in shown])
        thin = sum("thin" in codes(image) for *_, image in shown) / len(shown)
        right = [f"{scores[what].right / scores[what].of:.0%}" for what in ("attributes", "condition")]
        yield f"| {length:g} times as long | {' | '.join(right)} | thin {thin:.0%} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--measured", type=Path, default=Path("benchmarks/results/demo/robustness.json"))
    given = parser.parse_args()
    print("| skin | drawings | with a note |\n| --- | ---: | --- |")
    print("\n".join(usual(given.pictures * 4)))
    print("\n| | attributes right | conditions right | with the note |\n| --- | ---: | ---: | --- |")
    print("\n".join(disturbed(given.pictures, json.loads(given.measured.read_text())["sweeps"])))
    with SkinGPT.open(given.bundle) as model:
        print("\n".join(long_ones(model, given.pictures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
