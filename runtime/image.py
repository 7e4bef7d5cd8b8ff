"""From a file's bytes to pixels: what is accepted as a picture, and how it becomes the model's input."""

import io
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError

from ..engines.base import Floats
from ..engines.errors import ImageError
from .color import to_srgb
from .image_kind import NotRead, kind_of
from .image_notes import PROFILE_UNREADABLE, UNCHECKED, Note
from .jpeg_file import MAX_SCANS, JpegFile, check_whole, read_jpeg
from .machine import logical_cpus
from .manifest import ImageSpec
from .orientation import upright
from .png_color import png_profile
from .png_file import SIGNATURE, read_png

MAX_BYTES = 20_000_000
MAX_PIXELS = 64_000_000
MIN_SIDE = 16
MAX_BANDS, BAND_PIXELS = 4, 400_000  # of a picture that threads resize together; a smaller one is not worth a thread
READ = "JPEG, PNG or WebP"
COPY_AGAIN = "copy it anew from where it came from"

P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Photo:
    """A picture as a person sees it."""

    image: Image.Image
    """Upright, RGB in sRGB, without transparency."""
    notes: tuple[Note, ...] = ()
    """What could not be read of the file."""


@dataclass(frozen=True)
class Encoded:
    """A picture's file taken apart."""

    format: str
    """Pillow's name of the only decoder that is opened."""
    picture: bytes
    """What the decoder gets."""
    size: tuple[int, int]
    """Width and height."""
    exif: bytes | None
    profile: bytes | None
    """An ICC profile; empty if it cannot be read."""
    bits: int = 8
    """Of a colour."""
    frames: int = 1
    jpeg: JpegFile | None = None


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


def decode_photo(data: bytes, name: str) -> Photo:
    """Decode JPEG, PNG or WebP into what a browser shows of it. Raises ImageError.

    Differs from the original in this: the EXIF orientation is applied, colours are converted to sRGB, and transparent
    parts are shown on white. An untagged or sRGB picture without these has exactly the original's numbers.
    """
    if not data:
        raise ImageError(f"{name}: empty: {COPY_AGAIN}")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name}: larger than {MAX_BYTES // 1_000_000} MB: save it smaller")
    try:
        encoded = _take_apart(data)
        _check_header(encoded, name)
        with ThreadPoolExecutor(1) as pool:
            check = _started(pool, check_whole, encoded.jpeg, name) if encoded.jpeg else None
            try:
                image = Image.open(io.BytesIO(encoded.picture), formats=[encoded.format])
                image.load()
            finally:  # what it says of damage is clearer
                checked = check is None or check()
    except ImageError:
        raise
    except NotRead as error:
        raise ImageError(f"{name}: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{name}: more than {MAX_PIXELS // 1_000_000} megapixels: save it smaller") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: damaged: its beginning cannot be read: {COPY_AGAIN}") from None
    except MemoryError:
        raise  # no fault of the picture
    except Exception as error:  # Pillow's decoders raise many kinds of errors on broken files
        raise ImageError(f"{name}: damaged or truncated: {error}: {COPY_AGAIN}") from None
    photo = _as_seen(image, encoded, name)
    return photo if checked else replace(photo, notes=(*photo.notes, UNCHECKED))


def _take_apart(data: bytes) -> Encoded:
    """Raises NotRead for a picture of another kind, ValueError for damage, or what Pillow raises."""
    if data.startswith(b"\xff\xd8"):
        jpeg = read_jpeg(data)
        return Encoded("JPEG", jpeg.picture, jpeg.size, jpeg.exif, jpeg.profile, jpeg=jpeg)
    if data.startswith(SIGNATURE):
        png = read_png(data)
        exif = png.chunks.get(b"eXIf")
        return Encoded("PNG", png.picture, png.size, exif, png_profile(png), png.bits, png.frames)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            info = image.info
            frames = getattr(image, "n_frames", 1)
            return Encoded("WEBP", data, image.size, info.get("exif"), info.get("icc_profile"), frames=frames)
    kind = kind_of(data)
    if kind:
        raise NotRead(f"{kind.name}, not {READ}: {kind.advice}")
    raise NotRead(f"not a readable {READ} picture: open it in a viewer and save it as JPEG")


def _check_header(encoded: Encoded, name: str) -> None:
    if encoded.jpeg and encoded.jpeg.scans > MAX_SCANS:  # each takes as long as a picture
        raise ImageError(f"{name}: more than {MAX_SCANS} scans: save it anew as JPEG")
    width, height = encoded.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width} × {height} pixels, more than {MAX_PIXELS // 1_000_000} megapixels: save it smaller"
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{name}: {width} × {height} pixels; each side needs at least {MIN_SIDE}: take the photo with more pixels"
        )
    if encoded.frames > 1:
        raise ImageError(f"{name}: animated; save one frame as a picture")
    if encoded.bits > 8:  # Pillow would cut colours to 8 bits without a word
        raise ImageError(f"{name}: {encoded.bits} bits a colour; save it with 8")


