"""Checks the values that a user gives in Python, so that a wrong one is named at once and not found by a library."""

import operator
from numbers import Real

from ..engines.errors import InputError


def whole_number(name: str, value: object, low: int, high: int | None = None) -> int:
    """The value as an int; also NumPy's integers are taken, but no bool. Raises InputError."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None:
        raise InputError(f"{name} is {value!r:.60}, expected a whole number")
    if number < low or (high is not None and number > high):
        raise InputError(f"{name} is {number}, expected {f'at least {low}' if high is None else f'{low} to {high}'}")
    return number


def real_number(name: str, value: object, low: float, high: float, *, above: bool = False) -> float:
    """The value as a float from `low` to `high`, or `above` the lowest; no bool. Raises InputError."""
    try:
        number = None if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        number = None
    if number is None:
        raise InputError(f"{name} is {value!r:.60}, expected a number")
    if not low <= number <= high or (above and number == low):  # not true of NaN
        expected = f"above {low} and at most {high}" if above else f"{low} to {high}"
        raise InputError(f"{name} is {value}, expected {expected}")
    return number


def instance(name: str, value: object, kind: type) -> None:
    """Raises InputError if the value is of another class."""
    if not isinstance(value, kind):
        raise InputError(f"{name} is {value!r:.60}, expected {kind.__name__}")
