"""Colours as a viewer shows them: from the space that a picture's ICC profile describes to sRGB, by Little CMS."""

import io

import numpy as np
from PIL import Image, ImageCms

SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
"""Pillow's mode for each colour space of a profile."""
SAME_LEVELS = 1
LEAST_RANGE = 64
SAMPLES = np.arange(0, 256, 15, dtype=np.uint8)


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, bool]:
    """An RGB picture in sRGB of one in mode L, RGB or CMYK, and whether its profile could be used.

    Without a profile, or with one that cannot be used, the numbers are taken for sRGB's; CMYK is converted as Pillow
    does without one. The rendering intent is relative colorimetric without black-point compensation. With a profile's
    own intent, which is mostly perceptual, Little CMS compensates black points, and browsers do not. A profile that
    changes no colour by more than one level is sRGB's, and the picture keeps its bits. `image` may be changed in place.
    """
    if profile is None:
        return _rgb(image), True
    try:
        return _converted(image, profile), True
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return _rgb(image), False


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    """Raises ValueError, or what Pillow raises, if the profile cannot be used for such a picture."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = SPACES.get(source.profile.xcolor_space.strip())
    if mode == "RGB" and image.mode == "L":
        image = _rgb(image)
    if mode != image.mode:
        raise ValueError(f"a profile of {source.profile.xcolor_space} in a picture of {image.mode}")
    srgb, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
    # Tables of a finer grid: with Little CMS's usual one a CMYK profile's colours were off by up to 2 of 255.
    transform = ImageCms.buildTransform(source, srgb, mode, "RGB", intent, ImageCms.Flags.HIGHRESPRECALC)
    given, shown = _tried(transform, mode)
    if np.ptp(shown.mean(-1)) < LEAST_RANGE:
        raise ValueError("a profile that makes nearly one colour of all")
    if given is not None and np.abs(shown - given).max() <= SAME_LEVELS:
        return _rgb(image)
    # In place, a large picture needs no second copy.
    return ImageCms.applyTransform(image, transform, inPlace=mode == "RGB") or image


def _tried(transform: ImageCms.ImageCmsTransform, mode: str) -> tuple[np.ndarray | None, np.ndarray]:
    """Colours all over the space as sRGB would show their numbers (None for CMYK), and as the transform does."""
    grid = np.stack(np.meshgrid(*[SAMPLES] * len(mode), indexing="ij"), axis=-1).reshape(1, -1, len(mode))
    colours = Image.fromarray(grid[..., 0] if mode == "L" else grid, mode)
    shown = ImageCms.applyTransform(colours, transform)
    assert shown is not None
    given = None if mode == "CMYK" else np.asarray(_rgb(colours)).astype(int)
    return given, np.asarray(shown).astype(int)


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")
