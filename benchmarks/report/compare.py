"""`skingpt-bench compare A B`: what is different in B, and whether it is more than the spread of the trials."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engines.errors import InputError
from ..result_files import Results, read_results
from .labels import ENGINES, LIMITS, STAGES, digits, quantity, si


@dataclass(frozen=True)
class Range:
    """A figure and the smallest and largest of its trials."""

    value: float
    low: float
    high: float
    trials: int


@dataclass(frozen=True)
class Row:
    """One figure of A and of B."""

    what: str
    a: Range
    b: Range
    shown: tuple[str, str]
    words: tuple[str, str]
    """What it is called if the figure of B is smaller, and if it is larger."""

    @property
    def cells(self) -> tuple[str, ...]:
        ratio, low, high = (_quotient(*pair) for pair in self._pairs())
        return (self.what, *self.shown, ratio, f"{low}–{high}", self.verdict)

    def _pairs(self) -> tuple[tuple[float, float], ...]:
        a, b = self.a, self.b
        return (b.value, a.value), (b.low, a.high), (b.high, a.low)

    @property
    def verdict(self) -> str:
        if self.a.value == self.b.value:
            return "equal"
        if min(self.a.trials, self.b.trials) < 2:
            return "one trial: cannot say"
        if self.a.low <= self.b.high and self.b.low <= self.a.high:
            return "within the spread"
        return self.words[self.b.value > self.a.value]

    @property
    def differs(self) -> bool:
        return self.verdict in self.words


def compare(a: Path, b: Path) -> str:
    """A table of every stage, ceiling and ratio of B against A.

    The spread is the smallest and largest ratio that the trials allow. Where the trials of A and B overlap, the
    difference is within the spread. Raises InputError if the two did not do the same work.
    """
    first, second = read_results(a), read_results(b)
    _check_comparable(first, second, a, b)
    rows = [*_ceilings(first, second), *_stages(first, second), *_ratios(first, second)]
    lines = [f"A: {a}", f"B: {b}", *(f"warning: {text}" for text in _warnings(first, second)), ""]
    lines += _aligned(("", "A", "B", "B / A", "spread", ""), [row.cells for row in rows])
    different = [f"{row.what} ({row.verdict})" for row in rows if row.differs]
    ending = f": {', '.join(different)}" if different else ""
    lines += ["", f"{len(different)} of {len(rows)} differ by more than the spread{ending}"]
    return "\n".join(lines)


def _check_comparable(first: Results, second: Results, a: Path, b: Path) -> None:
    names = [results["bundle"]["name"] for results in (first, second)]
    if names[0] != names[1]:
        raise InputError(f"{a} is of {names[0]!r} and {b} of {names[1]!r}: compare results of bundles of one shape")
    for key in first["work"]:
        counts = [results["work"][key] for results in (first, second)]
        if counts[0] != counts[1]:
            raise InputError(
                f"{key} is {counts[0]} in {a} (suite {first['suite']}) and {counts[1]} in {b} "
                f"(suite {second['suite']}): run both with the same suite and question"
            )


def _warnings(first: Results, second: Results) -> Iterator[str]:
    a, b = _circumstances(first), _circumstances(second)
    if "setup" in first and "setup" in second:  # from version 2 on
        a, b = a | _setup(first), b | _setup(second)
    for what in dict.fromkeys([*a, *b]):
        if a.get(what) != b.get(what):
            yield f"{what} differ: {a.get(what)} in A, {b.get(what)} in B"


def _circumstances(results: Results) -> dict[str, Any]:
    """What may explain a difference, by its name."""
    return {
        **{f"machine's {key}": results["machine"][key] for key in ("cpu", "cores", "gpu")},
        **{key.replace("_", " "): results["bundle"][key] for key in ("vision", "language_model", "context")},
        "threads": results["threads"],
        **{f"versions of {name}": version for name, version in results["versions"].items()},
    }


def _setup(results: Results) -> dict[str, Any]:
    resolved = results["setup"]["resolved"]
    return {
        f"{part.replace('_', ' ')}'s {name.replace('_', ' ')}": value
        for part in ("vision", "language_model")
        for name, value in resolved[part].items()
    }


def _ceilings(first: Results, second: Results) -> Iterator[Row]:
    for name, text in LIMITS.items():
        if not (name in first["ceilings"] and name in second["ceilings"]):
            continue
        a, b = (results["ceilings"][name] for results in (first, second))
        ranges = [_range(item["value"], item["trials"]) for item in (a, b)]
        shown = si(a["value"], a["unit"]), si(b["value"], b["unit"])
        yield Row(f"machine: {text}", ranges[0], ranges[1], shown, ("lower", "higher"))


def _stages(first: Results, second: Results) -> Iterator[Row]:
    others = {(item["engine"], item["stage"], item["state"]): item["seconds"] for item in second["stages"]}
    for item in first["stages"]:
        key = (item["engine"], item["stage"], item["state"])
        if key in others:
            a, b = item["seconds"], others[key]
            what = f"{ENGINES[key[0]]}: {STAGES[key[1]]}, {key[2]}"
            ranges = [_range(seconds["p50"], seconds["trials"]) for seconds in (a, b)]
            yield Row(what, ranges[0], ranges[1], (si(a["p50"], "s"), si(b["p50"], "s")), ("faster", "slower"))


def _ratios(first: Results, second: Results) -> Iterator[Row]:
    for key, a in first["ratios"].items():
        b = second["ratios"].get(key)
        if b is None or None in (a["value"], b["value"]):
            continue
        ranges = [Range(entry["value"], entry["low"], entry["high"], entry["trials"]) for entry in (a, b)]
        shown = quantity(a["value"], a["unit"]), quantity(b["value"], b["unit"])
        yield Row(a["what"], ranges[0], ranges[1], shown, ("lower", "higher"))


def _range(value: float, trials: Sequence[float]) -> Range:
    return Range(value, min([value, *trials]), max([value, *trials]), len(trials))


def _quotient(b: float, a: float) -> str:
    return f"{digits(b / a)}×" if a else "–"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns; all but the first and last are aligned to the right."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    lines = []
    for line in (head, *rows):
        cells = [
            text.rjust(width) if 0 < i < len(head) - 1 else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