def _as_seen(image: Image.Image, encoded: Encoded, name: str) -> Photo:
    """Colours to sRGB, transparent parts onto white, and the right way up. Raises ImageError if nothing can be seen."""
    alpha, shown = None, (255.0, 255.0)
    grey = image.info.get("transparency")
    if image.mode == "L" and isinstance(grey, int):  # Pillow scales the pixels to 8 bits, but not this level of theirs
        image.info["transparency"] = grey * 255 // (2**encoded.bits - 1)
    if image.has_transparency_data:
        image = image if image.mode == "LA" else image.convert("RGBA")
        alpha = image.getchannel("A")
        shown = cast(tuple[float, float], alpha.getextrema())
    if shown[1] == 0:
        raise ImageError(f"{name}: fully transparent, there is nothing to see: save it as JPEG")
    mode = {"1": "L", "LA": "L"}.get(image.mode, image.mode if image.mode in ("L", "CMYK") else "RGB")
    seen, understood = to_srgb(image if image.mode == mode else image.convert(mode), encoded.profile)
    if alpha and shown[0] < 255:
        seen.paste("white", mask=ImageChops.invert(alpha))
    return Photo(upright(seen, encoded.exif), () if understood else (PROFILE_UNREADABLE,))


def decode_image(data: bytes, name: str) -> Image.Image:
    """The picture alone; see `decode_photo`."""
    return decode_photo(data, name).image


def preprocess(image: Image.Image, spec: ImageSpec) -> Floats:
    """Pixels (1, 3, size, size) of an RGB picture: bicubic resize without crop, scaled and normalised."""
    return normalise(resize(image, spec.size), spec)


def resize(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """An RGB picture as (size, size, 3): bicubic, without crop.

    The same pixels as Pillow's own resize in one call, which also makes each row narrower by itself and then makes
    the picture lower. Here several threads share the rows, because this is most of the time that a photo takes.
    """
    width, height = image.size
    bands = min(MAX_BANDS, logical_cpus(), 1 + width * height // BAND_PIXELS)
    if bands > 1 and width != size:
        edges = [height * band // bands for band in range(bands + 1)]
        narrow = Image.new("RGB", (size, height))

        def shrink(top: int, bottom: int) -> None:
            rows = image.crop((0, top, width, bottom))
            narrow.paste(rows.resize((size, bottom - top), Image.Resampling.BICUBIC), (0, top))

        with ThreadPoolExecutor(bands) as pool:
            for finish in [_started(pool, shrink, *edge) for edge in pairwise(edges)]:
                finish()
        image = narrow
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def _started(
    pool: ThreadPoolExecutor, work: Callable[P, Result], *args: P.args, **more: P.kwargs
) -> Callable[[], Result]:
    """Begin work in a thread; what is given waits for its result. Where no thread can be had, it does the work."""
    try:
        return pool.submit(work, *args, **more).result
    except RuntimeError:
        return partial(work, *args, **more)


def normalise(resized: NDArray[np.uint8], spec: ImageSpec) -> Floats:
    """Pixels (1, 3, size, size) of a picture (size, size, 3), scaled and normalised."""
    pixels = resized.astype(np.float32)
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
