"""Parts of the photos in this folder that no command of Debian writes: PNG chunks, table-based profiles, damage.

`make.sh` calls it: python3 chunks.py ACTION ARGUMENTS. Needs numpy and Pillow.
"""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

D50 = np.array([0.9642, 1.0, 0.8249])
SRGB_TO_D50 = np.array([[0.4360, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(source, target, *chunks):
    """Copy a PNG without ancillary chunks, with these in front of its pixels: NAME=HEXBYTES."""
    data = Path(source).read_bytes()
    at, kept, new = 8, [data[:8]], [named.split("=") for named in chunks]
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[at : at + 12 + length])
        if kind == b"IHDR":
            kept += [chunk(name.encode(), bytes.fromhex(body)) for name, body in new]
        at += 12 + length
    Path(target).write_bytes(b"".join(kept))


def xyz(rgb):
    """sRGB (..., 3) from 0 to 1 to XYZ under D50."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ SRGB_TO_D50.T


def lab(rgb):
    """sRGB (..., 3) from 0 to 1 to CIELAB; L* of 100, a* and b* of 255 from -128 on, as tables store them."""
    t = xyz(rgb) / D50
    x, y, z = np.moveaxis(np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29), -1, 0)
    return np.stack(((116 * y - 16) * 2.55, 500 * (x - y) + 128, 200 * (y - z) + 128), axis=-1)


def table_profile(kind, space, bits, curve, table):
    """An ICC version 2 profile with a lut8 or lut16 table to CIELAB (ICC.1:2001-04, 6.5.7 and 6.5.8).

    curve (256,) from 0 to 1, of every channel; table (points, ..., points, 3), of 255.
    """
    unit = b"".join(struct.pack(">i", 65536 if i in (0, 4, 8) else 0) for i in range(9))
    sizes, most, number = {8: (b"", 255, ">u1"), 16: (struct.pack(">HH", 256, 256), 65535, ">u2")}[bits]
    lut = b"mft%d" % (bits // 8) + bytes((0, 0, 0, 0, table.ndim - 1, 3, table.shape[0], 0)) + unit + sizes
    lut += (curve * most).round().astype(number).tobytes() * (table.ndim - 1)
    lut += (table * (1 if bits == 8 else 256)).round().clip(0, most).astype(number).tobytes()
    lut += (np.linspace(0, most, 256)).round().astype(number).tobytes() * 3
    white = b"".join(struct.pack(">i", round(v * 65536)) for v in D50)
    tags = [
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", 6) + b"table\0" + bytes(12 + 67)),
        (b"cprt", b"text\0\0\0\0none\0"),
        (b"wtpt", b"XYZ \0\0\0\0" + white),
        (b"A2B0", lut),
    ]
    at, heads, bodies = 132 + 12 * len(tags), b"", b""
    for name, body in tags:
        heads += name + struct.pack(">II", at + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    form = (kind, space, b"Lab ", b"acsp", white)
    header = struct.pack(">I4xI4s4s4s12x4s28x12s48x", at + len(bodies), 0x02400000, *form)
    return header + struct.pack(">I", len(tags)) + heads + bodies


def grid(points, channels):
    return np.stack(np.meshgrid(*[np.linspace(0, 1, points)] * channels, indexing="ij"), axis=-1)


def rotated(source, *targets):
    """The picture with its channels stored as blue, red, green, and a table to CIELAB that puts them right."""
    image = np.asarray(Image.open(source).convert("RGB"))
    profile = table_profile(b"scnr", b"RGB ", 16, np.linspace(0, 1, 256), lab(grid(17, 3)[..., [1, 2, 0]]))
    for target in targets:
        Image.fromarray(image[..., [2, 0, 1]].copy()).save(target, icc_profile=profile, quality=95, subsampling=0)


def inks(source, target):
    """The picture in CMYK for inks that cover less than they should, and a table to CIELAB that says so."""
    points = 9
    light = 1 - grid(points, 4) * 0.9
    table = lab(light[..., :3] * light[..., 3:])
    profile = table_profile(b"prtr", b"CMYK", 16, np.linspace(0, 1, 256), table)
    rgb = np.asarray(Image.open(source).convert("RGB")) / 255
    black = 0.5 + 0.5 * rgb.max(-1, keepdims=True)
    covered = np.concatenate((1 - rgb / black, 1 - black), axis=-1)
    stored = (covered.clip(0, 0.9) / 0.9 * 255).round().astype(np.uint8)
    image = Image.frombytes("CMYK", rgb.shape[1::-1], stored.tobytes())
    image.save(target, quality=95, subsampling=0, icc_profile=profile)


def damage(source, target, what):
    """A JPEG with a part of its data cut out, zeroed, doubled or followed by other bytes."""
    data = Path(source).read_bytes()
    first = data.rindex(b"\xff\xda") if what == "end" else data.index(b"\xff\xda")
    middle, end = (first + len(data)) // 2, data.rindex(b"\xff\xd9")
    made = {
        "cut": data[:middle],
        "end": data[: (first + end) // 2] + b"\xff\xd9",
        "hole": data[: middle - 400] + data[middle:],
        "zeroed": data[: middle - 400] + bytes(400) + data[middle:],
        "doubled": data[:middle] + data[middle - 400 :],
        "padded": data[:end] + bytes(64) + data[end:],
        "followed": data + b"\0" * 3 + b"sold by a camera\xff\xd8\xff",
        "garbage": data[:2] + b"\0\1\2" + data[2:],
        "fill": data[:2] + b"\xff" * 7 + data[2:],
        "twelve": data.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
    }[what]
    Path(target).write_bytes(made)


ACTIONS = {"png": png, "rotated": rotated, "inks": inks, "damage": damage}
if __name__ == "__main__":
    ACTIONS[sys.argv[1]](*sys.argv[2:])
