"""Ends or stops the model's process under load: what becomes of the requests, and how soon there are answers again."""

import asyncio
import os
import random
import signal
import time
from typing import Any

from .service_checks import Findings, Say, tally
from .service_client import KINDS, Load, new_photo
from .service_start import RunningService, running, seconds_between

CLIENTS = 4
HANG_SECONDS = 3.0
PING_SECONDS = 1.0  # between two questions for a sign of life
AFTER_LOAD = 2.0  # within which there is an answer again
SIGNALS = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV)
LOADING = 10  # every so many kills, the next process is killed while it loads, too
SEED = 16


async def run_kills(count: int, say: Say) -> Findings:
    """The process ends."""
    return await _run(list(SIGNALS), count, AFTER_LOAD, "worker_ended", say)


async def run_hangs(count: int, say: Say) -> Findings:
    """The process stops, and is found by its silence."""
    return await _run([signal.SIGSTOP], count, AFTER_LOAD + HANG_SECONDS + PING_SECONDS, "worker_hung", say)


async def _run(signals: list[signal.Signals], count: int, limit: float, code: str, say: Say) -> Findings:
    photos = [new_photo(number) for number in range(100)]
    kills: list[dict[str, Any]] = []
    async with running(hang_seconds=HANG_SECONDS) as service:
        load = Load(service, CLIENTS, photos, KINDS)
        await load.answered_after(0, 60)
        while (number := len(kills)) + sum(one["while_loading"] for one in kills) < count:
            while_loading = len(signals) > 1 and number % LOADING == LOADING - 1
            kills.append(await _kill(service, load, signals[number % len(signals)], while_loading=while_loading))
            if number % 20 == 19:
                say(f"{number + 1}, slowest {max(one['seconds'] for one in kills):.1f} s")
        ended = service.ended
        starts = len(service.events("decoder_started"))
        outcomes = await load.stop()
    hit = [done for done in outcomes if any(done.begun < one["at"] < done.ended for one in kills)]
    sent = len(kills) + sum(one["while_loading"] for one in kills)
    found = Findings({"kills": sent, "requests": len(outcomes), "of them in flight at a kill": len(hit)})
    found.none("requests without an answer or an error with a code", (one for one in outcomes if not one.typed))
    found.equal("errors are", {one.end for one in outcomes if one.end.startswith("error")}, {f"error {code}"})
    found.none("kills after which no request was answered", (one for one in kills if one["seconds"] == float("inf")))
    found.equal("the server's process ended", ended, False)
    found.equal("starts of the decoding process", starts, 1)
    beyond = max(one["seconds"] - one["load_seconds"] for one in kills)
    found.most("slowest next answer, beyond one start of the model", beyond, limit)
    found.more = {
        **found.more,
        "ends of requests in flight": tally(one.end for one in hit),
        "ends of all requests": tally(one.end for one in outcomes),
        "signals": tally(one["signal"] for one in kills),
        "killed while loading": sum(one["while_loading"] for one in kills),
        "slowest next answer in seconds": round(max(one["seconds"] for one in kills), 3),
        "slowest start of the model in seconds": round(max(one["load_seconds"] for one in kills), 3),
        "kills": [{name: value for name, value in one.items() if name != "at"} for one in kills],
    }
    return found


async def _kill(service: RunningService, load: Load, number: signal.Signals, *, while_loading: bool) -> dict[str, Any]:
    """One kill, or two if the second is to meet the next process while it loads, and the answer after it.

    `load_seconds`: from the start of the process that answered then until it was ready.
    """
    random_seconds = random.Random(f"{SEED} {time.monotonic()}").uniform  # noqa: S311
    await asyncio.sleep(random_seconds(0, 1))
    if while_loading:
        starts = len(service.events("worker_started"))
        os.kill(service.worker_pid(), number)
        await service.until(lambda: len(service.events("worker_started")) > starts, 30, 0.005)
        await asyncio.sleep(random_seconds(0, 0.5))
    at = time.monotonic()
    os.kill(service.worker_pid(), number)
    done = await load.answered_after(at, 120)
    started, ready = service.events("worker_started")[-1], service.events("worker_ready")[-1]
    return {
        "at": at,
        "signal": number.name,
        "while_loading": while_loading,
        "seconds": round(done.ended - at, 3) if done else float("inf"),
        "load_seconds": round(seconds_between(started, ready), 3),
    }
