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
    "benchmarks": {"engines", "runtime", "benchmarks"},
    "export": {"engines", "runtime", "export"},
}
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "tensorrt", "llama_cpp", "gguf", "sentencepiece"}


def imported_folders(path: Path, folder: str) -> set[str]:
    """Our folders that a file imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == 1:
                found.add(folder)
            elif node.level == 2:
                found |= {module.split(".")[0]} if module else {alias.name for alias in node.names}
            elif module.startswith("skingpt_edge"):
                found.add(module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("skingpt_edge.")}
    return found


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_go_one_way(folder):
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        assert imported_folders(path, folder) <= MAY_IMPORT[folder], path


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
