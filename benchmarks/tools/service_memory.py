"""Asks thousands of questions about different pictures: whether the memory of server and model stays as it is."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..report.plot_style import DARK, LIGHT, MUTED, ORANGE, check_plotter, legend_below, new_figure, save, style, title
from .service_checks import Findings, Say, tally
from .service_client import ANSWERED, KINDS, NATIVE, Outcome, ask, fetch, new_photo, outcome, request
from .service_start import RunningService, running

CLIENTS = 3
SAMPLES = 100  # of memory, over all requests
DELETED = 5  # every so many native conversations, one is deleted
WARM = 0.2  # the share of the requests after which the memory is to be flat
MOST_SLOPE, MOST_GROWTH = 5e6, 10e6  # bytes in a thousand requests, and bytes in all requests after the warm ones
PROCESSES = {"server": DARK, "model": ORANGE, "decoder": LIGHT}


async def run_memory(count: int, say: Say) -> Findings:
    """`count` requests."""
    async with running() as service:
        samples: list[dict[str, float]] = []
        outcomes, deleted = await _ask_all(service, count, samples, say)
        restarts = len(service.events("worker_restarts"))
    found = Findings({"requests": len(outcomes), "conversations deleted": deleted})
    found.none("requests without an answer", (one for one in outcomes if one.end != ANSWERED))
    found.equal("restarts of the model's process", restarts, 0)
    found.more = {"kinds": tally(one.kind for one in outcomes), "samples": samples}
    if count < 1000:  # too few to tell growth from warming up
        return found
    for name in PROCESSES:
        slope, growth = memory_growth(samples, name, int(count * WARM))
        found.most_bytes(f"{name}: growth in a thousand requests", slope, MOST_SLOPE)
        found.most_bytes(f"{name}: growth after the first {WARM:.0%} of the requests", growth, MOST_GROWTH)
        found.more[f"{name}: bytes in a thousand requests"] = round(slope)
    return found


def memory_growth(samples: Sequence[Mapping[str, float]], name: str, first: int) -> tuple[float, float]:
    """Bytes in a thousand requests by least squares, and from the first warm samples to the last ones."""
    warm = [(one["requests"], one[name]) for one in samples if one["requests"] >= first]
    requests, sizes = np.array(warm).T
    slope = float(np.polyfit(requests, sizes, 1)[0]) * 1000
    share = max(len(sizes) // 10, 1)
    return slope, float(np.median(sizes[-share:]) - np.median(sizes[:share]))


async def _ask_all(
    service: RunningService, count: int, samples: list[dict[str, float]], say: Say
) -> tuple[list[Outcome], int]:
    """All outcomes, and how many conversations were deleted; the memory of each process goes into `samples`."""
    outcomes: list[Outcome] = []
    numbers = iter(range(count))
    deleted, every, begun = 0, max(count // SAMPLES, 1), time.monotonic()

    async def client() -> None:
        nonlocal deleted
        for number in numbers:
            kind = KINDS[number % len(KINDS)]
            done = await outcome(service, kind, ask(service, kind, new_photo(number)))
            outcomes.append(done)
            if kind == NATIVE and number // len(KINDS) % DELETED == 0 and done.reply:
                deleted += await _follow_up_and_delete(service, done.reply.headers["x-conversation-id"])
            if len(outcomes) % every == 0:
                sizes = {name: float(one.rss) for name, one in service.levels().items()}
                samples.append({"requests": len(outcomes), "seconds": round(time.monotonic() - begun, 1), **sizes})
            if len(outcomes) % 200 == 0:
                say(f"{len(outcomes)} of {count}: {samples[-1]}")

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return outcomes, deleted


async def _follow_up_and_delete(service: RunningService, number: str) -> int:
    """Ask one more question of a conversation and wipe it; how many were wiped."""
    body, path = json.dumps({"question": "What should be done?"}).encode(), f"/v1/conversations/{number}"
    headers = ("Content-Type: application/json", "Accept: application/json")
    asked = await fetch(service, request(service, "POST", f"{path}/questions", body, *headers))
    gone = await fetch(service, request(service, "DELETE", path))
    return int(asked.status == 200 and gone.status == 204)


def plot_memory(found: Mapping[str, Any], target: Path) -> None:
    """The memory of each process over the requests, as PNG."""
    check_plotter()
    samples = found["samples"]
    figure = new_figure(4.2)
    axis = figure.subplots()
    style(axis, grid="y")
    requests = [one["requests"] for one in samples]
    for name, colour in PROCESSES.items():
        sizes = [one[name] / 1e6 for one in samples]
        slope = found.get(f"{name}: bytes in a thousand requests")
        growth = "" if slope is None else f", {slope / 1e6:+.1f} MB in 1,000 requests"
        axis.plot(requests, sizes, color=colour, lw=1.8, label=f"{name}{growth}")
    axis.axvline(requests[-1] * WARM, color=MUTED, lw=0.8, ls=":")
    axis.annotate("slopes from here", (requests[-1] * WARM, axis.get_ylim()[1]), xytext=(5, -12), color=MUTED,
                  textcoords="offset points", fontsize=9)  # fmt: skip
    axis.set_ylim(bottom=0)
    axis.set_xlim(0, requests[-1])
    axis.set_xlabel("requests answered, each about another picture")
    axis.set_ylabel("resident memory in MB")
    title(axis, "Memory of the service's processes")
    legend_below(figure, axis)
    save(figure, target)
