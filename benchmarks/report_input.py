"""Reads what `skingpt-bench run` and `benchmarks/gpu.sh` wrote, and refuses what a report could not show rightly."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn

from ..engines.errors import InputError
from .figures import SCHEMA

GPU_SCHEMA = "skingpt-gpu/1"
"""Several results and the parity between devices in one file, as `benchmarks/gpu.sh` brings them home."""

EACH = "*"  # stands for every name of an object
NUMBER = (int, float)

Results = dict[str, Any]


@dataclass(frozen=True)
class OrNull:
    """Null, or a value of this shape."""

    shape: Any


SECONDS = {"trials": [NUMBER], "p50": NUMBER, "p90": NUMBER, "p99": NUMBER, "min": NUMBER}
LIMIT = {"by": str, "seconds": NUMBER, "share": NUMBER}
OPERATOR = {"op": str, "calls": int, "seconds": NUMBER}
POINT = {"x": NUMBER, "trials": [NUMBER], "p50": NUMBER}
SHAPE = {
    "created": str,
    "suite": str,
    "machine": {
        **{"cpu": str, "cores": int, "ram_bytes": int, "os": str, "kernel": str},
        **{"isa": [str], "gpu": [str]},
    },
    "versions": {EACH: (str, NoneType)},
    "bundle": {
        **{"name": str, "id": str, "size_bytes": int, "context": int},
        **{"vision": str, "language_model": str, "notice": str},
    },
    "engines": {EACH: {"engine": str, "version": str, "device": str, "precision": str, "threads": int}},
    "threads": int,
    "work": {EACH: int},
    "ceilings": {EACH: {"value": NUMBER, "unit": str, "trials": [NUMBER], "how": str}},
    "stages": [{"engine": str, "stage": str, "state": str, "seconds": SECONDS, "limit": OrNull(LIMIT)}],
    "memory": [
        {"engine": str, "stage": str, "rss_anon": int, "rss_file": int, "swap": int, "peak_anon": int},
    ],
    "energy": {"joules_per_answer": OrNull(NUMBER), "source": OrNull(str), "note": str},
    "growth": {EACH: {"x_label": str, "y_label": str, "unit": str, "points": [POINT]}},
    "profile": {EACH: [OPERATOR]},
    "ratios": {
        EACH: {
            **{"what": str, "value": OrNull(NUMBER), "low": OrNull(NUMBER), "high": OrNull(NUMBER)},
            **{"trials": int, "unit": str, "target": OrNull({EACH: NUMBER}), "met": OrNull(bool), "note": str},
        }
    },
    "skipped": [str],
}
"""What the report reads of a document; `results.schema.json` describes the whole of it."""


def read_results(path: Path) -> Results:
    """One run's results. Raises InputError for another schema, or if something the report needs is missing."""
    document = _read_json(path)
    _check_results(document, path)
    return document


def read_all(paths: Sequence[Path]) -> list[Results]:
    """The results of all files in order; a file of `benchmarks/gpu.sh` may hold several. Raises InputError."""
    found = []
    for path in paths:
        document = _read_json(path)
        if document.get("schema") == GPU_SCHEMA:
            _check(document, {"results": [dict]}, "", path)
            for results in document["results"]:
                _check_results(results, path)
            found += document["results"]
        else:
            _check_results(document, path)
            found.append(document)
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds a {type(document).__name__}, expected an object of skingpt-bench")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no measurement")


def _check_results(document: Results, path: Path) -> None:
    if document.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: its schema is {document.get('schema')!r}, this version reads {SCHEMA!r}: "
            "make it again with `skingpt-bench run`"
        )
    _check(document, SHAPE, "", path)


def _check(value: Any, shape: Any, where: str, path: Path) -> None:
    if isinstance(shape, OrNull):
        if value is not None:
            _check(value, shape.shape, where, path)
    elif isinstance(shape, list):
        _check_type(value, list, where, path)
        for number, item in enumerate(value):
            _check(item, shape[0], f"{where}[{number}]", path)
    elif isinstance(shape, dict):
        _check_type(value, dict, where, path)
        for name in value if EACH in shape else shape:
            if name not in value:
                raise InputError(f"{path}: {_join(where, name)} is missing")
            _check(value[name], shape[EACH] if EACH in shape else shape[name], _join(where, name), path)
    else:
        _check_type(value, shape, where, path)


def _check_type(value: Any, types: Any, where: str, path: Path) -> None:
    # To Python True is a number; in a document it is none.
    if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
        kinds = types if isinstance(types, tuple) else (types,)
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"{path}: {where or 'the document'} is {str(value)[:60]!r}, expected {expected}")


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
