"""An ICC profile of an RGB space that is described by numbers: primaries, white point and transfer curve."""

import struct
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ..engines.base import Array

XY = tuple[float, float]
D50 = np.array([0.9642, 1.0, 0.8249])  # the profile connection space's white, ICC.1:2022 table 20
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])  # its annex E


@dataclass(frozen=True)
class Primaries:
    """CIE 1931 x and y of an RGB space's white and primaries."""

    white: XY
    red: XY
    green: XY
    blue: XY


@dataclass(frozen=True)
class Curve:
    """From a stored number x to light: (a x + b)^gamma from x = d on, c x below (ICC.1's parametric curve, type 3)."""

    gamma: float
    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0


def rgb_profile(primaries: Primaries, curve: Curve) -> bytes:
    """A matrix profile, ICC version 4.3. Raises ValueError for primaries that span no space."""
    columns = _to_d50(primaries)
    tone = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + b"".join(map(_fixed, vars(curve).values()))
    tags = {
        b"desc": _text("RGB"),
        b"cprt": _text("none"),
        b"wtpt": _xyz(D50),
        **{name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True)},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone),
    }
    at, table, bodies = 128 + 4 + 12 * len(tags), b"", b""
    for name, body in tags.items():
        table += name + struct.pack(">II", at + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    header = struct.pack(
        ">I4xI4s4s4s12x4s24xI12s48x", at + len(bodies), 0x04300000, b"mntr", b"RGB ", b"XYZ ", b"acsp",
        1, b"".join(map(_fixed, D50)),
    )  # fmt: skip
    return header + struct.pack(">I", len(tags)) + table + bodies


def _to_d50(primaries: Primaries) -> Array:
    """The matrix (3, 3) from linear RGB to XYZ, adapted to D50."""
    xyz = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in _checked(primaries)]).T
    white, colours = xyz[:, 0], xyz[:, 1:]
    if abs(np.linalg.det(colours)) < 1e-6:
        raise ValueError("the primaries span no space")
    matrix = colours * np.linalg.solve(colours, white)
    cones = BRADFORD @ white
    adapt = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / cones) @ BRADFORD
    return np.asarray(adapt @ matrix)


def _checked(primaries: Primaries) -> list[XY]:
    points = [primaries.white, primaries.red, primaries.green, primaries.blue]
    if any(not (0 <= x <= 1 and 0 < y <= 1) for x, y in points):
        raise ValueError("a primary is no colour")
    return points


def _fixed(value: float) -> bytes:
    """s15Fixed16Number."""
    number = round(Fraction(float(value)) * 65536)
    if abs(number) >= 1 << 31:
        raise ValueError(f"{value} does not fit into a profile")
    return struct.pack(">i", number)


def _xyz(values: Array) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _text(text: str) -> bytes:
    """multiLocalizedUnicodeType with one text."""
    letters = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xII4sII", 1, 12, b"enUS", len(letters), 28) + letters
