"""How the score falls when a picture is turned, darkened, blurred or small, as in the paper's supplement."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from PIL import Image

from ...engines.errors import InputError
from ...runtime.skingpt import SkinGPT
from ..progress import bar
from ..share import Share
from .draw import FRAME, RADIUS, draw
from .evaluate import ask, held_out_seeds, identity
from .scenes import Scene, random_scene, without_nuisance
from .score import Case, score

SCHEMA = "skingpt-robustness/1"
Show = Callable[[Scene, float], Image.Image]


@dataclass(frozen=True)
class Disturbance:
    """A way to make pictures harder, and how far it is taken."""

    unit: str
    levels: tuple[float, ...]
    show: Show


def _turned(scene: Scene, degrees: float) -> Image.Image:
    image = draw(scene).image
    skin = tuple(int(v) for v in np.median(np.asarray(image).reshape(-1, 3), axis=0))
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=skin)


def _small(scene: Scene, side: float) -> Image.Image:
    picture = draw(scene, max(FRAME, int(side))).image
    return picture.resize((int(side), int(side)), Image.Resampling.LANCZOS)


DISTURBANCES: Mapping[str, Disturbance] = {
    "rotation": Disturbance("degrees", (0, 15, 30, 45, 90, 135, 180), _turned),
    "light": Disturbance(
        "percent darker or brighter",
        (-70, -50, -30, -15, 0, 15, 30, 50),
        lambda scene, percent: draw(replace(scene, light=percent / 100)).image,
    ),
    "blur": Disturbance(
        "standard deviation in pixels of 224",
        (0, 1, 2, 3, 4, 6),
        lambda scene, pixels: draw(replace(scene, blur=pixels)).image,
    ),
    "resolution": Disturbance("pixels to a side", (28, 40, 56, 80, 112, 160, 224, 448), _small),
}

Sweeps = dict[str, dict[float, dict[str, Share]]]
"""Scores by disturbance and level."""


@dataclass(frozen=True)
class Robustness:
    """What was asked and what came of it."""

    bundle: dict[str, str]
    notice: str
    engines: dict[str, dict[str, str | int]]
    pictures: int
    seed: int
    sweeps: Sweeps

    def to_json(self) -> dict[str, Any]:
        """The counts by disturbance and level."""
        sweeps = {
            name: [
                {"level": level, **{what: asdict(scores[what]) for what in ("attributes", "condition")}}
                for level, scores in levels.items()
            ]
            for name, levels in self.sweeps.items()
        }
        return {**{field.name: getattr(self, field.name) for field in fields(self)}, "schema": SCHEMA, "sweeps": sweeps}


def choose_scenes(pictures: int, seed: int) -> list[Scene]:
    """The first held-out scenes of a seed whose lesions stay in the frame, without nuisance. Raises InputError."""
    held_out_seeds(seed, pictures)
    scenes: list[Scene] = []
    for number in held_out_seeds(seed):
        scene = without_nuisance(random_scene(number))
        if inner(scene):
            scenes.append(scene)
        if len(scenes) == pictures:
            return scenes
    raise InputError(f"pictures is {pictures}, but a seed has only {len(scenes)} that can be turned")


def inner(scene: Scene) -> bool:
    """Whether all lesions stay inside the frame when it is turned."""
    assert scene.findings
    reach = FRAME / 2 - 1.2 * RADIUS[scene.findings.size][1]
    return all(np.hypot(x - FRAME / 2, y - FRAME / 2) <= reach for x, y in draw(scene).centres)


def disturb(model: SkinGPT, pictures: int, seed: int) -> Robustness:
    """Scores of the same `pictures` clean drawings under every disturbance and level. Raises InputError."""
    scenes = choose_scenes(pictures, seed)
    total = pictures * sum(len(disturbance.levels) for disturbance in DISTURBANCES.values())
    done = 0
    sweeps: Sweeps = {}
    with bar("asking about disturbed drawings", unit=" pictures") as move:
        for name, disturbance in DISTURBANCES.items():
            sweeps[name] = {}
            for level in disturbance.levels:
                cases = []
                for scene in scenes:
                    assert scene.findings
                    cases.append(Case(scene.tone, scene.findings, ask(model, disturbance.show(scene, level))))
                    done += 1
                    move(done, total)
                sweeps[name][level] = score(cases)
    return Robustness(*identity(model), pictures, seed, sweeps)
