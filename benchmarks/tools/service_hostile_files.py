"""Makes picture files that a decoder must survive: damaged, much larger than they look, slow, or no pictures."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from .mutate_photos import mutated, plan
from .service_client import PICTURES

PHOTOS = Path(__file__).parents[2] / "tests/data/photos"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIDE = 8000  # of large pictures: 64 megapixels, the most that are read
SCANS = 100  # the most that are read
FULL = 300  # files, from which on all kinds are there in full size
TRUNCATIONS = 20  # of each of three photos
WRONG = {
    "GIF": b"GIF89a\x10\0\x10\0\x80\0\0", "BMP": b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0", "TIFF": b"II*\0\x08\0\0\0",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PDF": b"%PDF-1.7\n", "ZIP": b"PK\x03\x04",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "HTML": b"<!DOCTYPE html><script>1</script>",
    "gzip": b"\x1f\x8b\x08", "ELF": b"\x7fELF\x02\x01\x01", "PE": b"MZ\x90\0", "PSD": b"8BPS\0\x01",
    "ICO": b"\0\0\x01\0\x01\0", "PPM": b"P6\n9 9\n255\n", "JPEG 2000": b"\xff\x4f\xff\x51", "zeros": bytes(50),
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0", "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0", "JPEG XL": b"\xff\x0a",
    "MP4": b"\0\0\0\x18ftypmp42\0\0\0\0", "DICOM": bytes(128) + b"DICM", "Python": b"\x80\x04\x95", "text": b"a photo",
    "FITS": b"SIMPLE  =", "QOI": b"qoif\0\0\0\x09\0\0\0\x09\x03\0", "DDS": b"DDS |\0\0\0",
}  # fmt: skip
"""Beginnings of files that are no JPEG, PNG or WebP."""


@dataclass(frozen=True)
class HostileFile:
    kind: str
    name: str
    data: bytes
    original: bytes | None = None
    """Of a damaged photo, which may still be whole."""
    may_be_answered: bool = False
    """An odd picture, but a whole one."""


def hostile_files(count: int) -> list[HostileFile]:
    """`count` of them: at most half of other kinds, and the rest mutated photos.

    If they are few, they are also smaller, so that making them takes seconds.
    """
    few = count < FULL
    unpacked = _unpacked(1 << 26, SIDE // 4) if few else _unpacked(1 << 30, SIDE)
    fixed = [*_headers(), *unpacked, *_odd(), *_wrong_kinds(), *_truncated()]
    if count < 2 * len(fixed):
        fixed = fixed[:: -(-2 * len(fixed) // count)]
    return [*fixed, *_mutated(count - len(fixed))]


def _mutated(count: int) -> Iterator[HostileFile]:
    photos = [Path(str(one)) for one in PICTURES]
    photos += sorted(one for kind in ("jpg", "png", "webp") for one in PHOTOS.glob(f"*.{kind}"))
    for photo, how, seed in plan(photos, count, 16):
        data = photo.read_bytes()
        yield HostileFile("mutated", f"{photo.name}, {how}, {seed}", mutated(data, how, seed), data)


def _truncated() -> Iterator[HostileFile]:
    whole = Image.open(BytesIO(PICTURES[0].read_bytes()))
    for kind in ("JPEG", "PNG", "WEBP"):
        data = _saved(whole, kind)
        for number in range(TRUNCATIONS):
            end = 1 + (len(data) - 2) * number // (TRUNCATIONS - 1)
            yield HostileFile("truncated", f"{kind} cut at byte {end}", data[:end], data)


def _wrong_kinds() -> Iterator[HostileFile]:
    yield HostileFile("wrong kind", "one byte", b"\xff")
    for name, begin in WRONG.items():
        yield HostileFile("wrong kind", name, begin + bytes(range(256)) * 8)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    target = BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _header(width: int, height: int, *, bits: int = 8, colours: int = 2, interlaced: int = 0) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, interlaced))


def _png(*chunks: bytes) -> bytes:
    return SIGNATURE + b"".join(chunks) + _chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    """So many zeros, packed by zlib to a thousandth."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count & (1 << 20) - 1)), packer.flush()])


