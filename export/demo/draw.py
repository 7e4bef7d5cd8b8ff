"""Draws pictures of skin with lesions, and of things that are no skin. No photo of a person is involved.

Lengths are given for a picture of 224 × 224 and scaled to the size that is drawn.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from ...engines.base import Array
from . import clutter
from .conditions import Findings
from .places import place
from .scenes import Clutter, Scene

FRAME = 224
GRID = 16  # patches to a side
RGB = tuple[int, int, int]

SKIN: dict[str, RGB] = {
    "light": (232, 190, 166),
    "olive": (198, 150, 112),
    "brown": (146, 98, 70),
    "dark": (92, 60, 46),
}
COLOUR: dict[str, RGB] = {
    "red": (205, 52, 50), "brown": (96, 54, 30), "white": (252, 248, 240),
    "yellow": (238, 196, 48), "purple": (128, 44, 140), "blue": (58, 92, 178),
}  # fmt: skip
RADIUS = {"small": (14.0, 16.5), "medium": (25.0, 29.0), "large": (48.0, 58.0)}
HARD_RADIUS = {"small": (10.5, 15.5), "medium": (20.0, 27.0), "large": (38.0, 56.0)}
SHOWN = 0.6  # the part of every lesion that is not cut or hidden
DEPTHS = (1.0, 0.7, 0.4)  # of what lies over a side, as parts of the depth wished for
SOFTNESS, HARD_SOFTNESS = 0.2, 0.26  # of a blurred border, as a part of the radius
PIT = 0.58  # an ulcer's, as a part of its radius
NUMBER = {"one": 1, "two": 2, "three": 3, "four": 4, "many": 6}


@dataclass(frozen=True)
class Drawing:
    image: Image.Image
    coverage: Array
    """The part of each patch that is lesion, (GRID, GRID)."""
    centres: tuple[tuple[float, float], ...]
    """Of the lesions, x and y."""


def draw(scene: Scene, size: int = FRAME) -> Drawing:
    """A picture of size × size pixels; the same scene and size give the same picture.

    Raises ValueError if size is not a multiple of GRID.
    """
    if size % GRID:
        raise ValueError(f"size is {size}, expected a multiple of {GRID}")
    random = np.random.default_rng((scene.seed, 2))
    canvas = Canvas(random, size)
    if scene.findings is None:
        canvas.draw_no_skin()
    else:
        canvas.draw_skin(scene.tone)
        canvas.draw_lesions(scene.findings, scene.tone, scene.clutter)
        canvas.draw_hairs(scene.hairs)
        if scene.clutter:
            canvas.draw_clutter(scene.clutter, scene.tone)
    return Drawing(canvas.develop(scene), canvas.patch_coverage(), tuple(canvas.centres))


class Canvas:
    """A picture being drawn: RGB float32 (size, size, 3) from 0 to 255, and where lesions cover it."""

    def __init__(self, random: np.random.Generator, size: int) -> None:
        self.random = random
        self.size = size
        self.scale = size / FRAME
        centres = (np.arange(size, dtype=np.float32) + 0.5) / np.float32(self.scale)
        self.x, self.y = centres[None, :], centres[:, None]
        self.rgb = np.zeros((size, size, 3), np.float32)
        self.covered = np.zeros((size, size), np.float32)
        self.centres: list[tuple[float, float]] = []
        self.radius = 0.0
        """Of the lesions, about."""
        self.softness = SOFTNESS
        self.hidden = np.zeros((size, size), np.float32)
        self.light_angle = float(random.normal(-2.2, 0.5))  # from the upper left, mostly

    def draw_skin(self, tone: str) -> None:
        """Skin all over, with texture and uneven light."""
        random = self.random
        colour = np.array(SKIN[tone], np.float32) * random.uniform(0.96, 1.04, 3).astype(np.float32)
        slope = random.uniform(-0.12, 0.12, 2) / FRAME
        light = 1 + (self.x - FRAME / 2) * np.float32(slope[0]) + (self.y - FRAME / 2) * np.float32(slope[1])
        texture = light * (1 + 0.035 * self.noise("coarse") + 0.03 * self.noise("fine"))
        self.rgb[:] = texture[..., None] * colour

    def draw_lesions(self, findings: Findings, tone: str, hard: Clutter | None) -> None:
        """All lesions, each with a shape of its own."""
        random = self.random
        self.radius = radius = float(random.uniform(*(HARD_RADIUS if hard else RADIUS)[findings.size]))
        colour = lesion_colour(findings.colour, tone) * random.uniform(0.94, 1.06, 3).astype(np.float32)
        margin = radius * (1.25 if findings.border == "irregular" else 1.1) + 3
        if hard:
            skin = np.array(SKIN[tone], np.float32)
            colour = skin + np.float32(hard.contrast) * (colour - skin)
            margin = 0.5 * radius if hard.cut else margin
            self.softness = HARD_SOFTNESS
        self.centres = place(random, FRAME, NUMBER[findings.count], radius, margin, findings.arrangement)
        for centre in self.centres:
            self.draw_lesion(findings, centre, radius * random.uniform(0.94, 1.06), colour)

    def draw_lesion(self, findings: Findings, centre: tuple[float, float], radius: float, colour: Array) -> None:
        """One lesion, drawn within a window around it."""
        reach = radius * 1.6 + 4
        rows, columns = (self._span(c, reach) for c in (centre[1], centre[0]))
        dx, dy = self.x[:, columns] - np.float32(centre[0]), self.y[rows] - np.float32(centre[1])
        shape = Shape(self.random, dx, dy, radius, findings.border, self.softness)
        window = self.rgb[rows, columns]
        grain = self.noise("coarse")[rows, columns]
        tone = colour * (1 + 0.06 * grain)[..., None]
        inside = shape.inside[..., None]
        window += inside * (tone - window)
        RELIEF[findings.kind](window, shape, self.light_angle)
        if findings.surface != "smooth":
            free = shape.relative > PIT if findings.kind == "ulcer" else np.ones_like(shape.relative, bool)
            SURFACE[findings.surface](window, shape, free, self, (rows, columns))
        covered = self.covered[rows, columns]
        np.maximum(covered, shape.inside, out=covered)

    def draw_hairs(self, count: int) -> None:
        """Thin dark curves across everything."""
        if not count:
            return
        layer = Image.new("L", (self.size, self.size))
        pen = ImageDraw.Draw(layer)
        for _ in range(count):
            start, bend, end = self.random.uniform(-20, FRAME + 20, (3, 2))
            t = np.linspace(0, 1, 24)[:, None]
            curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * (start + end + 0.3 * bend) / 2.3 + t**2 * end
            pen.line([tuple(p) for p in curve * self.scale], fill=255, width=max(1, round(self.scale)))
        cover = np.asarray(layer, np.float32)[..., None] * np.float32(0.75 / 255)
        self.rgb += cover * (np.array((38, 28, 24), np.float32) - self.rgb)

    def draw_clutter(self, hard: Clutter, tone: str) -> None:
        """What lies beside and over the skin, and the light of several lamps."""
        random = self.random
        for _ in range(hard.moles):
            self._lay(clutter.mole(random, self.x, self.y, FRAME, np.array(SKIN[tone], np.float32)))
        if hard.ink:
            centre = self.centres[random.integers(len(self.centres))]
            self._lay(clutter.ink(random, self.x, self.y, centre, self.radius))
        if hard.ruler:
            self._cover_side(clutter.ruler, float(random.uniform(22, 50)))
        if hard.cloth:
            self._cover_side(clutter.cloth, float(random.uniform(15, 60)))
        self.rgb *= clutter.lamps(random, self.x, self.y, FRAME, hard.lamp)
        if hard.shadow:
            self.rgb *= clutter.shadow(random, self.x, self.y, FRAME, hard.shadow)

    def _lay(self, layer: clutter.Layer) -> None:
        cover, colour = layer
        self.rgb += cover[..., None] * (colour - self.rgb)

    def _cover_side(self, draw_layer: clutter.Draw, depth: float) -> None:
        """Lay something over a side, less deep or not at all where it would hide too much of a lesion."""
        seed = self.random.integers(1 << 32)
        for part in DEPTHS:
            layer = draw_layer(np.random.default_rng(seed), self.x, self.y, FRAME, depth * part)
            hidden = np.maximum(self.hidden, layer[0])
            if all(self._shown(centre, hidden) >= SHOWN for centre in self.centres):
                self._lay(layer)
                self.covered *= 1 - layer[0]
                self.hidden = hidden
                return

    def _shown(self, centre: tuple[float, float], hidden: Array) -> float:
        """The part of a lesion that lies in the frame and is not hidden."""
        inside = np.hypot(self.x - np.float32(centre[0]), self.y - np.float32(centre[1])) <= self.radius
        return float((inside * (1 - hidden)).sum() / (np.pi * (self.radius * self.scale) ** 2))

    def draw_no_skin(self) -> None:
        """A wall, stripes, tiles, a meadow under a sky, or one grey."""
        random = self.random
        first, second = random.uniform(0, 255, (2, 3)).astype(np.float32)
        angle, period = random.uniform(0, np.pi), random.uniform(12, 60)
        along = self.x * np.float32(np.cos(angle)) + self.y * np.float32(np.sin(angle))
        across = self.y * np.float32(np.cos(angle)) - self.x * np.float32(np.sin(angle))
        kind = random.integers(5)
        if kind == 0:
            second = first = np.full(3, random.uniform(0, 255), np.float32)
            mix = np.zeros((self.size, self.size), np.float32)
        elif kind == 1:
            mix = (np.sin(along * np.float32(2 * np.pi / period)) > 0).astype(np.float32)
        elif kind == 2:
            mix = ((along // period + across // period) % 2).astype(np.float32)
        elif kind == 3:
            first, second = np.array(((120, 170, 230), (70, 130, 50)), np.float32)
            horizon = random.uniform(60, 160)
            mix = 1 / (1 + np.exp(np.clip(horizon - self.y + 8 * self.noise("coarse"), -30, 30)))
        else:
            mix = np.clip(0.5 + 0.5 * self.noise("coarse"), 0, 1)
        self.rgb[:] = first + mix[..., None] * (second - first)

    def develop(self, scene: Scene) -> Image.Image:
        """Light, tint, blur and noise of a camera."""
        tint = self.random.uniform(0.975, 1.025, 3).astype(np.float32) * np.float32(1 + scene.light)
        picture = self.rgb * tint
        image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        if scene.blur:
            image = image.filter(ImageFilter.GaussianBlur(scene.blur * self.scale))
        grain = self.crop(grains())
        noisy = np.asarray(image, np.float32) + grain * np.float32(scene.noise)
        return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))

    def noise(self, kind: str) -> Array:
        """Smooth noise of standard deviation 1, (size, size)."""
        return self.crop(noise_bank()[kind])

    def crop(self, field: Array) -> Array:
        """A random piece of a larger field, at this picture's size."""
        top, left = self.random.integers(0, field.shape[0] - FRAME, 2)
        piece = field[top : top + FRAME, left : left + FRAME]
        if self.size == FRAME:
            return piece
        if piece.ndim == 3:
            return np.stack([self._resize(piece[..., i]) for i in range(piece.shape[-1])], axis=-1)
        return self._resize(piece)

    def _resize(self, piece: Array) -> Array:
        resized = Image.fromarray(np.ascontiguousarray(piece)).resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(resized, np.float32)

    def _span(self, centre: float, reach: float) -> slice:
        low, high = ((centre + sign * reach) * self.scale for sign in (-1, 1))
        return slice(max(0, int(low)), min(self.size, int(high) + 1))

    def patch_coverage(self) -> Array:
        side = self.size // GRID
        return np.asarray(self.covered.reshape(GRID, side, GRID, side).mean(axis=(1, 3)))


