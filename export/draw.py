"""Drawn pictures of skin with a lesion, for trying things out: no photo of a person is in this repository.

`python -m skingpt_edge.export.draw FOLDER` makes the sample pictures of the package again.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

WIDTH, HEIGHT = 480, 360
Floats = npt.NDArray[np.float64]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Drawing:
    """What a picture shows; colours are RGB from 0 to 255."""

    name: str
    skin: Colour
    lesion: Colour
    centres: tuple[tuple[float, float], ...]
    """Of each lesion, as parts of width and height."""
    radius: float
    """In pixels."""
    ragged: float
    """0 is a circle."""
    scale: bool
    """Whether pale scale lies on it."""


SAMPLES = (
    Drawing("1-plaque-light-skin", (232, 196, 172), (196, 92, 84), ((0.5, 0.5),), 78, 0.18, True),
    Drawing("2-macule-olive-skin", (198, 152, 116), (112, 66, 44), ((0.46, 0.52),), 52, 0.08, False),
    Drawing(
        "3-papules-brown-skin",
        (142, 96, 68),
        (96, 40, 48),
        ((0.3, 0.35), (0.55, 0.3), (0.42, 0.6), (0.68, 0.58), (0.25, 0.72)),
        24,
        0.05,
        False,
    ),
    Drawing("4-patch-dark-skin", (92, 60, 44), (216, 190, 168), ((0.52, 0.48),), 88, 0.3, False),
)


def draw(drawing: Drawing, seed: int) -> Image.Image:
    """A picture of 480 × 360 pixels; the same seed gives the same picture."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    light = 1.08 - 0.25 * np.hypot(x / WIDTH - 0.4, y / HEIGHT - 0.35)
    texture = 1 + 0.05 * _noise(random, 40) + 0.04 * _noise(random, 6) + 0.02 * _noise(random, 2)
    picture = np.array(drawing.skin) * (light * texture)[..., None]
    for cx, cy in drawing.centres:
        inside = _blob(random, x - cx * WIDTH, y - cy * HEIGHT, drawing)
        tone = np.array(drawing.lesion) * (light * (1 + 0.08 * _noise(random, 9)))[..., None]
        picture += inside[..., None] * (tone - picture)
        if drawing.scale:
            flakes = np.clip(_noise(random, 5) - 0.6, 0, 1) * inside
            picture += flakes[..., None] * (np.array((244, 238, 230)) - picture)
    picture += random.normal(0, 2.5, picture.shape)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(0.7))


def _blob(random: np.random.Generator, x: Floats, y: Floats, drawing: Drawing) -> Floats:
    """1 inside an irregular round shape, 0 outside, soft at the border."""
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    edge = np.full_like(angle, drawing.radius)
    for wave in range(2, 9):
        edge += drawing.radius * drawing.ragged / wave * np.cos(wave * angle + random.uniform(0, 2 * np.pi))
    return np.asarray(1 / (1 + np.exp((distance - edge) / 3)))


def _noise(random: np.random.Generator, size: int) -> Floats:
    """Smooth noise of about -1 to 1 with features of `size` pixels."""
    grid = random.normal(size=(HEIGHT // size + 2, WIDTH // size + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float64)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for seed, drawing in enumerate(SAMPLES):
        draw(drawing, seed).save(folder / f"{drawing.name}.jpg", quality=88)


if __name__ == "__main__":
    main()