def _jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    data = bytearray(_saved(Image.new("RGB", (64, 64), (200, 150, 120)), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _webp_of_size(chunk: bytes, head: bytes) -> bytes:
    """A WebP of nothing but a header."""
    body = b"WEBP" + chunk + struct.pack("<I", len(head)) + head + bytes(len(head) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _headers() -> Iterator[HostileFile]:
    """Files of a few bytes that say they are huge, or impossible."""
    pixels = _chunk(b"IDAT", zlib.compress(bytes(1000)))
    sizes = (
        (20_000, 20_000),
        (2**31 - 1, 2**31 - 1),
        (2**32 - 1, 1),
        (65_536, 65_536),
        (0, 0),
        (0, 50),
        (64_000_001, 1),
    )
    for width, height in sizes:
        yield HostileFile("header", f"PNG of {width} × {height}", _png(_header(width, height), pixels))
    yield HostileFile("header", "PNG, interlaced, huge", _png(_header(30_000, 30_000, interlaced=1), pixels))
    for bits, colours in ((3, 2), (8, 3), (16, 3), (8, 5), (32, 2)):
        png = _png(_header(64, 64, bits=bits, colours=colours), pixels)
        yield HostileFile("header", f"PNG of {bits} bits, colours {colours}", png)
    yield HostileFile("header", "PNG without end", SIGNATURE + _header(64, 64) + struct.pack(">I", 2**32 - 1) + b"IDAT")
    yield HostileFile("header", "PNG with two headers", _png(_header(64, 64), _header(9000, 9000), pixels))
    for width, height in ((65_500, 65_500), (65_535, 65_535), (0, 64), (64, 0), (65_500, 64), (64, 65_500)):
        yield HostileFile("header", f"JPEG of {width} × {height}", _jpeg_of_size(width, height))
    side = struct.pack("<I", 16_383)[:3]
    yield HostileFile("header", "WebP canvas", _webp_of_size(b"VP8X", b"\x10\0\0\0" + side + side))
    yield HostileFile("header", "WebP animation", _webp_of_size(b"VP8X", b"\x02\0\0\0" + side + side))
    lossless = b"\x2f" + struct.pack("<I", 16_383 | 16_383 << 14)
    yield HostileFile("header", "WebP lossless", _webp_of_size(b"VP8L", lossless))
    lossy = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383)
    yield HostileFile("header", "WebP lossy", _webp_of_size(b"VP8 ", lossy))


def _unpacked(size: int, side: int) -> Iterator[HostileFile]:
    """Small files that become large: of `size` bytes, or pictures with `side` pixels a side."""
    small = [_header(64, 64), _chunk(b"IDAT", zlib.compress((b"\0" + bytes(range(192))) * 64))]
    large = _zeros(size)
    yield HostileFile(
        "unpacked", "PNG with too many pixels", _png(small[0], _chunk(b"IDAT", large)), may_be_answered=True
    )
    for name, head in ((b"iCCP", b"p\0\0"), (b"zTXt", b"t\0\0"), (b"iTXt", b"t\0\1\0\0\0")):
        data = _png(small[0], _chunk(name, head + large), small[1])
        yield HostileFile("unpacked", f"PNG, packed: {name.decode()}", data, may_be_answered=True)
    for name in (b"tEXt", b"eXIf", b"acTL", b"tRNS"):
        data = _png(small[0], _chunk(name, b"") * 100_000, small[1])
        yield HostileFile("unpacked", f"PNG with 100,000 × {name.decode()}", data, may_be_answered=True)
    pixels = _chunk(b"IDAT", _zeros((side // 8 + 1) * side))
    black = _png(_header(side, side, bits=1, colours=0), pixels)
    yield HostileFile("unpacked", "PNG of very many pixels", black, may_be_answered=True)
    deep = _png(_header(side, side, bits=16, colours=6), _chunk(b"IDAT", _zeros((8 * side + 1) * side)))
    yield HostileFile("unpacked", "PNG of very many pixels, 16 bits and transparency", deep, may_be_answered=True)


def _odd() -> Iterator[HostileFile]:
    """Whole pictures as nobody takes them, and slow ones."""
    for kind, size in (("PNG", (16_384, 16)), ("JPEG", (16, 16_384)), ("WEBP", (16_383, 16)), ("PNG", (16_384, 3900))):
        data = _saved(Image.new("RGB", size, (200, 150, 120)), kind)
        yield HostileFile("odd", f"{kind} of {size[0]} × {size[1]}", data, may_be_answered=True)
    yield HostileFile("odd", f"JPEG of {SCANS} scans of 64 megapixels", slow_jpeg(), may_be_answered=True)
    yield HostileFile("odd", "JPEG of too many scans", slow_jpeg(64, SCANS + 50))
    photo = PICTURES[0].read_bytes()
    parts = b"".join(b"\xff\xe2\xff\xffICC_PROFILE\0" + bytes((n, 255)) + bytes(65_519) for n in range(1, 256))
    yield HostileFile("odd", "JPEG with a profile of 16 MB", photo[:2] + parts + photo[2:], may_be_answered=True)
    # A directory of EXIF that is its own successor, with one entry of four thousand million values.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff\0\0\0\x08\0\0\0\x08"
    app1 = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    yield HostileFile("odd", "JPEG with endless EXIF", photo[:2] + app1 + photo[2:], may_be_answered=True)
    yield HostileFile("odd", "JPEG and a megabyte of zeros", photo + bytes(1_000_000), may_be_answered=True)
    yield HostileFile("odd", "JPEG larger than is taken", photo + bytes(20_000_000))
    yield HostileFile("odd", "JPEG that is a page, too", b"<html>" + photo)
    yield HostileFile("odd", "JPEG in a JPEG", photo[:1000] + photo)


def slow_jpeg(side: int = SIDE, scans: int = SCANS) -> bytes:
    """A grey, progressive JPEG whose every scan is a hundred bytes long and costs the time of a whole picture.

    Each scan after the first says of one coefficient that it is zero in all blocks, in runs of up to 32,767 blocks
    (ITU-T T.81, G.1.2.2): a code of one bit, then 14 bits of the run's length.
    """
    blocks = (-(-side // 8)) ** 2
    # The last run is longer than what is left of the picture, which ends it.
    scan = _coded(f"0{'1' * 14}" * -(-blocks // 32_767))
    head = b"\xff\xd8" + _segment(0xDB, b"\0" + b"\1" * 64)
    head += _segment(0xC2, struct.pack(">BHHB3B", 8, side, side, 1, 1, 0x11, 0))
    for table, symbol in ((0x00, 0x00), (0x10, 0xE0)):
        head += _segment(0xC4, bytes((table, 1)) + bytes(15) + bytes((symbol,)))
    parts = [head, _segment(0xDA, b"\x01\x01\x00\x00\x00\x00"), _coded("0" * blocks)]
    for number in range(scans - 1):
        coefficient, again = 1 + number % 63, number // 63
        step = 0x02 if not again else (3 - again) << 4 | 2 - again
        parts += [_segment(0xDA, bytes((1, 1, 0x00, coefficient, coefficient, step))), scan]
    return b"".join(parts) + b"\xff\xd9"


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def _coded(bits: str) -> bytes:
    """Bits as a scan's data: filled up with ones, and a zero after each 0xFF."""
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
