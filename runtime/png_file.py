"""A PNG file taken apart: its metadata, and the picture without them (W3C's Portable Network Graphics, 3rd edition)."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PROFILE_BYTES = 10_000_000  # unpacked; the largest in use have some 3 MB
PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


@dataclass(frozen=True)
class PngFile:
    """What a PNG file holds."""

    picture: bytes
    """A PNG of the same pixels without metadata."""
    size: tuple[int, int]
    """Width and height."""
    bits: int
    """Of a colour, or of a palette's index."""
    chunks: dict[bytes, bytes]
    """The first chunk of each other name."""

    @property
    def frames(self) -> int:
        """How many pictures an animation has; 1 for a plain PNG."""
        return int.from_bytes(self.chunks.get(b"acTL", b"")[:4], "big") or 1

    @property
    def profile(self) -> bytes | None:
        """The ICC profile; empty if it cannot be unpacked."""
        if b"iCCP" not in self.chunks:
            return None
        packed = self.chunks[b"iCCP"].partition(b"\0")[2][1:]
        unpack = zlib.decompressobj()
        try:
            profile = unpack.decompress(packed, MAX_PROFILE_BYTES)
        except zlib.error:
            return b""
        return profile if unpack.eof else b""


def read_png(data: bytes) -> PngFile:
    """Take a PNG file apart. Raises ValueError if a checksum is wrong, or the beginning or end is missing."""
    kept = [SIGNATURE]
    others: dict[bytes, bytes] = {}
    for kind, body, whole in _chunks(data):
        if len(kept) == 1 and (kind != b"IHDR" or len(body) != 13):
            raise ValueError("its first chunk is no header")
        if kind in PIXEL_CHUNKS:
            kept.append(whole)
        elif kind[0] & 0x20:  # ancillary; decoders may leave it out
            others.setdefault(kind, body)
        else:
            raise ValueError(f"its chunk {kind!r} is unknown")
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    return PngFile(b"".join(kept), (width, height), bits, others)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Each chunk's name, content and all its bytes, as far as the end chunk."""
    at, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("its end is missing")
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        kind, body = data[at + 4 : at + 8], data[at + 8 : end - 4]
        if end > len(data):
            raise ValueError("its end is missing")
        if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[end - 4 : end], "big"):
            raise ValueError(f"the checksum of its chunk {kind!r} is wrong")
        yield kind, body, data[at:end]
        at = end