class Shape:
    """A lesion's outline: distance from its edge and how much each pixel is inside."""

    def __init__(
        self, random: np.random.Generator, dx: Array, dy: Array, radius: float, border: str, softness: float
    ) -> None:
        self.random, self.radius, self.dx, self.dy = random, radius, dx, dy
        distance = np.hypot(dx, dy)
        angle = np.arctan2(dy, dx)
        edge = np.full_like(distance, radius)
        ragged, waves = (0.17, (3, 5, 8)) if border == "irregular" else (0.03, (2, 3))
        for wave in waves:
            edge += np.float32(radius * ragged) * np.cos(wave * angle + np.float32(random.uniform(0, 2 * np.pi)))
        self.relative = distance / edge
        """0 in the middle, 1 at the edge."""
        width = softness if border == "blurred" else 0.9 / radius
        steepness = np.clip((1 - self.relative) / np.float32(width), -30, 30)
        self.inside = np.asarray(1 / (1 + np.exp(-steepness)), np.float32)

    def facing(self, light_angle: float) -> Array:
        """1 on the side that the light comes from, -1 on the other."""
        towards = self.dx * np.float32(np.cos(light_angle)) + self.dy * np.float32(np.sin(light_angle))
        return np.asarray(towards / np.float32(self.radius), np.float32)


