"""Pictures of every state of the kiosk page, for docs/kiosk.md and to look at after a change.

python -m skingpt_edge.benchmarks.tools.kiosk_pictures FOLDER [--sheets docs/kiosk]
"""

import argparse
import asyncio
import io
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter
from playwright.async_api import Browser, Page, async_playwright

from ...runtime.cli.kiosk import start_file
from .service_start import RunningService, running

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--use-fake-device-for-media-stream",
]  # fmt: skip
PICTURES = sorted((Path(__file__).parents[2] / "runtime/demo/pictures").glob("*.jpg"))
FRAMES = 30  # of the film that the fake camera shows
GATHERED = 600  # milliseconds, after which the page has shown all that had come
GAP = 16  # pixels between the pictures of a sheet


@dataclass(frozen=True)
class Look:
    """How the page is seen."""

    name: str
    width: int
    height: int
    language: str
    scheme: str
    whole: bool = False
    """All of the page, not only what the window shows."""


LOOKS = [
    Look(f"{name}-{language}-{scheme}", width, height, language, scheme, whole=name == "phone")
    for name, width, height in (("portrait", 1080, 1920), ("landscape", 1920, 1080), ("phone", 360, 740))
    for language in ("en", "ja")
    for scheme in ("light", "dark")
]
SHEETS = {
    "portrait": ("portrait-en-light", ["start", "camera", "doubt", "report", "questions", "idle"], 360),
    "landscape": ("landscape-ja-dark", ["start", "photo", "writing", "report"], 640),
    "phone": ("phone-en-light", ["start", "photo", "good", "writing", "interrupted"], 300),
    "more": ("landscape-en-light", ["questions", "receipt", "denied", "lost"], 640),
}
"""For the manual: a look, its states, and how wide each picture is."""
EVERY_STATE = {
    "every-portrait-en": "portrait-en-light",
    "every-portrait-ja": "portrait-ja-dark",
    "every-landscape-en": "landscape-en-dark",
    "every-landscape-ja": "landscape-ja-light",
}
"""Sheets of all states of a look, in the order in which they are met."""


class Visitor:
    """Somebody in front of the page, with a camera of their own."""

    def __init__(self, page: Page, look: Look, service: RunningService, folder: Path) -> None:
        self._page, self._look, self._service, self._folder = page, look, service, folder

    async def picture(self, state: str) -> None:
        await self._page.mouse.move(0, 0)
        await self._page.wait_for_timeout(250)
        path = self._folder / self._look.name / f"{state}.png"
        await self._page.screenshot(path=path, full_page=self._look.whole and state not in ("idle", "receipt"))

    async def press(self, selector: str) -> None:
        await self._page.locator(selector).click()

    async def see(self, selector: str) -> None:
        await self._page.locator(selector).wait_for()

    async def choose(self, photo: Path | dict[str, Any]) -> None:
        await self.see("#choose-file")  # until then the page takes no file
        await self._page.set_input_files("#file", photo)  # type: ignore[arg-type]
        await self.see("#get-report:visible, #use-anyway:visible")

    async def open(self) -> None:
        await self._page.goto((self._folder / "start.html").as_uri())
        await self.see("#accept")
        await self.press(f"[data-language={self._look.language}]:visible")

    async def walk(self) -> None:
        """Through every state, with a picture of each."""
        page = self._page
        await page.clock.install()
        await self.open()
        await self.picture("start")
        await self.press("#accept")
        await self.picture("photo")
        await self.press("#use-camera")
        await self.see("#take:enabled")
        await page.wait_for_timeout(600)
        await self.picture("camera")
        await page.context.clear_permissions()
        await self.see("#photo-problem")
        await self.picture("unplugged")
        await self.press("#photo-problem button")
        await self.see("#photo-problem h2")
        await self.picture("denied")
        await self.choose({"name": "a.jpg", "mimeType": "image/jpeg", "buffer": _blurred()})
        await self.picture("doubt")
        await self.press("#retake")
        await self.choose(PICTURES[0])
        await self.picture("good")
        await self._report()

    async def _report(self) -> None:
        """From a good photo to the next person."""
        page = self._page
        with paused(self._service.worker_pid()):
            await self.press("#get-report")
            await self.see("#stages .now")
            await self.picture("looking")
            await self.press("#stop")
            await self.see("#again")
            await self.picture("stopped")
        await self.press("#again")
        await self.see("#sections article >> nth=0")
        with paused(self._service.worker_pid()):
            await page.wait_for_timeout(GATHERED)
            await self.picture("writing")
        await self.see("#report-actions")
        await self.picture("report")
        await page.emulate_media(media="print")
        await self.picture("paper")
        await page.emulate_media(media="screen")
        await self.press(".suggestion >> nth=1")
        await self.press("#compare:enabled")
        await self.see("#samples")
        await self.picture("questions")
        await page.locator("#show-receipt").click()
        await self.picture("receipt")
        await self.press("#close-receipt")
        await page.clock.fast_forward(61_000)
        await self.picture("idle")
        await page.clock.fast_forward(21_000)
        await self.see("#wiped")
        await self.picture("wiped")

    async def fail(self) -> None:
        """The model ends in the middle of an answer; the service is away."""
        await self.press(f"[data-language={self._look.language}]:visible")
        await self.press("#accept")
        await self.choose(PICTURES[3])
        await self.press("#get-report")
        await self.see("#sections article >> nth=0")
        os.kill(self._service.worker_pid(), signal.SIGKILL)
        await self.see("#report-problem")
        await self.picture("interrupted")
        await self.press("#start-over")
        await self.picture("sure")
        await self.press("#delete")
        await self.press(f"[data-language={self._look.language}]:visible")
        await self._page.route("**/about", lambda route: route.abort())
        await self.press("#accept")
        await self.see("#wait-text")
        await self.picture("lost")


