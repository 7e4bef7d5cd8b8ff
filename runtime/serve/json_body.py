"""Reads a request's JSON, and values in its query. What is wrong with them is said without quoting them."""

import json
import re
from typing import Any, TypeVar

import msgspec

from .problems import Problem

Kind = TypeVar("Kind")
MAX_PARTS = 200_000  # values, or commas in texts; many more would take seconds, in which nobody else is served
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?", re.ASCII)


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8 in which no name stands twice. Raises Problem."""
    if sum(map(body.count, (b"{", b"[", b","))) > MAX_PARTS:
        raise Problem("json_unusable", f"The JSON has more than {MAX_PARTS:,} brackets and commas.")
    try:
        msgspec.json.decode(body)  # stricter: no NaN, no half characters
        given = json.loads(body.decode(), object_pairs_hook=_without_doubles, parse_float=_number)
    except msgspec.MsgspecError as error:
        said = str(error).partition(" - at ")[0]  # with the number of a byte
        raise Problem("json_unusable", f"{said}.") from None
    except RecursionError:
        raise Problem("json_unusable", "The JSON is nested too deeply.") from None
    except ValueError:  # strings that are not UTF-8; numbers of thousands of digits
        raise Problem("json_unusable", "The body is not JSON in UTF-8.") from None
    if not isinstance(given, dict):
        raise Problem("json_unusable", "The body is not a JSON object.")
    return given


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Problem("json_unusable", "An object of the JSON has the same name twice.")
    return found


def _number(text: str) -> float:
    """JSON has one kind of number: 3.0 is a whole one."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def read_query(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """The values of a query, in which no name stands twice; what is a number in JSON is one. Raises Problem."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise Problem("value_unusable", "The query has the same name twice.")
    return {name: _number(text) if NUMBER.fullmatch(text) else text for name, text in pairs}


def convert(given: dict[str, Any], kind: type[Kind]) -> Kind:
    """The object as `kind`, a msgspec.Struct. Raises Problem with the field that is wrong."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise _unusable(str(error)) from None


def _unusable(text: str) -> Problem:
    """What msgspec says, without the words of the client that it quotes."""
    if unknown := re.match("Object contains unknown field `(.*)`", text, re.S):
        return field_unknown(unknown[1])
    said, _, path = text.rpartition(" - at `$")  # what is quoted stands before
    field = path.rstrip("`").lstrip(".") if said else ""
    said = said or text
    if re.match("Invalid enum value|Invalid value", said):
        said = "Not one of the values that there are"
    return Problem("value_unusable", f"{field}: {said}." if field else f"{said}.", param=field or None)


def field_unknown(name: str) -> Problem:
    """A field that there is not; it is named only if it looks like the name of one."""
    param = name if re.fullmatch("[a-z][a-z_]{0,39}", name) else None
    return Problem("field_unknown", "The request has a field that this service does not know.", param=param)
