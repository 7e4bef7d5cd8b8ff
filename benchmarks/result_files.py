"""Reads result files and checks them against `results.schema.json`, the one description of their format."""

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from ..engines.errors import EngineUnavailable, InputError
from ..runtime.printable import one_line

SCHEMA = "skingpt-bench/2"
"""The version that is written."""
READABLE = ("skingpt-bench/1", SCHEMA)
GPU_SCHEMA = "skingpt-gpu/1"
"""Several results in one file, with the parity of two devices, as `tools/gpu.sh` writes it."""
LONGEST_PROBLEM = 200  # letters; a message may quote the whole value that is wrong

Results = dict[str, Any]


def read_results(path: Path) -> Results:
    """The results of one run. Raises InputError naming the file and the field, EngineUnavailable without jsonschema."""
    (results,) = _checked([_read_json(path)], path)
    return results


def read_all(paths: Sequence[Path]) -> list[Results]:
    """The results of all files in order; a file of `tools/gpu.sh` may hold several. Raises as `read_results` does."""
    found: list[Results] = []
    for path in paths:
        document = _read_json(path)
        documents = document.get("results") if document.get("schema") == GPU_SCHEMA else [document]
        if not isinstance(documents, list):
            raise InputError(f"{path}: has no list of results")
        found += _checked(documents, path)
    return found


def load_schema() -> dict[str, Any]:
    """The JSON Schema of results."""
    schema: dict[str, Any] = json.loads(files(__package__).joinpath("results.schema.json").read_text(encoding="utf-8"))
    return schema


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


def _checked(documents: Sequence[Any], path: Path) -> Iterator[Results]:
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match
    except ImportError:
        raise EngineUnavailable("reading results needs jsonschema: pip install 'skingpt-edge[bench]'") from None
    validator = Draft202012Validator(load_schema())
    for document in documents:
        name = document.get("schema") if isinstance(document, dict) else None
        if name not in READABLE:
            raise InputError(
                f"{path}: its schema is {name!r}, this version reads {' and '.join(READABLE)}: "
                "make it again with `skingpt-bench run`"
            )
        if error := best_match(validator.iter_errors(document)):
            where = error.json_path.removeprefix("$").removeprefix(".") or "the results"
            raise InputError(f"{path}: {where}: {one_line(error.message)[:LONGEST_PROBLEM]}")
        yield document