def _blurred() -> bytes:
    target = io.BytesIO()
    Image.open(PICTURES[0]).filter(ImageFilter.GaussianBlur(9)).save(target, "JPEG")
    return target.getvalue()


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """A process stands still meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Browser]:
    """A browser whose camera shows a drawing."""
    film, frame = folder / "camera.mjpeg", io.BytesIO()
    picture = Image.open(PICTURES[2]).convert("RGB")
    wide = picture.resize((960, 960)).crop((0, 120, 960, 840))
    wide.save(frame, "JPEG", quality=90)
    film.write_bytes(frame.getvalue() * FRAMES)
    async with async_playwright() as playwright:
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={film}"]
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        await browser.close()


async def take_all(folder: Path, looks: list[Look]) -> None:
    """A folder for each look, with a picture of each state."""
    async with running() as service, chromium(folder) as browser:
        (folder / "start.html").write_text(start_file(service.port, service.token))
        for look in looks:
            context = await browser.new_context(
                viewport={"width": look.width, "height": look.height},
                color_scheme=look.scheme,  # type: ignore[arg-type]
            )
            await context.grant_permissions(["camera"], origin=f"http://127.0.0.1:{service.port}")
            visitor = Visitor(await context.new_page(), look, service, folder)
            await visitor.walk()
            await visitor.fail()
            await context.close()
            (folder / "start.html").touch()
            await service.until(lambda: bool(service.events("worker_ready")), 60)
            print(look.name, flush=True)


def make_sheets(folder: Path, target: Path) -> None:
    """Some of the pictures beside each other, small enough for a manual."""
    target.mkdir(parents=True, exist_ok=True)
    for name, (look, states, width) in SHEETS.items():
        pictures = [folder / look / f"{state}.png" for state in states]
        _sheet(pictures, width, 2 if width > 500 else 3).save(target / f"{name}.webp", quality=82, method=6)
    for name, look in EVERY_STATE.items():
        pictures = sorted((folder / look).glob("*.png"), key=lambda path: path.stat().st_mtime)
        width, columns = (480, 4) if "landscape" in look else (300, 6)
        _sheet(pictures, width, columns).save(target / f"{name}.webp", quality=75, method=6)


def _sheet(paths: list[Path], width: int, columns: int) -> Image.Image:
    """Pictures in rows, each as wide as this."""
    pictures = [Image.open(path).convert("RGB") for path in paths]
    pictures = [
        one.resize((width, round(one.height * width / one.width)), Image.Resampling.LANCZOS) for one in pictures
    ]
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(one.height for one in row) for row in rows]
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, sum(heights) + GAP * (len(rows) - 1)), "white")
    for number, row in enumerate(rows):
        for place, one in enumerate(row):
            sheet.paste(one, (place * (width + GAP), sum(heights[:number]) + GAP * number))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sheets", type=Path, help="also write the manual's pictures into this folder")
    parser.add_argument("--looks", default=".", help="a regular expression: only these looks")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(take_all(given.folder.absolute(), [look for look in LOOKS if re.search(given.looks, look.name)]))
    if given.sheets:
        make_sheets(given.folder, given.sheets)


if __name__ == "__main__":
    main()
