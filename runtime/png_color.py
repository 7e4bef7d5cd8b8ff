"""What a PNG's chunks say about its colours, as an ICC profile."""

import struct

from .image_kind import NotRead
from .png_file import PngFile
from .rgb_profile import Curve, Primaries, rgb_profile

D65 = (0.3127, 0.3290)
BT709 = Primaries(D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
SRGB_CURVE = Curve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
VIDEO_CURVE = Curve(2.4)  # what screens show of BT.709's kind of video: ITU-R BT.1886

# ITU-T H.273, tables 2 and 3.
PRIMARIES = {
    1: BT709,
    4: Primaries((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: Primaries(D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: Primaries(D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: Primaries(D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: Primaries(D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: Primaries((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: Primaries(D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
CURVES = {
    1: VIDEO_CURVE, 4: Curve(2.2), 5: Curve(2.8), 6: VIDEO_CURVE, 8: Curve(1.0), 13: SRGB_CURVE, 14: VIDEO_CURVE,
    15: VIDEO_CURVE,
}  # fmt: skip
HDR = {16: "PQ", 18: "HLG"}
SRGB_GAMMA = 45455  # what writers put beside, or in the place of, the sRGB chunk


def png_profile(png: PngFile) -> bytes | None:
    """The profile to read a PNG's colours with: None for sRGB's own numbers, empty if what it says makes no sense.

    cICP goes before iCCP, that before sRGB, and that before gAMA with cHRM, as in the PNG specification. A gamma of
    1/2.2 with sRGB's primaries is the specification's own way to say sRGB. cHRM alone says nothing.

    Raises NotRead for a PQ or HLG picture, whose look depends on the screen.
    """
    try:
        if b"cICP" in png.chunks:
            return _from_code_points(png.chunks[b"cICP"])
        if png.profile is not None:
            return png.profile
        if b"sRGB" in png.chunks or b"gAMA" not in png.chunks:
            return None
        return _from_gamma(png.chunks[b"gAMA"], png.chunks.get(b"cHRM"))
    except NotRead:
        raise
    except (ValueError, struct.error):
        return b""


def _from_code_points(body: bytes) -> bytes | None:
    primaries, transfer, matrix, full_range = struct.unpack(">4B", body)
    if transfer in HDR:
        raise NotRead(f"high dynamic range ({HDR[transfer]}): save it anew in sRGB with 8 bits a colour")
    if matrix != 0 or full_range != 1 or primaries not in PRIMARIES or transfer not in CURVES:
        raise ValueError("a cICP chunk that no photo has")
    if (primaries, transfer) == (1, 13):
        return None
    return rgb_profile(PRIMARIES[primaries], CURVES[transfer])


def _from_gamma(gamma: bytes, chromaticities: bytes | None) -> bytes | None:
    (encoding,) = struct.unpack(">I", gamma)
    numbers = [number / 100_000 for number in struct.unpack(">8I", chromaticities)] if chromaticities else []
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    primaries = Primaries(*points) if points else BT709
    if encoding == SRGB_GAMMA and _close(primaries, BT709):
        return None
    if not 1_000 <= encoding <= 1_000_000:
        raise ValueError(f"a gamma of {encoding}")
    return rgb_profile(primaries, Curve(100_000 / encoding))


def _close(one: Primaries, other: Primaries) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(abs(a - b) <= 0.001 for first, second in pairs for a, b in zip(first, second, strict=True))
