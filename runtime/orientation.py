"""Which way up a photo was taken, from the one EXIF tag that says so."""

import struct

from PIL import Image

ORIENTATION, SHORT = 0x0112, 3
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(exif: bytes | None) -> int:
    """1 to 8, from a TIFF structure's first directory (TIFF 6.0, EXIF 2.32); 1 if it does not say.

    No other tag is looked at, because one that is malformed must not decide anything; Pillow's reader decodes all.
    XMP's orientation is not used, as in browsers.
    """
    tiff = (exif or b"").removeprefix(b"Exif\0\0")  # JPEG's name of it; some writers put it into WebP and PNG, too
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    if directory + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(f"{order}H", tiff, directory)
    for at in range(directory + 2, min(directory + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, values, value = struct.unpack_from(f"{order}HHIH", tiff, at)
        if tag == ORIENTATION:
            return value if kind == SHORT and values == 1 and 1 <= value <= 8 else 1
    return 1


def upright(image: Image.Image, exif: bytes | None) -> Image.Image:
    """The picture turned as its EXIF says."""
    method = TRANSPOSE.get(orientation(exif))
    return image if method is None else image.transpose(method)