def _ring(relative: Array, at: float, width: float) -> Array:
    return np.asarray(np.exp(-(((relative - np.float32(at)) / np.float32(width)) ** 2)), np.float32)


def _blend(window: Array, amount: Array, colour: RGB) -> None:
    window += amount[..., None] * (np.array(colour, np.float32) - window)


def flat(_window: Array, _shape: Shape, _light_angle: float) -> None:
    """Level with the skin: nothing to see."""


def raised(window: Array, shape: Shape, light_angle: float) -> None:
    """Flat-topped: a bright rim towards the light, a dark one and a shadow away from it."""
    rim = _ring(shape.relative, 0.86, max(0.1, 2.0 / shape.radius))
    facing = shape.facing(light_angle)
    _blend(window, np.clip(facing, 0, 1) * rim * 0.75, (255, 244, 230))
    _blend(
        window, np.clip(-facing, 0, 1) * _ring(shape.relative, 1.04, max(0.13, 2.5 / shape.radius)) * 0.8, (24, 12, 10)
    )


def dome(window: Array, shape: Shape, light_angle: float) -> None:
    """Dome-shaped: shaded over its whole width, with a highlight and a shadow beside it."""
    facing = shape.facing(light_angle)
    body = np.clip(1.15 - shape.relative, 0, 1)
    window *= 1 + (np.clip(facing, -1, 1) * 0.6 * np.minimum(1, shape.inside))[..., None]
    _blend(window, np.clip(-facing, 0, 1) * _ring(shape.relative, 1.08, 0.16) * 0.75, (24, 12, 10))
    x, y = np.cos(light_angle) * 0.4 * shape.radius, np.sin(light_angle) * 0.4 * shape.radius
    spot = np.hypot(shape.dx - np.float32(x), shape.dy - np.float32(y)) / np.float32(0.24 * shape.radius)
    _blend(window, np.exp(-(spot**4)) * 0.95 * np.minimum(1, body * 4), (255, 255, 255))


