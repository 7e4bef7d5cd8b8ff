"""The sample pictures of the package: eight conditions on four skin tones, and two pictures without skin.

`python -m skingpt_edge.export.demo.samples FOLDER` makes them again.
"""

import sys
from pathlib import Path

from .conditions import BY_NAME, Findings
from .draw import draw
from .scenes import Scene

SIDE = 560


def _lesions(seed: int, tone: str, condition: str, colour: str, *, layout: int = 0, border: int = 0) -> Scene:
    made_up = BY_NAME[condition]
    assert colour in made_up.colours
    count, size, arrangement = made_up.layouts[layout]
    borders = made_up.borders
    findings = Findings(count, size, colour, made_up.kind, made_up.surface, borders[border], arrangement, condition)
    return Scene(seed, tone, findings, light=0.0, blur=0.4, noise=2.5, hairs=3 if seed % 3 == 0 else 0)


SAMPLES = {
    "01-velora-light-skin": _lesions(11, "light", "velora", "red"),
    "02-brunella-olive-skin": _lesions(22, "olive", "brunella", "brown", layout=1),
    "03-cyanella-brown-skin": _lesions(33, "brown", "cyanella", "blue", layout=1),
    "04-albena-dark-skin": _lesions(44, "dark", "albena", "white"),
    "05-pustora-light-skin": _lesions(55, "light", "pustora", "red", layout=1),
    "06-fissarine-olive-skin": _lesions(66, "olive", "fissarine", "purple"),
    "07-mellira-brown-skin": _lesions(77, "brown", "mellira", "red"),
    "08-craterine-dark-skin": _lesions(88, "dark", "craterine", "red", layout=1),
    "09-tiles-no-skin": Scene(seed=6, tone="light", findings=None),
    "10-meadow-no-skin": Scene(seed=1, tone="light", findings=None),
}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in SAMPLES.items():
        draw(scene, SIDE).image.save(folder / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
