"""Where the lesions of a drawing lie."""

import numpy as np

Point = tuple[float, float]


def place(
    random: np.random.Generator, frame: float, count: int, radius: float, margin: float, arrangement: str
) -> list[Point]:
    """Centres of `count` lesions in a square of `frame` to a side, `margin` or more from its edge."""
    while True:
        points = (
            _grouped(random, frame, count, radius, margin)
            if arrangement == "grouped"
            else _scattered(random, frame, count, radius, margin)
        )
        if points:
            return points


def _scattered(random: np.random.Generator, frame: float, count: int, radius: float, margin: float) -> list[Point]:
    """Far from each other."""
    apart = 0.0 if count == 1 else (3.4 if count == 6 else 3.2) * radius
    points: list[Point] = []
    for _ in range(60):
        x, y = random.uniform(margin, frame - margin, 2)
        if all(np.hypot(x - a, y - b) >= apart for a, b in points):
            points.append((float(x), float(y)))
            if len(points) == count:
                return points
    return []


REACH = {2: 1.15, 3: 1.3, 4: 1.6}  # of a ring, by its lesions; neighbours lie 2.3 of their radii apart


def _grouped(random: np.random.Generator, frame: float, count: int, radius: float, margin: float) -> list[Point]:
    """Side by side: a pair, a triangle, a square, or five around one."""
    start = random.uniform(0, 2 * np.pi)
    ring, reach = (count, REACH[count] * radius) if count in REACH else (count - 1, 2.15 * radius)
    angles = start + np.arange(ring) * 2 * np.pi / ring
    cx, cy = random.uniform(margin + reach, frame - margin - reach, 2)
    around = [(float(cx + reach * np.cos(a)), float(cy + reach * np.sin(a))) for a in angles]
    return around if ring == count else [(float(cx), float(cy)), *around]
