"""Reads a request's JSON. What is wrong with it is said without quoting it."""

import json
import re
from typing import Any, TypeVar

import msgspec

from .problems import Problem

Kind = TypeVar("Kind")


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8 in which no name stands twice. Raises Problem."""
    try:
        given = msgspec.json.decode(body)
        json.loads(body.decode(), object_pairs_hook=_without_doubles)
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


def _without_doubles(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise Problem("json_unusable", "An object of the JSON has the same name twice.")


def convert(given: dict[str, Any], kind: type[Kind], *, strict: bool = True) -> Kind:
    """The object as `kind`, a msgspec.Struct. Raises Problem with the field that is wrong.

    Not `strict`, as for a query: numbers may be texts.
    """
    try:
        return msgspec.convert(given, kind, strict=strict)
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