def pustule(window: Array, shape: Shape, _light_angle: float) -> None:
    """A creamy head in the middle."""
    head = 1 / (1 + np.exp(np.clip((shape.relative - 0.52) * np.float32(max(6.0, shape.radius * 0.9)), -30, 30)))
    _blend(window, head.astype(np.float32) * 0.95, (250, 238, 190))
    _blend(window, _ring(shape.relative, 0.56, max(0.06, 1.2 / shape.radius)) * 0.6, (120, 60, 30))


def ulcer(window: Array, shape: Shape, light_angle: float) -> None:
    """A dark, wet pit: its wall towards the light lies in shadow."""
    facing = shape.facing(light_angle)
    pit = 1 / (1 + np.exp(np.clip((shape.relative - PIT) * np.float32(max(8.0, shape.radius * 1.0)), -30, 30)))
    _blend(window, pit.astype(np.float32) * 0.92, (52, 8, 14))
    rim = _ring(shape.relative, 0.64, max(0.07, 1.5 / shape.radius))
    _blend(window, np.clip(0.35 - facing, 0, 1) * rim * 0.7, (255, 214, 200))


def scale(window: Array, shape: Shape, free: npt.NDArray[np.bool_], canvas: Canvas, at: tuple[slice, slice]) -> None:
    """Silvery flakes."""
    flakes = np.clip((canvas.noise("flake")[at] - 0.35) * 3, 0, 1) * (free & (shape.relative < 0.9))
    _blend(window, flakes * 0.95, (246, 246, 248))


