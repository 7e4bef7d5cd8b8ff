"""The house: who may import whom, and what an import must not bring."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "engines": {"engines"},
    "runtime": {"engines", "runtime"},
    "benchmarks": {"engines", "runtime", "benchmarks"},  # and, for the baseline alone, export
    "export": {"engines", "runtime", "export"},
}
BASELINE = ROOT / "benchmarks" / "baseline.py"  # the same model in torch, whose modules are export's
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "tensorrt", "llama_cpp", "gguf", "sentencepiece"}


def imported_folders(path: Path, source: str | None = None) -> set[str]:
    """Our folders that a file imports from."""
    found = set()
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(source or path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = (node.module or "").split(".") if node.module else []
            if node.level:
                above = [*package[: len(package) - node.level + 1], *names]
                found |= {above[0]} if above else {alias.name for alias in node.names}
            elif names and names[0] == "skingpt_edge":
                found.add(names[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("skingpt_edge.")}
    return found


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_go_one_way(folder):
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        allowed = MAY_IMPORT[folder] | ({"export"} if path == BASELINE else set())
        assert imported_folders(path) <= allowed, path


def test_imports_are_followed_from_every_depth():
    deep, flat = ROOT / "export/demo/draw.py", ROOT / "export/cli.py"
    assert imported_folders(deep, "from ...benchmarks import peak") == {"benchmarks"}
    assert imported_folders(deep, "from ..parity import cosine") == {"export"}
    assert imported_folders(deep, "from .conditions import TONES") == {"export"}
    assert imported_folders(flat, "from .. import engines") == {"engines"}
    assert imported_folders(flat, "from ..runtime.bundle import Bundle") == {"runtime"}
    assert imported_folders(flat, "import skingpt_edge.benchmarks.peak") == {"benchmarks"}


def python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd="/"
    )
    return result.stdout


def test_importing_the_runtime_loads_no_engine_and_no_torch():
    loaded = python(
        "import sys, skingpt_edge.runtime, skingpt_edge.runtime.cli;"
        "print(*{name.split('.')[0] for name in sys.modules})"
    ).split()
    assert "numpy" in loaded
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize("package", ["engines", "runtime", "export", "benchmarks"])
def test_every_package_switches_telemetry_off(package):
    code = f"import os, skingpt_edge.{package}; print(os.environ.get('ORT_DISABLE_TELEMETRY'))"
    assert python(code).strip() == "1"
    assert python(code, ORT_DISABLE_TELEMETRY="0").strip() == "1"


def test_torch_belongs_to_export_alone():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
    names = {line.split("=")[0].split(">")[0].split("~")[0].strip().lower() for line in runtime}
    assert names == {"numpy", "pillow", "onnxruntime", "llama-cpp-python"}
