"""The desktop entry, and the script that it starts, with a real service and a program in the browser's place."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from service import free_port
from support import ROOT

FOLDER = ROOT / "packaging/desktop"
# Keeps what it is asked to open, and whether others could read it.
BROWSER = """#!/bin/sh
for last; do :; done
file=${last#file://}
stat -c %a "$(dirname "$file")" "$file" >"$KEPT/modes"
cp "$file" "$KEPT/page.html"
printf '%s\\n' "$@" >"$KEPT/options"
"""


@pytest.fixture
def desktop(tmp_path):
    """A place to keep things, and a function that runs the script with options."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "run").mkdir(mode=0o700)
    browser = tmp_path / "bin/chromium"
    browser.write_text(BROWSER)
    browser.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "XDG_RUNTIME_DIR": str(tmp_path / "run"), "KEPT": str(tmp_path)}

    def run(*options: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        command = list(map(str, ["sh", FOLDER / "skingpt-kiosk", *options]))
        changed = {**environment, **more}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=changed, timeout=180)

    return tmp_path, run


def test_the_entry_is_valid_and_starts_the_script():
    if not shutil.which("desktop-file-validate"):
        pytest.skip("needs desktop-file-validate")
    entry = FOLDER / "skingpt-kiosk.desktop"
    checked = subprocess.run(["desktop-file-validate", entry], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")
    assert "\nExec=skingpt-kiosk\n" in entry.read_text()
    assert (FOLDER / "skingpt-kiosk").stat().st_mode & stat.S_IXUSR


def test_the_icon_has_one_accent_colour():
    """It is that of the page."""
    icon = ElementTree.parse(ROOT / "runtime/serve/page/icon.svg").getroot()
    colours = {value for one in icon.iter() for name in ("fill", "stroke") if (value := one.get(name))} - {"none"}
    accent = "#0b6e75"
    assert colours == {accent, "#fff"}
    assert f"--accent: {accent};" in (ROOT / "runtime/serve/page/style.css").read_text()


def test_the_script_opens_the_page_and_leaves_nothing(desktop, service):
    kept, run = desktop
    done = run("--port", str(service.port), "--token-file", service.token_file)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"http://127.0.0.1:{service.port}/kiosk/#token=" in (kept / "page.html").read_text()
    options = (kept / "options").read_text().splitlines()
    assert {"--kiosk", "--incognito"} <= set(options)
    (profile,) = (option for option in options if option.startswith("--user-data-dir="))
    assert profile.startswith(f"--user-data-dir={kept / 'run'}/")
    assert (kept / "modes").read_text().split() == ["700", "600"]
    assert list((kept / "run").iterdir()) == []


def test_what_is_wrong_is_shown_in_the_browser(desktop):
    kept, run = desktop
    done = run("--port", str(free_port()), "--token-file", kept / "no & <token>", "--nonsense")
    assert done.returncode == 2
    page, options = (kept / "page.html").read_text(), (kept / "options").read_text().splitlines()
    assert "unrecognized arguments: --nonsense" in page and "--kiosk" not in options
    assert list((kept / "run").iterdir()) == []


def test_without_a_browser_it_says_so(desktop):
    kept, run = desktop
    (kept / "bin/chromium").unlink()
    for name in ("sh", "mktemp", "rm", "dirname", "readlink"):
        (kept / "bin" / name).symlink_to(shutil.which(name))
    done = run(PATH=str(kept / "bin"))
    assert done.returncode == 6
    assert done.stderr == "error: no Chromium is installed: install it, or name one in SKINGPT_BROWSER\n"
    assert list((kept / "run").iterdir()) == []
