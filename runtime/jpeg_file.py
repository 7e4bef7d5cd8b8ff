"""A JPEG file taken apart: its metadata, the picture without them, and whether the picture's data are whole.

The format is ITU-T T.81; where profiles and EXIF stand is said in ICC.1 annex B and in EXIF 2.32.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import simplejpeg

from ..engines.errors import ImageError
from .image_kind import NotRead

START, END, SCAN = 0xD8, 0xD9, 0xDA
FRAMES_READ = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, with Huffman codes
SEQUENTIAL = {0xC0, 0xC1}
ADOBE_BYTES = 12  # of the segment's content; the last is the colour transform
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
MARKERS_ALONE = {0x01, *range(0xD0, 0xD8)}  # TEM and RSTn have no length
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
ICC = b"ICC_PROFILE\0"
MAX_SCANS = 100  # a progressive JPEG has about ten; each costs the time of a whole picture
MAX_PADDING = 64  # bytes
MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # in coded data: 0xFF that is neither data nor a restart mark
ADOBE_TRANSFORMS = {3: (0, 1), 4: (0, 2)}  # by number of components; libjpeg takes others for the last of these


@dataclass(frozen=True)
class JpegFile:
    """What a JPEG file holds."""

    picture: bytes
    """A JPEG of the same pixels without metadata, as far as its end mark."""
    scans: int
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
    two segments that belong to none are left out, as decoders do. Values without a meaning that some cameras write are
    set to what decoders take them for, so that their warnings are of damage alone.
    """
    kept = [b"\xff\xd8"]
    frame, components, size, adobe, scans = 0, 0, (0, 0), 0, 0
    exif: bytes | None = None
    profile_parts: list[bytes] = []
    for marker, segment, at in _segments(data):
        body = segment[4:]
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            kept.append(JFIF)
        elif marker == 0xE1 and body.startswith(b"Exif\0") and exif is None:
            exif = body[6:]
        elif marker == 0xE2 and body.startswith(ICC):
            profile_parts.append(body[len(ICC) :])
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= ADOBE_BYTES:
            adobe = len(kept)
            kept.append(segment)
        elif marker == SCAN:
            picture, scans = _scans(data[at:], sequential=frame in SEQUENTIAL)
            kept.append(picture)
        elif marker < 0xE0:
            if marker in FRAMES:
                size = _read_frame(marker, body)
                frame, components = marker, body[5] if len(body) > 5 else 0
            kept.append(segment)
    if 0 in size:
        raise ValueError("it does not say its size")
    if adobe:
        kept[adobe] = _known_transform(kept[adobe], components)
    return JpegFile(b"".join(kept), scans, size, exif, _join_profile(profile_parts))


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Each segment's marker, all its bytes and where they begin, as far as the first scan's header."""
    at, marker = 2, 0
    while marker != SCAN:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            raise ValueError("it ends before the picture")
        marker = data[at + 1]
        if marker in (0x00, 0xFF) or marker in MARKERS_ALONE or marker == START:
            at += 1 if marker == 0xFF else 2  # a marker may be preceded by any number of 0xFF
            continue
        if marker == END:
            raise ValueError("it holds no picture")
        end = max(at + 4, at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"))
        yield marker, data[at:end], at
        at = end


def _known_transform(adobe: bytes, components: int) -> bytes:
    """Adobe's segment; a colour transform that is none becomes the one that decoders then take."""
    known, at = ADOBE_TRANSFORMS.get(components, ()), 4 + ADOBE_BYTES - 1
    return adobe[:at] + bytes((known[-1],)) + adobe[at + 1 :] if known and adobe[at] not in known else adobe


def _scans(data: bytes, *, sequential: bool) -> tuple[bytes, int]:
    """All scans from the first one's header to the end mark, and their number.

    What follows the end mark, such as the video of a motion photo, is left out. A sequential scan's range of
    coefficients has one meaning only; phones of one make write others, which every decoder ignores.
    """
    changed, at, scans = bytearray(data), 0, 0
    while (found := MARKER.search(data, at)) and data[found.start() + 1] != END:
        at = found.start()
        if data[at + 1] == SCAN:
            scans += 1
            first = at + 5 + 2 * data[at + 4] if at + 4 < len(data) else len(data)
            if sequential and first + 3 <= len(data):
                changed[first : first + 3] = bytes((0, 63, 0))
        at += max(2, 2 + int.from_bytes(data[at + 2 : at + 4], "big"))
    return bytes(changed[: found.end()] if found else changed), scans


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


def check_whole(jpeg: JpegFile, name: str) -> bool:
    """Raise ImageError if libjpeg-turbo warns of damage anywhere in the picture's data; False if it cannot tell.

    A decoder draws something for missing data and goes on. libjpeg-turbo counts such places as warnings, which Pillow
    does not pass on and simplejpeg does. Decoded at an eighth of the size, so that little more than the Huffman codes
    are read. Not found: damage after which all codes are valid and fill exactly all blocks; a picture that was
    damaged, and then decoded and saved anew. Its interface knows the usual subsamplings of colours only.
    """
    try:
        simplejpeg.decode_jpeg(jpeg.picture, "GRAY", min_factor=8, strict=True)
    except ValueError as error:
        if "Could not determine subsampling" in str(error):
            return False
        if not _is_padding(jpeg.picture, str(error)):
            warning = str(error).removeprefix("Corrupt JPEG data: ")
            raise ImageError(
                f"{name}: damaged: a part of its data is missing or changed ({warning}): "
                "copy it anew from where it came from"
            ) from None
    return True


def _is_padding(picture: bytes, warning: str) -> bool:
    """Whether libjpeg's warning is of nothing but a little padding between the last block and the end mark.

    Some cameras write it. Left-over codes of a damaged picture look the same to libjpeg, and so does a part of a file
    that a full disk left as zeros; padding is a few bytes, all the same.
    """
    found = re.fullmatch(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9", warning)
    count = int(found[1]) if found else MAX_PADDING + 1
    return count <= MAX_PADDING and len(set(picture[-2 - count : -2])) <= 1
