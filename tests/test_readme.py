"""What the README shows runs as it stands there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from service import free_port, parse_events
from support import GOLDEN, run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the photo the README speaks of."""
    (tmp_path / "photo.jpg").write_bytes((GOLDEN / "images/00.jpg").read_bytes())
    return tmp_path


def examples(language: str, words: str) -> list[str]:
    """Those in a language that hold these words."""
    return [code for code in re.findall(rf"```{language}\n(.*?)```", README, re.S) if words in code]


def test_the_python_example_runs(folder):
    (code,) = examples("python", "model.embed")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=folder, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Not for diagnosis" in result.stdout


@pytest.mark.parametrize(("language", "program"), [("sh", ["sh", "-eu", "-c"]), ("python", [sys.executable, "-c"])])
def test_an_example_of_the_service_runs(language, program, folder, service):
    (code,) = examples(language, "8077")
    if language == "sh" and not shutil.which("curl"):
        pytest.skip("needs curl")
    token = folder / ".local/state/skingpt-edge/token"
    token.parent.mkdir(parents=True)
    shutil.copy(service.token_file, token)
    command = [*program, code.replace("8077", str(service.port))]
    environment = {**os.environ, "HOME": str(folder)}
    found = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert found.returncode == 0, found.stderr
    turns = service.report((folder / "photo.jpg").read_bytes())["turns"]
    if language == "sh":
        pieces = [data["text"] for name, data in parse_events(found.stdout) if name == "text"]
        assert "".join(pieces) == "".join(turn["text"] for turn in turns)
    else:
        assert len(found.stdout) > 20


def test_the_service_is_started_as_it_says(folder):
    assert "\n    skingpt serve BUNDLE\n" in README
    assert "`skingpt serve BUNDLE --check`" in README
    options = ("--check", "--port", str(free_port()), "--token-file", folder / "token")
    checked = run("skingpt", "serve", ROOT / "runtime/demo/bundle", *options)
    assert (checked.returncode, checked.stdout) == (0, "nothing is wrong\n")


SERVED = ("skingpt serve", "skingpt kiosk")
LINES = [line for line in README.splitlines() if line.startswith("    skingpt ") and not any(map(line.count, SERVED))]
COMMANDS = [line.strip().split("  #")[0].strip() for line in LINES]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_runs(command, folder):
    words = [str(ROOT / "runtime/demo/bundle") if word == "BUNDLE" else word for word in shlex.split(command)]
    words = [str(folder / "photo.jpg") if word == "*.jpg" else word for word in words]
    result = run(*words, cwd=folder, input="What is this?\n\n")
    assert result.returncode == 0, result.stderr
    assert result.stdout or (folder / "DIR" / "trace.npz").exists()


def test_contributing_maps_every_file_of_the_code():
    """One line a file: `name.py` and what it answers, under its folder's heading."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    mapped = set()
    for folder, body in re.findall(r"^### `(\S+)/`.*?\n(.*?)(?=^##|\Z)", text, re.M | re.S):
        mapped |= {f"{folder}/{name}" for name in re.findall(r"^- `(\S+\.py)`: \S", body, re.M)}
    folders = ("command", "engines", "runtime", "export", "benchmarks", "packaging")
    files = {str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py")}
    with_code = ("command/__init__.py", "engines/__init__.py", "export/cli/__init__.py", "runtime/cli/__init__.py")
    files = {file for file in files if not file.endswith("/__init__.py") or file in with_code}
    assert mapped == files


def test_on_xeons_with_amx_llama_cpp_is_built_without_it():
    """The Makefile's flags, for such a processor, leave the compiler no AMX instruction to use."""
    flags = re.search(r"^NO_AMX = (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].replace("native", "sapphirerapids")
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")

    def macros(*options):
        command = ["gcc", *options, "-dM", "-E", "-x", "c", "/dev/null"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "__AMX_INT8__" in macros("-march=sapphirerapids")
    assert "__AMX" not in macros(*flags.split())
    assert "__AVX512VNNI__" in macros(*flags.split())


def test_links_lead_to_files():
    names = ("bundles", "demonstration-model", "embed", "install-bundles", "kiosk", "service", "windows-and-macos")
    docs = [f"docs/{name}.md" for name in names]
    for name in ("README.md", "CONTRIBUTING.md", *docs):
        page = ROOT / name
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), (name, link)


def test_every_figure_is_filled_in():
    assert not re.findall(r"@[A-Z]+@", README)


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_performance_table_is_what_was_measured():
    results = sorted((ROOT / "benchmarks/results/zen5-2-cores").glob("*.json"))
    assert results
    command = [
        sys.executable,
        "-m",
        "skingpt_edge.benchmarks.report.readme_table",
        ROOT / "README.md",
        *results,
        "--check",
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
