"""Statistics of repeated trials: percentiles, and the quotient of two series of trials with its range."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

Json = dict[str, Any]


def percentile(values: Sequence[float], percent: float) -> float:
    """A percentile of the values, interpolated linearly between neighbours."""
    return float(np.percentile(values, percent))


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def statistics(trials: Sequence[float]) -> Json:
    """The trials with their percentiles and their minimum, all in seconds."""
    percentiles = {f"p{percent}": percentile(trials, percent) for percent in (50, 90, 99)}
    return {"trials": list(trials), **percentiles, "min": min(trials)}


def quotient(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """(median of `above` / median of `below`, lowest and highest quotient of two trials).

    Two series of equal length are paired trial by trial. Otherwise every trial is divided by every other.
    In both cases the quotient of the medians lies between the lowest and the highest.
    """
    pairs = zip(above, below, strict=True) if len(above) == len(below) else product(above, below)
    quotients = [a / b for a, b in pairs]
    return median(above) / median(below), min(quotients), max(quotients)


def points(values: Mapping[int, Sequence[float]]) -> list[Json]:
    """Points of a curve with the trials at each, the smallest x first."""
    return [{"x": x, "trials": list(values[x]), "p50": median(values[x])} for x in sorted(values)]
