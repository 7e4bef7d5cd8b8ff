"""What an ONNX file says of its weights, read and checked before any engine has it.

An ONNX file may name any file and any place in it for its weights. Here each weight must have its own part of the one
file that belongs to the graph. The fields are those of onnx.proto3 (https://github.com/onnx/onnx); the package `onnx`
would be a large dependency for these few.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .base import Array
from .errors import BundleError

ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes of an item of each of TensorProto's data types that are whole bytes."""
FLOATS = {1: np.float32, 10: np.float16, 11: np.float64}
BFLOAT16, BFLOAT16_EXPONENT = 16, 0x7F80  # all its bits set: NaN or infinity
EXTERNAL = 1
CHUNK = 1 << 24  # items looked at in one go
ALIGNMENT, LARGEST_GAP = 4096, 65536
"""The exporter's library begins small weights where the one before ends, large ones at a multiple of 64 KiB."""

MODEL_GRAPH, MODEL_TRAINING, MODEL_FUNCTIONS = 7, 20, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 5, 15
NODE_ATTRIBUTE = 5
ATTRIBUTE_TENSOR, ATTRIBUTE_OTHERS = 5, {6, 10, 11, 22, 23}  # graphs, lists of tensors and of graphs, sparse tensors
DIMS, DATA_TYPE, NAME, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 1, 2, 8, 9, 13, 14
KEY, VALUE = 1, 2


@dataclass(frozen=True)
class OnnxWeight:
    """A weight of a graph."""

    name: str
    data_type: int
    """TensorProto's number of it."""
    shape: tuple[int, ...]
    raw: memoryview | None
    """Its bytes, if they are inside the file."""
    place: dict[str, str] | None
    """Where they are otherwise: `location`, `offset` and `length`."""


def check_onnx_file(path: Path) -> None:
    """Check where a graph's weights are, and that each is finite. `path.data` beside the file may hold them.

    Raises BundleError for a file that is no ONNX graph, a weight elsewhere, or one that holds NaN or infinity.
    """
    weights = read_weights(path)
    beside = path.with_name(f"{path.name}.data")
    data = np.memmap(beside, np.uint8, "r") if beside.exists() and beside.stat().st_size else np.empty(0, np.uint8)
    taken = []
    for weight in weights:
        if weight.place is None:
            content = np.frombuffer(weight.raw or b"", np.uint8)
        else:
            begin, end = _place(weight, beside.name, len(data), path.name)
            taken.append((begin, end, weight.name))
            content = data[begin:end]
        if not _finite(content, weight.data_type):
            raise BundleError(f"{path.name}: {weight.name} holds NaN or infinity")
    taken.sort()
    for (_, end, name), (begin, _, other) in pairwise([(0, 0, "the file's beginning"), *taken]):
        if begin < end:
            raise BundleError(f"{path.name}: {name} and {other} share bytes of {beside.name}")
        if begin > end and (begin % ALIGNMENT or begin - end >= LARGEST_GAP):
            raise BundleError(f"{path.name}: there is a gap between {name} and {other} in {beside.name}")


def read_weights(path: Path) -> list[OnnxWeight]:
    """All weights of a graph, in the order of the file. Raises BundleError."""
    try:
        return list(_weights(memoryview(path.read_bytes())))
    except (IndexError, ValueError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise BundleError(f"{path.name}: not a readable ONNX graph ({error})") from None


def _place(weight: OnnxWeight, allowed: str, size: int, file: str) -> tuple[int, int]:
    """First byte and end of a weight in the file beside the graph."""
    place, what = weight.place or {}, f"{file}: {weight.name}"
    if place.get("location") != allowed:
        raise BundleError(f"{what} lies in {place.get('location')!r}; only {allowed} is read")
    for key in ("offset", "length"):
        if not place.get(key, "").isascii() or not place.get(key, "").isdigit() or len(place[key]) > 18:
            raise BundleError(f"{what} has no {key} that is a number: {place.get(key)!r}")
    begin, length = int(place["offset"]), int(place["length"])
    expected = math.prod(weight.shape) * ITEM_BYTES.get(weight.data_type, 0)
    if length != expected or not length:
        raise BundleError(f"{what} takes {length} bytes, but its shape {weight.shape} needs {expected}")
    if begin + length > size:
        raise BundleError(f"{what} ends at byte {begin + length} of {allowed}, which has {size}")
    return begin, begin + length


def _finite(content: Array, data_type: int) -> bool:
    """Whether bytes of this type hold neither NaN nor infinity."""
    if data_type not in FLOATS and data_type != BFLOAT16:
        return True
    kind = np.dtype(FLOATS.get(data_type, np.uint16))
    items = content[: len(content) // kind.itemsize * kind.itemsize].view(kind)
    for start in range(0, len(items), CHUNK):
        part = items[start : start + CHUNK]
        bad = part & BFLOAT16_EXPONENT == BFLOAT16_EXPONENT if data_type == BFLOAT16 else ~np.isfinite(part)
        if bad.any():
            return False
    return True


def _weights(model: memoryview) -> Iterator[OnnxWeight]:
    graphs = [value for field, value in _fields(model) if field == MODEL_GRAPH]
    if len(graphs) != 1:
        raise ValueError(f"{len(graphs)} graphs in it")
    if any(field in (MODEL_TRAINING, MODEL_FUNCTIONS) for field, _ in _fields(model)):
        raise ValueError("it holds functions or a training graph")
    for field, value in _fields(graphs[0]):
        if field == GRAPH_INITIALIZER:
            yield _weight(value)
        elif field == GRAPH_SPARSE:
            raise ValueError("it holds a sparse weight")
        elif field == GRAPH_NODE:
            yield from _attribute_weights(value)


def _attribute_weights(node: memoryview) -> Iterator[OnnxWeight]:
    for field, attribute in _fields(node):
        for part, value in _fields(attribute) if field == NODE_ATTRIBUTE else ():
            if part == ATTRIBUTE_TENSOR:
                yield _weight(value)
            elif part in ATTRIBUTE_OTHERS:
                raise ValueError("a node holds a graph or a list of weights")


def _weight(tensor: memoryview) -> OnnxWeight:
    shape: list[int] = []
    single: dict[int, Any] = {DATA_TYPE: 0, NAME: b"", RAW_DATA: None, DATA_LOCATION: 0}
    place: dict[str, str] = {}
    for field, value in _fields(tensor):
        if field == DIMS:
            shape += [value] if isinstance(value, int) else _packed(value)
        elif field == EXTERNAL_DATA:
            entry = {part: bytes(text).decode() for part, text in _fields(value)}
            if entry[KEY] in place:
                raise ValueError(f"a weight has two {entry[KEY]}s")
            place[entry[KEY]] = entry[VALUE]
        elif field in single:
            single[field] = value
    external = single[DATA_LOCATION] == EXTERNAL
    if bool(place) != external:
        raise ValueError("a weight is both inside and outside the file")
    name = bytes(single[NAME]).decode()
    return OnnxWeight(name, int(single[DATA_TYPE]), tuple(shape), single[RAW_DATA], place if external else None)


def _packed(data: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
    return values


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protobuf message: a whole number, or a memoryview of the bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if not 8 <= tag < 1 << 32:  # readers differ in what they make of it
            raise ValueError(f"field {tag >> 3} has no valid number")
        kind, number = tag & 7, tag >> 3
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field {number} has wire type {kind}")
        if at + size > len(message):
            raise ValueError(f"field {number} ends beyond the file")
        yield number, message[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if value >= 1 << 64:
            raise ValueError("a number of more than 64 bits")
        if byte < 128:
            return value, at
