"""Remarks on a picture that a person should know of beside its report; none of them keeps it from being answered.

The limits were chosen on drawings of the demonstration model: where its answers get worse, they are mostly passed, and
on usual drawings hardly ever. docs/photos.md has the figures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..engines.base import Array

SIDE = 224  # pixels; the original model's input, whatever the bundle's
MOST_COLOUR = 4  # levels between the strongest and the weakest of a pixel's channels
LONGEST = 2.0  # sides of a picture, long to short
DARKEST = 90  # level of the brightest hundredth
CLIPPED, MOST_CLIPPED = 254, 0.7  # a level, and the part of the pixels that reach it
FEWEST_PIXELS = 56  # of the shorter side
FINE, COARSE, LEAST_FALL = 0.7, 1.0, 1.05  # see `is_blurred`
LEAST_EDGE = 1.0  # levels a pixel


@dataclass(frozen=True)
class Note:
    """One remark."""

    code: str
    """For programs."""
    text: str
    """For a person: what was found, and what to do."""

    def to_json(self) -> dict[str, str]:
        """As `report.schema.json` describes it."""
        return {"code": self.code, "text": self.text}


PROFILE_UNREADABLE = Note(
    "profile_unreadable",
    "The picture's colour profile cannot be read. Its colours were taken for sRGB and may look different elsewhere.",
)
UNCHECKED = Note(
    "unchecked",
    "The picture is a rare kind of JPEG in which damage cannot be looked for. Compare what you see with the original.",
)
NO_COLOR = Note("no_color", "There is no colour in the picture. Take the photo in colour.")
THIN = Note(
    "thin",
    "The picture is more than twice as long as wide, and the model sees it squeezed to a square. Cut out the part that "
    "matters.",
)
DARK = Note("dark", "The picture is very dark. Take the photo with more light.")
BRIGHT = Note("bright", "Most of the picture is as bright as can be, so its colours are lost. Take it with less light.")
BLURRED = Note("blurred", "The picture is blurred. Hold the camera still, and let it focus on the skin.")
SMALL = Note(
    "small",
    f"The picture's shorter side has less than {FEWEST_PIXELS} pixels. Take the photo closer, or send it in full size.",
)


def quality_notes(size: tuple[int, int], pixels: NDArray[np.uint8]) -> tuple[Note, ...]:
    """What of a picture of this width and height may make its answers worse; `pixels` is it as (SIDE, SIDE, 3)."""
    red, green, blue = np.moveaxis(pixels, -1, 0)  # an array each: NumPy's maximum along so short an axis is slow
    strongest, weakest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    # The strongest channel, not the luminance: dark skin in good light has strong highlights, a dark photo has none.
    found = {
        NO_COLOR: np.percentile(strongest - weakest, 99) <= MOST_COLOUR,
        THIN: max(size) > LONGEST * min(size),
        DARK: np.percentile(strongest, 99) < DARKEST,
        BRIGHT: (strongest >= CLIPPED).mean() > MOST_CLIPPED,
        BLURRED: is_blurred(Image.fromarray(pixels)),
        SMALL: min(size) < FEWEST_PIXELS,
    }
    return tuple(note for note, true in found.items() if true)


def is_blurred(image: Image.Image) -> bool:
    """Whether even the sharpest edges are wide.

    A little smoothing makes sharp edges less steep, and changes wide ones hardly. An edge that was blurred by a
    Gaussian of standard deviation s is sqrt((s² + 1) / (s² + 0.49)) times as steep after one of 0.7 pixels as after
    one of 1 pixel. The limit of 1.05 stands for an s of 2.1 pixels. A picture without edges is not called blurred.
    """
    grey = image.convert("L")
    fine, coarse = (_steepest(grey.filter(ImageFilter.GaussianBlur(width))) for width in (FINE, COARSE))
    return fine >= LEAST_EDGE and fine < LEAST_FALL * coarse


def _steepest(grey: Image.Image) -> float:
    """The gradient that one pixel in a thousand exceeds, in levels a pixel, without the rim."""
    levels: Array = np.asarray(grey, np.float32)
    down, right = np.gradient(levels)
    return float(np.percentile(np.hypot(down, right)[6:-6, 6:-6], 99.9))