def crust(window: Array, shape: Shape, free: npt.NDArray[np.bool_], canvas: Canvas, at: tuple[slice, slice]) -> None:
    """Amber clods with dark edges."""
    field = canvas.noise("clod")[at]
    within = (free & (shape.relative < 0.98)).astype(np.float32)
    _blend(window, np.clip((field - 0.05) * 4, 0, 1) * within * 0.95, (66, 32, 8))
    _blend(window, np.clip((field - 0.45) * 4, 0, 1) * within * 0.95, (226, 150, 28))


def fissure(window: Array, shape: Shape, free: npt.NDArray[np.bool_], canvas: Canvas, _at: tuple[slice, slice]) -> None:
    """Dark cracks with pale edges, all through the lesion."""
    angle = canvas.random.uniform(0, np.pi)
    across = shape.dx * np.float32(-np.sin(angle)) + shape.dy * np.float32(np.cos(angle))
    along = shape.dx * np.float32(np.cos(angle)) + shape.dy * np.float32(np.sin(angle))
    gap = np.float32(max(8.5, shape.radius / 3))
    bent = across + np.float32(0.12) * gap * np.sin(along / gap * np.float32(2.5))
    crack = np.abs((bent / gap + np.float32(0.5)) % 1 - np.float32(0.5)) * gap
    within = (free & (shape.relative < 0.93)).astype(np.float32)
    _blend(window, (crack < 2.6) * within * 0.8, (250, 226, 206))
    _blend(window, np.clip(2.1 - crack, 0, 1) * within * 0.95, (30, 4, 6))


RELIEF = {"patch": flat, "plaque": raised, "nodule": dome, "pustule": pustule, "ulcer": ulcer}
SURFACE = {"scale": scale, "crust": crust, "fissure": fissure}


def lesion_colour(colour: str, tone: str) -> Array:
    """RGB of a lesion; the darker the skin the darker the lesion, brown being darker than any skin."""
    skin = np.array(SKIN[tone], np.float32)
    base = np.array(COLOUR[colour], np.float32)
    if colour == "brown":
        return base * np.float32(0.45 + 0.55 * skin.mean() / 196)
    return base * np.float32(0.78 + 0.22 * skin.mean() / 196)


@cache
def noise_bank() -> dict[str, Array]:
    """Noise fields with features of several lengths, larger than a picture, to cut pieces from."""
    random = np.random.default_rng(0)
    lengths = {"coarse": 9.0, "fine": 1.0, "flake": 2.2, "clod": 3.2}
    return {kind: _smooth(random, length) for kind, length in lengths.items()}


def _smooth(random: np.random.Generator, length: float, side: int = 640) -> Array:
    """Gaussian noise with a Gaussian spectrum, standard deviation 1; it repeats at its edges."""
    wave = np.fft.fftfreq(side)
    response = np.exp(-2 * (np.pi * length) ** 2 * (wave[:, None] ** 2 + wave[None] ** 2))
    field = np.fft.ifft2(np.fft.fft2(random.normal(size=(side, side))) * response).real
    return np.asarray(field / field.std(), np.float32)


@cache
def grains() -> Array:
    """Sensor noise of standard deviation 1 in three channels."""
    return np.random.default_rng(1).normal(size=(640, 640, 3)).astype(np.float32)
