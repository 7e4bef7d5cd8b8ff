"""A JPEG file taken apart: its metadata, the picture without them, and whether the picture's data are whole.

The format is ITU-T T.81; where profiles and EXIF stand is said in ICC.1 annex B and in EXIF 2.32.
"""

import re
from dataclasses import dataclass

import simplejpeg

from ..engines.errors import ImageError
from .image_kind import NotRead

START, END, SCAN = 0xD8, 0xD9, 0xDA
FRAMES_READ = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, with Huffman codes
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
MARKERS_ALONE = {0x01, *range(0xD0, 0xD8)}  # TEM and RSTn have no length
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
ICC = b"ICC_PROFILE\0"
MAX_SCANS = 100  # a progressive JPEG has about ten; each costs the time of a whole picture


@dataclass(frozen=True)
class JpegFile:
    """What a JPEG file holds."""

    picture: bytes
    """A JPEG of the same pixels without metadata."""
    size: tuple[int, int]
    """Width and height."""
    exif: bytes | None
    """A TIFF structure."""
    profile: bytes | None
    """The ICC profile; empty if its parts do not fit together."""


def read_jpeg(data: bytes) -> JpegFile:
    """Take a JPEG file apart. Raises ValueError if it has no picture's data, NotRead for a rare kind of JPEG.

    Decoders get `picture` alone, so that nothing in the metadata can change what they do. It keeps the markers from
    which a decoder learns the meaning of the colours: JFIF's, with no content of its own, and Adobe's. Bytes between
    two segments that belong to none are left out, as decoders do.
    """
    kept = [b"\xff\xd8"]
    exif: bytes | None = None
    profile_parts: list[bytes] = []
    size = (0, 0)
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            raise ValueError("it ends before the picture")
        marker = data[at + 1]
        if marker in (0x00, 0xFF) or marker in MARKERS_ALONE or marker == START:
            at += 1 if marker == 0xFF else 2  # a marker may be preceded by any number of 0xFF
            continue
        if marker == END:
            raise ValueError("it holds no picture")
        if marker == SCAN:
            kept.append(data[at:])
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment, body = data[at:end], data[at + 4 : end]
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            kept.append(JFIF)
        elif marker == 0xE1 and body.startswith(b"Exif\0") and exif is None:
            exif = body[6:]
        elif marker == 0xE2 and body.startswith(ICC):
            profile_parts.append(body[len(ICC) :])
        elif marker == 0xEE and body.startswith(b"Adobe"):
            kept.append(segment)
        elif marker < 0xE0:
            if marker in FRAMES:
                size = _read_frame(marker, body)
            kept.append(segment)
        at = max(end, at + 4)
    if 0 in size:
        raise ValueError("it does not say its size")
    return JpegFile(b"".join(kept), size, exif, _join_profile(profile_parts))


def _read_frame(marker: int, body: bytes) -> tuple[int, int]:
    """Width and height of a frame header. Raises NotRead for a kind of JPEG that no camera writes."""
    if marker not in FRAMES_READ or body[:1] != b"\x08":
        # Damage to arithmetic codes cannot be found, because every sequence of bits is a valid one.
        raise NotRead("a rare kind of JPEG (arithmetic codes, lossless or not 8 bits): save it anew as JPEG")
    return int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")


def _join_profile(parts: list[bytes]) -> bytes | None:
    """The profile of its parts, each of which begins with its number and the count of all."""
    if not parts:
        return None
    parts.sort(key=lambda part: part[:1])
    expected = [bytes((number, len(parts))) for number in range(1, len(parts) + 1)]
    return b"".join(part[2:] for part in parts) if [part[:2] for part in parts] == expected else b""


def check_whole(picture: bytes, name: str) -> None:
    """Raise ImageError if libjpeg-turbo warns of damage anywhere in the picture's data.

    A decoder draws something for missing data and goes on. libjpeg-turbo counts such places as warnings, which Pillow
    does not pass on and simplejpeg does. Decoded at an eighth of the size, so that little more than the Huffman codes
    are read. Not found: damage after which all codes are valid and fill exactly all blocks; a picture that was
    damaged, and then decoded and saved anew.
    """
    if picture.count(b"\xff\xda") > MAX_SCANS:
        raise ImageError(f"{name}: more than {MAX_SCANS} scans: save it anew as JPEG")
    try:
        simplejpeg.decode_jpeg(picture, "GRAY", min_factor=8, strict=True)
    except ValueError as error:
        if not _is_padding(picture, str(error)):
            warning = str(error).removeprefix("Corrupt JPEG data: ")
            raise ImageError(
                f"{name}: damaged: a part of its data is missing or changed ({warning}): "
                "copy it anew from where it came from"
            ) from None


def _is_padding(picture: bytes, warning: str) -> bool:
    """Whether libjpeg's warning is of nothing but padding between the last block and the end mark.

    Some cameras write it. Left-over codes of a damaged picture look the same to libjpeg; padding is one byte, or the
    same byte over and over. With the end mark behind it no later warning can be hidden.
    """
    found = re.fullmatch(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9", warning)
    if not found:
        return False
    count = int(found[1])
    end = picture.find(b"\xff\xd9", picture.rfind(b"\xff\xda", 0, picture.find(b"\xff\xd9")))
    return len(set(picture[max(0, end - count) : end])) <= 1
