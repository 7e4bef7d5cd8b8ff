"""What is in a picture, at random: easy scenes, hard ones, and the mixture that is trained on."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .conditions import TONES, Findings, draw_findings

Kind = Literal["easy", "hard"]
EASY_SHARE = 5  # one training scene of so many is easy


@dataclass(frozen=True)
class Clutter:
    """What makes a hard scene hard, apart from its findings, light, blur, noise and hairs."""

    contrast: float = 1.0
    """Of the lesions' colour against the skin's."""
    cut: bool = False
    """Lesions may reach out of the frame."""
    lamp: float = 0.0
    """Mixed light: how warm one side is and how cold the other, as a part."""
    shadow: float = 0.0
    """A shadow over a part of the picture takes this part of the light."""
    moles: int = 0
    ruler: bool = False
    ink: bool = False
    """A mark drawn around a lesion."""
    cloth: bool = False


@dataclass(frozen=True)
class Scene:
    """Everything about a picture but its size in pixels."""

    seed: int
    tone: str
    findings: Findings | None
    """None: the picture shows no skin."""
    light: float = 0.0
    """Darker or brighter, as a part: -0.2 is 20 % darker."""
    blur: float = 0.0
    """Standard deviation of the lens's blur."""
    noise: float = 3.0
    """Standard deviation of the sensor's noise, of 255."""
    hairs: int = 0
    clutter: Clutter | None = None
    """None: an easy scene."""


def random_scene(seed: int, *, kind: Kind = "easy", no_skin: float = 0.0) -> Scene:
    """The scene of a seed; with probability `no_skin` it shows something else."""
    return _hard_scene(seed, no_skin) if kind == "hard" else _easy_scene(seed, no_skin)


def training_scene(seed: int, *, no_skin: float = 0.0) -> Scene:
    """A hard scene, or for every fifth seed an easy one."""
    return random_scene(seed, kind="hard" if seed % EASY_SHARE else "easy", no_skin=no_skin)


def _easy_scene(seed: int, no_skin: float) -> Scene:
    random = np.random.default_rng((seed, 1))
    return Scene(
        seed=seed,
        tone=str(random.choice(TONES)),
        findings=None if random.random() < no_skin else draw_findings(random),
        light=float(random.uniform(-0.15, 0.12)),
        blur=float(random.uniform(0.5, 1.2)) if random.random() < 0.5 else 0.0,
        noise=float(random.uniform(1, 6)),
        hairs=int(random.integers(1, 7)) if random.random() < 0.25 else 0,
    )


def _hard_scene(seed: int, no_skin: float) -> Scene:
    random = np.random.default_rng((seed, 4))
    return Scene(
        seed=seed,
        tone=str(random.choice(TONES)),
        findings=None if random.random() < no_skin else draw_findings(random, hard=True),
        light=float(random.uniform(-0.25, 0.15)),
        blur=float(random.uniform(0.5, 1.2)) if random.random() < 0.6 else 0.0,
        noise=float(random.uniform(2, 8)),
        hairs=int(random.integers(2, 13)) if random.random() < 0.4 else 0,
        clutter=Clutter(
            contrast=float(random.uniform(0.65, 1.0)),
            cut=bool(random.random() < 0.5),
            lamp=float(random.uniform(0, 0.12)),
            shadow=float(random.uniform(0.1, 0.35)) if random.random() < 0.4 else 0.0,
            moles=int(random.integers(1, 9)) if random.random() < 0.4 else 0,
            ruler=bool(random.random() < 0.2),
            ink=bool(random.random() < 0.2),
            cloth=bool(random.random() < 0.3),
        ),
    )


def without_nuisance(scene: Scene) -> Scene:
    """The same easy scene in even light, sharp and without noise or hair."""
    return replace(scene, light=0.0, blur=0.0, noise=1.0, hairs=0)
