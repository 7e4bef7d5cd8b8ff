"""Draws what lies beside and over the skin of a hard scene, and the light of several lamps.

A function gives what it covers, (size, size) from 0 to 1, and the colour there, (size, size, 3) or (3,). `x` (1, size)
and `y` (size, 1) are the pixels' positions, from 0 to `frame`.
"""

from collections.abc import Callable

import numpy as np

from ...engines.base import Array

Layer = tuple[Array, Array]
Draw = Callable[[np.random.Generator, Array, Array, float, float], Layer]


def _across(random: np.random.Generator, x: Array, y: Array, frame: float) -> tuple[Array, Array]:
    """How far a pixel lies from the middle towards one of the four sides, and along that side; a little tilted."""
    angle = np.float32(random.integers(4) * np.pi / 2 + random.uniform(-0.3, 0.3))
    dx, dy = x - np.float32(frame / 2), y - np.float32(frame / 2)
    return dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)


def _step(distance: Array, width: float = 1.0) -> Array:
    """1 where the distance is positive, 0 where it is negative, with an edge of this width."""
    return np.asarray(1 / (1 + np.exp(np.clip(-distance / np.float32(width), -30, 30))), np.float32)


def cloth(random: np.random.Generator, x: Array, y: Array, frame: float, depth: float) -> Layer:
    """A woven cloth over one side of the picture, `depth` wide."""
    side, along = _across(random, x, y, frame)
    colour = random.uniform(40, 220, 3).astype(np.float32)
    period = np.float32(random.uniform(3, 7))
    weave = np.sin(side * np.float32(2 * np.pi) / period) * np.sin(along * np.float32(2 * np.pi) / period)
    edge = side - np.float32(frame / 2 - depth)
    shade = 1 - np.float32(0.35) * np.exp(-(np.clip(edge, 0, None) ** 2) / np.float32(18))
    return _step(edge), (1 + np.float32(0.16) * weave)[..., None] * shade[..., None] * colour


def ruler(random: np.random.Generator, x: Array, y: Array, frame: float, depth: float) -> Layer:
    """A white scale with black ticks, that begins `depth` from one side of the picture."""
    side, along = _across(random, x, y, frame)
    from_edge = side - np.float32(frame / 2 - depth)
    width = random.uniform(16, 24)
    cover = _step(from_edge) * _step(np.float32(width) - from_edge)
    short = (along % np.float32(5) < 1.2) & (from_edge < 5)
    long = (along % np.float32(25) < 1.2) & (from_edge < 9)
    ink = (short | long).astype(np.float32)[..., None]
    white = np.array((236, 236, 230), np.float32)
    return cover, white + ink * (np.array((24, 24, 26), np.float32) - white)


def ink(random: np.random.Generator, x: Array, y: Array, centre: tuple[float, float], radius: float) -> Layer:
    """A pen's ring around a lesion, not always closed."""
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    distance, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    ring = np.float32(1.4 * radius + random.uniform(4, 9)) + np.float32(2) * np.cos(
        2 * angle + np.float32(random.uniform(0, 6))
    )
    line = _step(np.float32(random.uniform(1.0, 1.8)) - np.abs(distance - ring), 0.4)
    turned = (angle + np.float32(random.uniform(0, 2 * np.pi))) % np.float32(2 * np.pi)
    drawn = turned < np.float32(random.uniform(0.6, 1.05) * 2 * np.pi)
    colour = np.array(((62, 40, 150), (30, 30, 36), (24, 90, 60))[random.integers(3)], np.float32)
    return line * drawn * np.float32(0.75), colour


def mole(random: np.random.Generator, x: Array, y: Array, frame: float, skin: Array) -> Layer:
    """A dark spot, smaller than any lesion."""
    centre, radius = random.uniform(4, frame - 4, 2), random.uniform(1.6, 3.4)
    distance = np.hypot(x - np.float32(centre[0]), y - np.float32(centre[1]))
    return _step(np.float32(radius) - distance, 0.6) * np.float32(0.85), skin * np.float32(random.uniform(0.35, 0.6))


def lamps(random: np.random.Generator, x: Array, y: Array, frame: float, strength: float) -> Array:
    """Factors (size, size, 3): warm light from one side, cold light from the other."""
    side, _ = _across(random, x, y, frame)
    warm = np.array((1.0, 0.1, -1.2), np.float32)
    return np.asarray(1 + np.float32(strength) * (side / np.float32(frame / 2))[..., None] * warm, np.float32)


def shadow(random: np.random.Generator, x: Array, y: Array, frame: float, strength: float) -> Array:
    """Factors (size, size, 1): less light beyond a soft line across the picture."""
    side, _ = _across(random, x, y, frame)
    beyond = _step(side - np.float32(random.uniform(-0.25, 0.3) * frame), float(random.uniform(3, 10)))
    return np.asarray(1 - np.float32(strength) * beyond[..., None], np.float32)
