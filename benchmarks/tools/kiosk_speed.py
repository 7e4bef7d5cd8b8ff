"""How soon the kiosk page shows the first words, and how much of a core it costs while text streams.

A report of 4 × 120 tokens goes from a real service through a relay to a real Chromium. The relay lets through one event
at a time, at a given rate, and notes when the first words pass.

python -m skingpt_edge.benchmarks.tools.kiosk_speed BUNDLE [--rates 3 20] [-o RESULT.json]

BUNDLE must not stop by itself: one with random weights (`skingpt-export synth --shape tiny -o BUNDLE`).
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

from playwright.async_api import Browser, CDPSession, Page, Route, async_playwright

from ...runtime.machine import physical_cores, processor_name
from .kiosk_pictures import CHROMIUM, FLAGS, PICTURES
from .service_load import our_service

TOKENS, SECTIONS = 120, 4
READY = "#get-report:visible, #use-anyway:visible"
IDLE_SECONDS = 20  # of the page that shows a finished report, to compare with
FIRST_WORDS = """() => {
    window.firstWords = new Promise((resolve) => {
        const look = (time) => {
            const said = document.querySelector('#sections .answer')?.textContent;
            if (said) setTimeout(() => resolve(performance.timeOrigin + performance.now()));
            else requestAnimationFrame(look);
        };
        requestAnimationFrame(look);
    });
}"""
"""Resolves when a frame with the first words was made, in milliseconds since 1970. Looking costs time in each frame, so
what the page costs is measured in other runs."""


class Relay:
    """Between browser and service: the events of an answer pass at a given rate."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.pause = 0.0
        """Seconds between two events."""
        self.first_words: float | None = None
        """When the first piece of text passed: seconds since 1970."""
        self._target = target

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_service, to_service = await asyncio.open_connection("127.0.0.1", self._target)
        with suppress(ConnectionError):
            await asyncio.gather(self._requests(reader, to_service), self._answers(from_service, writer))

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ours, theirs = (f"127.0.0.1:{port}".encode() for port in (self.port, self._target))
        while data := await reader.read(1 << 16):
            writer.write(data.replace(ours, theirs))
            await writer.drain()
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        following = 0.0
        while data := await reader.read(1 << 16):
            # A chunk is one event.
            for part in data.replace(b"\n\n\r\n", b"\n\n\r\n\0").split(b"\0"):
                if b"event: text" in part:
                    await asyncio.sleep(following - time.monotonic())
                    following = max(following, time.monotonic()) + self.pause
                    self.first_words = self.first_words or time.time()
                writer.write(part)
            await writer.drain()
        writer.close()


