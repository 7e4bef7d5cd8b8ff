"""What the README shows runs as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import GOLDEN, run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the photo the README speaks of."""
    (tmp_path / "photo.jpg").write_bytes((GOLDEN / "images/00.jpg").read_bytes())
    return tmp_path


def test_the_python_example_runs(folder):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=folder, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Not for diagnosis" in result.stdout


COMMANDS = [line.strip().split("  #")[0].strip() for line in README.splitlines() if line.startswith("    skingpt ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_runs(command, folder):
    words = [str(ROOT / "runtime/demo/bundle") if word == "BUNDLE" else word for word in shlex.split(command)]
    words = [str(folder / "photo.jpg") if word == "*.jpg" else word for word in words]
    result = run(*words, cwd=folder, input="What is this?\n\n")
    assert result.returncode == 0, result.stderr
    assert result.stdout or (folder / "DIR" / "trace.npz").exists()


def test_every_figure_is_filled_in():
    assert not re.findall(r"@[A-Z]+@", README)


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_performance_table_is_what_was_measured():
    results = sorted((ROOT / "benchmarks/results/xeon-2-cores").glob("*.json"))
    assert results
    command = [sys.executable, "-m", "skingpt_edge.benchmarks.readme", ROOT / "README.md", *results, "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
