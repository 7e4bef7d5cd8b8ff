"""From a file's bytes to pixels: what is accepted as a picture, and how it becomes the model's input."""

import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..engines.base import Floats
from ..engines.errors import ImageError
from .manifest import ImageSpec

FORMATS = ("JPEG", "PNG", "WEBP")  # no other decoder of Pillow is ever opened
MAX_BYTES = 20_000_000
MAX_PIXELS = 64_000_000
MIN_SIDE = 16


def read_image_file(path: Path) -> bytes:
    """The bytes of a picture file of at most MAX_BYTES. Raises ImageError."""
    try:
        # Not blocking: a FIFO without a writer would otherwise wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened: {error.strerror}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{path}: a directory, not a picture")
        if not stat.S_ISREG(mode):
            raise ImageError(f"{path}: not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise ImageError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB: save it smaller")
    return data


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode JPEG, PNG or WebP into an upright RGB picture. Raises ImageError.

    Differs from the original in one thing: the EXIF orientation is applied. Damage that the format's own decoder
    repairs without a word, such as a hole in a JPEG's data, cannot be seen here.
    """
    if not data:
        raise ImageError(f"{name}: empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name}: larger than {MAX_BYTES // 1_000_000} MB: save it smaller")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what matters is checked here
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            raise ImageError(f"{name}: more than {MAX_PIXELS // 1_000_000} megapixels") from None
        except Exception:  # Pillow's decoders raise many kinds of errors on broken files
            raise ImageError(f"{name}: not a readable {', '.join(FORMATS)} picture") from None
        _check_header(image, data, name)
        try:
            Image.open(io.BytesIO(data), formats=FORMATS).verify()  # a PNG's checksums; loading skips them
            upright = ImageOps.exif_transpose(image)
            return upright.convert("RGB")
        except Exception as error:
            raise ImageError(f"{name}: damaged or truncated: {error}") from None


def _check_header(image: Image.Image, data: bytes, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width} × {height} pixels, more than {MAX_PIXELS // 1_000_000} megapixels: save it smaller"
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name}: {width} × {height} pixels; each side needs at least {MIN_SIDE}")
    # JPEG files of phones may hold further pictures (MPO); the first is the photo.
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        raise ImageError(f"{name}: animated; save one frame as a picture")
    # Pillow would cut colours of 16 bits to 8 without a word. Byte 24 of a PNG file is its bit depth.
    if image.format == "PNG" and data[12:16] != b"IHDR":
        raise ImageError(f"{name}: damaged: its first chunk is no header")
    if image.mode in ("I", "F") or image.mode.startswith("I;16") or (image.format == "PNG" and data[24] == 16):
        raise ImageError(f"{name}: 16 bits a colour; save it with 8")


def preprocess(image: Image.Image, spec: ImageSpec) -> Floats:
    """Pixels (1, 3, size, size) of an RGB picture: bicubic resize without crop, scaled and normalised."""
    resized = image.resize((spec.size, spec.size), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized).astype(np.float32)
    pixels /= 255
    pixels -= np.array(spec.mean, np.float32)
    pixels /= np.array(spec.std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def thumbnail(data: bytes, name: str, side: int = 900) -> bytes:
    """A JPEG of the picture, upright, at most `side` pixels wide and high, without any metadata."""
    image = decode_image(data, name)
    image.thumbnail((side, side))
    clean = Image.new("RGB", image.size)
    clean.paste(image)
    target = io.BytesIO()
    clean.save(target, "JPEG", quality=88)
    return target.getvalue()
