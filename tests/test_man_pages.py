"""The man pages are made of the parsers, and man and mandoc find nothing wrong in them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from skingpt_edge.runtime.cli import COMMANDS, make_parser
from support import ROOT
from test_help import parsers

pytest.importorskip("argparse_manpage", reason="needs argparse-manpage")


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("man") / "man1"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1764201600"}
    subprocess.run([sys.executable, ROOT / "packaging/papers/man_pages.py", folder], check=True, env=environment)
    return folder


def names() -> list[str]:
    return ["skingpt", *(f"skingpt-{name}" for name in COMMANDS)]


def test_there_is_a_page_for_each_command(pages):
    assert sorted(path.name for path in pages.iterdir()) == sorted(f"{name}.1" for name in names())


@pytest.mark.parametrize("name", names())
def test_a_page_has_every_option_and_the_exit_codes(name, pages):
    text = (pages / f"{name}.1").read_text()
    plain = text.replace("\\-", "-")
    assert "November 27, 2025" in text
    assert plain.splitlines()[2].startswith(f"{name} - "), "mandb reads the name from this line"
    for heading in ("SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "FILES", "SEE ALSO"):
        assert f".SH {heading}\n" in text
    parser = next(one for one in parsers(make_parser()) if one.prog.replace(" ", "-") == name)
    if name == "skingpt":
        assert all(f"skingpt {command}" in plain for command in COMMANDS)
        return
    for action in parser._actions:
        for option in action.option_strings:
            assert option in {"-h", "--help"} or f"\\fB{option}\\fR" in plain, option
        if not action.option_strings:
            assert f"\\fB{action.metavar}\\fR" in plain


def problems(command: list[str | Path]) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    return done.stderr + ("" if command[0] == "man" else done.stdout)


LINTERS = {
    "man": ["man", "--warnings", "-E", "UTF-8", "-Tutf8", "-Z", "-l"],
    "groff": ["groff", "-man", "-ww", "-z", "-Tutf8"],
    "mandoc": ["mandoc", "-Tlint", "-W", "warning"],
}


@pytest.mark.parametrize("linter", LINTERS)
def test_a_linter_finds_nothing(linter, pages, tmp_path):
    if not shutil.which(linter):
        pytest.skip(f"needs {linter}")
    wrong = tmp_path / "wrong.1"
    wrong.write_text('.TH WRONG "1" "" ""\n.SH NAME\nwrong \\- wrong\n.nonsense\n')
    assert problems([*LINTERS[linter], wrong]) != ""
    assert [problems([*LINTERS[linter], page]) for page in sorted(pages.iterdir())] == [""] * len(names())


def test_man_shows_the_page_of_a_command(pages):
    if not shutil.which("man"):
        pytest.skip("needs man")
    environment = {
        **os.environ,
        "MANPATH": str(pages.parent),
        "LC_ALL": "C.UTF-8",
        "MANPAGER": "cat",
        "MANWIDTH": "100",
    }
    shown = subprocess.run(["man", "skingpt", "kiosk"], capture_output=True, text=True, check=False, env=environment)
    assert "wait until the service is ready" in shown.stdout
