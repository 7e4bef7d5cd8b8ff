"""Completions of `skingpt`, as bash, zsh and fish themselves make them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from skingpt_edge.runtime.cli import COMMANDS
from support import ROOT

pytest.importorskip("shtab", reason="needs shtab")

BASH = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMPREPLY=()
COMP_POINT=${#COMP_LINE}
function=$(complete -p skingpt | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
"$function" skingpt "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def share(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("completions") / "share"
    subprocess.run([sys.executable, ROOT / "packaging/papers/completions.py", folder], check=True)
    return folder


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder with a file and a folder, and two installed bundles."""
    for name in ("derma/7-ab", "dots/12-cd"):
        (tmp_path / "store" / name).mkdir(parents=True)
        (tmp_path / "store" / name / "bundle.json").write_text("{}")
    (tmp_path / "store/removed").mkdir()
    (tmp_path / "store/removed/state.json").write_text("{}")
    (tmp_path / "here/dir").mkdir(parents=True)
    (tmp_path / "here/dusk.jpg").write_bytes(b"")
    return tmp_path


def run(command: list[str | Path], place: Path) -> set[str]:
    environment = {**os.environ, "SKINGPT_STORE": str(place / "store"), "HOME": str(place), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=place / "here", env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {line for line in done.stdout.splitlines() if line}


def bash(share: Path, place: Path, line: str) -> set[str]:
    words = line.split(" ")
    file = share / "bash-completion/completions/skingpt"
    return run([shutil.which("bash") or "bash", "--norc", "-c", BASH, "bash", file, *words], place)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("skingpt ", set(COMMANDS)),
        ("skingpt di", {"diagnose"}),
        ("skingpt kiosk --", {"--help", "--port", "--token-file", "--wait"}),
        ("skingpt diagnose photo.jpg --kv-type q", {"q8_0/f16", "q8_0"}),
        ("skingpt serve --kiosk-without p", {"print"}),
        ("skingpt diagnose d", {"dir", "dusk.jpg"}),
        ("skingpt diagnose --bundle d", {"derma", "dots", "dir"}),
        ("skingpt info d", {"derma", "dots", "dir"}),
        ("skingpt trace photo.jpg -o d", {"dir"}),
        ("skingpt rollback ", {"derma", "dots"}),
        ("skingpt remove de", {"derma"}),
    ],
)
def test_bash_completes(line, expected, share, place):
    if not shutil.which("bash"):
        pytest.skip("needs bash")
    assert bash(share, place, line) == expected


def test_fish_completes(share, place):
    if not shutil.which("fish"):
        pytest.skip("needs fish")
    file = share / "fish/vendor_completions.d/skingpt.fish"
    found = run(
        ["fish", "--no-config", "-c", f'source {file}; complete -C "skingpt r"; complete -C "skingpt remove "'], place
    )
    assert {line.split("\t")[0] for line in found} == {"rollback", "remove", "derma", "dots"}


def test_zsh_reads_its_file(share, place):
    if not shutil.which("zsh"):
        pytest.skip("needs zsh")
    file = share / "zsh/vendor-completions/_skingpt"
    assert file.read_text().startswith("#compdef skingpt\n")
    run(["zsh", "-f", "-n", file], place)
    names = 'autoload -U compinit; compinit -D; eval "$(<$1)"; echo $_comps[skingpt]; _skingpt_bundle_names'
    assert run(["zsh", "-f", "-c", names, "zsh", file], place) == {"_shtab_skingpt", "derma", "dots"}


def test_the_files_are_the_same_each_time(share, tmp_path):
    subprocess.run(
        [sys.executable, ROOT / "packaging/papers/completions.py", tmp_path], check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    for path in share.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(share)).read_bytes() == path.read_bytes()