class Costs:
    """Processor time of the page: of its own thread, and of all of Chromium's processes."""

    def __init__(self, page: CDPSession, browser: CDPSession) -> None:
        self._page, self._browser = page, browser

    @classmethod
    async def of(cls, page: Page, browser: Browser) -> "Costs":
        session = await page.context.new_cdp_session(page)
        await session.send("Performance.enable", {"timeDomain": "threadTicks"})
        return cls(session, await browser.new_browser_cdp_session())

    async def now(self) -> dict[str, float]:
        """Seconds so far; `wall` is the time of day."""
        found = (await self._page.send("Performance.getMetrics"))["metrics"]
        thread = next(one["value"] for one in found if one["name"] == "TaskDuration")
        processes = (await self._browser.send("SystemInfo.getProcessInfo"))["processInfo"]
        by_kind: dict[str, float] = {}
        for process in processes:
            by_kind[process["type"]] = by_kind.get(process["type"], 0) + process["cpuTime"]
        return {"page_thread": thread, **by_kind, "chromium": sum(by_kind.values()), "wall": time.monotonic()}

    @staticmethod
    def share(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
        """Of one core, in percent."""
        wall = after["wall"] - before["wall"]
        kinds = [kind for kind in before if kind != "wall"]
        return {"seconds": round(wall, 2)} | {k: round(100 * (after[k] - before[k]) / wall, 2) for k in kinds}


async def choose_photo(page: Page, number: int) -> None:
    await page.locator("#accept").click()
    await page.locator("#choose").wait_for()
    await page.set_input_files("#file", PICTURES[number % len(PICTURES)])
    await page.locator(READY).wait_for()


async def measure(bundle: Path, rates: list[float], trials: int) -> dict[str, Any]:
    """Raises RuntimeError if an answer was shorter than it must be."""
    with our_service(bundle) as service:
        async with Relay(service.port).running() as relay, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = await open_page(browser, f"http://127.0.0.1:{relay.port}/kiosk/#token={service.token}")
            soon = [await first_words(page, relay, trial) for trial in range(trials)]
            costs = await Costs.of(page, browser)
            shares = {f"{rate:g} tokens a second": await while_streaming(page, relay, costs, rate) for rate in rates}
            await choose_photo(page, 0)
            await page.locator(READY).click()
            await page.locator("#report-actions").wait_for(timeout=600_000)
            shares["nothing streams"] = await while_idle(costs)
            version = browser.version
            await browser.close()
    return {
        "machine": f"{physical_cores()} cores of {processor_name()}",
        "chromium": version,
        "first words, ms after they passed": {"median": median(soon), "all": soon},
        "percent of a core": shares,
    }


async def open_page(browser: Browser, address: str) -> Page:
    """The kiosk page, whose reports are to have TOKENS tokens a section."""
    context = await browser.new_context(viewport={"width": 1080, "height": 1920}, reduced_motion="reduce")
    page = await context.new_page()

    async def shorter(route: Route) -> None:
        await route.continue_(post_data=json.dumps({"max_new_tokens": TOKENS}))

    await page.route("**/report", shorter)
    await page.goto(address)
    return page


async def first_words(page: Page, relay: Relay, trial: int) -> float:
    """Milliseconds from the first words' passing to the frame that shows them."""
    await choose_photo(page, trial)
    relay.first_words = None
    await page.evaluate(FIRST_WORDS)
    await page.locator(READY).click()
    shown = float(await page.evaluate("window.firstWords"))
    assert relay.first_words
    await page.locator("#start-over").click()
    await page.locator("#delete").click()
    return round(shown - 1000 * relay.first_words, 1)


async def while_streaming(page: Page, relay: Relay, costs: Costs, rate: float) -> dict[str, float]:
    """What most of a report costs whose tokens pass at this rate. Raises RuntimeError if it is too short."""
    relay.pause = 1 / rate
    await choose_photo(page, 0)
    await page.locator(READY).click()
    await asyncio.sleep(1)
    before = await costs.now()
    # Nothing is asked of the page meanwhile: Playwright would look into it at every frame.
    await asyncio.sleep(0.85 * SECTIONS * TOKENS / rate)
    after = await costs.now()
    await page.locator("#report-actions").wait_for(timeout=600_000)
    await check_length(page)
    await page.locator("#finish").click()
    relay.pause = 0
    return Costs.share(before, after)


async def while_idle(costs: Costs) -> dict[str, float]:
    """What the page costs that shows a whole report."""
    await asyncio.sleep(2)
    before = await costs.now()
    await asyncio.sleep(IDLE_SECONDS)
    return Costs.share(before, await costs.now())


async def check_length(page: Page) -> None:
    lengths = await page.locator("#sections .muted").count()
    if lengths < SECTIONS:  # each answer says that it was cut
        raise RuntimeError(
            f"only {lengths} of {SECTIONS} answers have {TOKENS} tokens: give a bundle of random weights"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rates", type=float, nargs="+", default=[3, 20], help="tokens a second")
    parser.add_argument("--trials", type=int, default=10, help="for the first words")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    found = asyncio.run(measure(given.bundle, given.rates, given.trials))
    text = json.dumps(found, indent=1, ensure_ascii=False)
    print(text)
    if given.output:
        given.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
