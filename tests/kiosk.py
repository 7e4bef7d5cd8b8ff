"""Drives the kiosk page in a real Chromium, as a person and a staff member would."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, BrowserType, Page, expect, sync_playwright
from service import PICTURES, RunningService
from support import ROOT, run

CHROMIUM = shutil.which("chromium")
WAIT = 90_000  # milliseconds; a browser and a model share two cores
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="needs Debian's chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    # It looks up names of its maker's all the same, and tries whether the internet can be reached.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip
FAKE_CAMERA = "--use-fake-device-for-media-stream"
TEXTS = {name: json.loads((ROOT / f"runtime/serve/page/texts/{name}.json").read_text()) for name in ("en", "ja")}
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
SMALL = """() => [...document.querySelectorAll('button, input, summary')].filter((one) => one.checkVisibility())
    .map((one) => [one.id || one.textContent, one.getBoundingClientRect()])
    .filter(([, box]) => Math.min(box.width, box.height) < 44).map(([name]) => name)"""
"""Names of controls that are smaller than 44 pixels."""
WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@contextmanager
def chromium(folder: Path, *flags: str) -> Iterator[Browser]:
    """A browser that keeps its profile and everything else it writes below a folder."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        with sync_playwright() as playwright:
            yield launch(playwright.chromium, *flags)
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def launch(chromium: BrowserType, *flags: str) -> Browser:
    return chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags], timeout=WAIT)


class Kiosk:
    """A window with the page, in one of its languages."""

    def __init__(self, context: BrowserContext, service: RunningService, language: str = "en") -> None:
        self.service = service
        self.language = language
        self.page = context.new_page()
        self.page.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)
        self.errors: list[str] = []
        """What the page did wrong: errors that nobody caught, and what the browser refused."""
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._console)

    def _console(self, message: Any) -> None:
        # A failed request is told on the console, too, and is a thing that tests bring about.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def text(self, key: str) -> str:
        found: Any = TEXTS[self.language]
        for name in key.split("."):
            found = found[name]
        return str(found)

    def start(self) -> "Kiosk":
        """Open the page as the kiosk's browser does: by the file that `skingpt kiosk` has written. It is in English."""
        self.page.goto(start_file(self.service).as_uri())
        self.page.wait_for_url(f"{self.service.url}/kiosk/")
        self.shown("start")
        return self

    def choose_language(self) -> "Kiosk":
        self.button("language").click()
        return self

    def shown(self, screen: str) -> None:
        expect(self.page.locator(f"[data-screen={screen}]")).to_be_visible()

    def button(self, key: str) -> Any:
        """A visible button with this text."""
        return self.page.get_by_role("button", name=self.text(key), exact=True).filter(visible=True)

    def accept(self) -> "Kiosk":
        if self.page.locator("html").get_attribute("lang") != self.language:
            self.choose_language()
        self.button("start.accept").click()
        self.shown("photo")
        return self

    def choose(self, *files: Path) -> "Kiosk":
        self.page.set_input_files("#file", [str(file) for file in files])
        return self

    def choose_another(self, file: Path) -> "Kiosk":
        """The button opens the browser's choice of a file at once."""
        with self.page.expect_file_chooser() as chosen:
            self.button("check.another").click()
        chosen.value.set_files(file)
        return self

    def photo(self, file: Path = PICTURES[0]) -> "Kiosk":
        """Choose a good photo, up to the question whether to use it."""
        self.accept().choose(file)
        expect(self.page.locator("#check-status")).to_have_text(self.text("check.good"))
        return self

    def report(self, file: Path = PICTURES[0]) -> "Kiosk":
        """Up to a whole report."""
        self.photo(file).button("check.get_report").click()
        self.finished()
        return self

    def finished(self) -> None:
        expect(self.page.locator("#progress-title")).to_have_text(self.text("report.done"))

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so, while the page goes on."""
        end = time.monotonic() + WAIT / 1000
        while not condition():
            assert time.monotonic() < end
            self.page.wait_for_timeout(50)

    def words(self) -> str:
        """All text of the report."""
        return "\n".join(self.page.locator("#sections .answer").all_text_contents())

    def conversation(self) -> str:
        """The id that the page would still have to delete."""
        [found] = json.loads(self.page.evaluate("sessionStorage.getItem('conversations')"))
        return str(found)

    def problem(self, kind: str, group: str = "problems") -> Any:
        """The visible problem, which must be this one."""
        found = self.page.locator(".problem:visible")
        expect(found.locator("h2")).to_have_text(self.text(f"{group}.{kind}_title"))
        return found

    def check(self) -> None:
        """Nothing that axe finds, no control too small for a finger, nothing wider than the window, no error."""
        found = Axe().run(self.page, options=AXE)
        assert not found.response["violations"], found.generate_report()
        assert self.page.evaluate(SMALL) == []
        assert self.page.evaluate(WIDER) <= 0
        assert self.errors == []


def start_file(service: RunningService) -> Path:
    """Written by the command, once for a service."""
    file = service.folder / "start.html"
    if not file.exists():
        made = run("skingpt", "kiosk", file, "--port", service.port, "--token-file", service.token_file)
        assert made.returncode == 0, made.stderr
    return file


def about(page: Page, **kiosk: Any) -> None:
    """Let the page hear other settings from the service than it was started with."""
    more = {name: kiosk.pop(name) for name in ("report_seconds",) if name in kiosk}

    def changed(route: Any) -> None:
        response = route.fetch()
        found = response.json()
        route.fulfill(response=response, json={**found, **more, "kiosk": {**found["kiosk"], **kiosk}})

    page.route("**/about", changed)


def left_in(page: Page) -> str:
    """Everything of the page in which something of a person could be left: elements, fields, storage, history."""
    return json.dumps(page.evaluate(LEFT)) + json.dumps(_history(page))


LEFT = """async () => ({
    elements: document.documentElement.outerHTML,
    fields: [...document.querySelectorAll('input')].map((one) => one.value),
    files: [...document.querySelectorAll('input[type=file]')].map((one) => one.files.length),
    streams: [...document.querySelectorAll('video')].map((one) => one.srcObject !== null),
    storage: [{...sessionStorage}, {...localStorage}],
    databases: await indexedDB.databases(),
    caches: isSecureContext ? await caches.keys() : [],
    cookies: document.cookie,
    state: history.state,
})"""


def _history(page: Page) -> list[dict[str, Any]]:
    session = page.context.new_cdp_session(page)
    found = session.send("Page.getNavigationHistory")["entries"]
    session.detach()
    return found
