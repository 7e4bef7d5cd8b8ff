"""The import rules of CONTRIBUTING: directions, no cycles, and what an import must not load."""

import ast
import inspect
import subprocess
import sys
import tomllib
import types
import typing
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from skingpt_edge import runtime
from skingpt_edge.engines import registry

ROOT = Path(__file__).parents[1]
PACKAGE = "skingpt_edge"
MAY_IMPORT = {
    "command": set(),  # not before it has seen to interrupts
    "engines": {"engines"},
    "runtime": {"engines", "runtime"},
    "benchmarks": {"engines", "runtime", "benchmarks"},  # and, for the model in torch alone, export
    "export": {"engines", "runtime", "export"},
}
# The same model in torch, whose modules are export's.
IN_TORCH = {"benchmarks.measure.torch_baseline", "benchmarks.tools.float32_truth"}
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "tensorrt", "llama_cpp", "gguf", "sentencepiece"}
BASELINE = "benchmarks.measure.torch_baseline"  # the same model in torch, whose modules are export's
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "tensorrt_rtx_bindings", "llama_cpp", "gguf", "sentencepiece"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))}


def imports(module: str, source: str, *, is_package: bool = False) -> Iterator[str]:
    """Our modules that a source imports, at its top or later, without the package's name."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = node.module.split(".") if node.module else []
            if node.level:
                base = [*package[: len(package) - node.level + 1], *names]
            elif names and names[0] == PACKAGE:
                base = names[1:]
            else:
                continue
            for alias in node.names:  # a name is a module, or something in one
                full = ".".join([*base, alias.name])
                yield full if full in FILES or not base else ".".join(base)
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix(f"{PACKAGE}.") for a in node.names if a.name.startswith(f"{PACKAGE}."))


def graph() -> dict[str, set[str]]:
    return {
        name: set(imports(name, path.read_text(), is_package=path.name == "__init__.py")) - {name}
        for name, path in FILES.items()
    }


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_go_one_way(folder):
    for name, found in graph().items():
        if name.split(".")[0] == folder:
            allowed = MAY_IMPORT[folder] | ({"export"} if name in IN_TORCH else set())
            assert {other.split(".")[0] for other in found} <= allowed, name


def test_no_module_imports_itself_through_others_not_even_later_in_a_function():
    tuple(TopologicalSorter(graph()).static_order())


def test_a_cycle_would_be_found():
    circle = graph()
    circle["runtime.options"] |= set(imports("runtime.options", "def late():\n    from .skingpt import SkinGPT"))
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(circle).static_order())


def test_imports_are_followed_from_every_depth():
    def found(module, source):
        return set(imports(module, source))

    assert found("export.demo.draw", "from ...benchmarks import cli") == {"benchmarks.cli"}
    assert found("export.demo.draw", "from ..parity import cosine") == {"export.parity"}
    assert found("export.demo.draw", "from .conditions import TONES") == {"export.demo.conditions"}
    assert found("export.cli", "from .. import engines") == {"engines"}
    assert found("export.cli", "from ..runtime.bundle import Bundle") == {"runtime.bundle"}
    assert found("export.cli", f"import {PACKAGE}.benchmarks.cli") == {"benchmarks.cli"}
    assert set(imports("runtime.cli", "from . import chat", is_package=True)) == {"runtime.cli.chat"}


def test_only_the_registry_names_an_engines_class():
    engines = [*registry.GRAPH_ENGINES.values(), *registry.LANGUAGE_MODELS.values()]
    own = {engine.module.removeprefix(f"{PACKAGE}.") for engine in engines}
    for name, path in FILES.items():
        if name not in {*own, "engines.registry"}:
            source = path.read_text()
            assert not [engine.class_name for engine in engines if engine.class_name in source], name


@pytest.mark.parametrize(("file", "reader"), [("/cpuinfo", "engines.processor"), ("meminfo", "runtime.machine")])
def test_one_module_alone_reads_what_the_machine_is(file, reader):
    assert [name for name, path in FILES.items() if file in path.read_text()] == [reader]


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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
    names = {line.split("=")[0].split(">")[0].split("~")[0].strip().lower() for line in lines}
    assert names == {"numpy", "pillow", "simplejpeg", "py-minisign", "onnxruntime", "llama-cpp-python"}


def named_in(annotation: object) -> Iterator[type]:
    """Our classes in an annotation, however deep."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if annotation.__module__.startswith(PACKAGE):
            yield annotation
        return
    for part in [*typing.get_args(annotation), typing.get_origin(annotation)]:
        if isinstance(part, list):
            for item in part:
                yield from named_in(item)
        elif part is not None:
            yield from named_in(part)


def signatures(name: str) -> Iterator[object]:
    """The annotations of a public function, or of a public class's methods, properties and fields."""
    thing = getattr(runtime, name)
    if not isinstance(thing, type):
        yield from typing.get_type_hints(thing).values() if callable(thing) else [thing]
        return
    if thing.__module__ == f"{PACKAGE}.runtime.manifest":
        return  # `bundle.json` as data: its parts are read, never made
    yield from typing.get_type_hints(thing).values()
    for member, value in vars(thing).items():
        if member.startswith("_") and member != "__init__":
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function) and function.__qualname__.startswith(thing.__name__):
            yield from typing.get_type_hints(function).values()


INNER = {"KvCache", "SpecialTokens", "Template", "VisionStages"}
"""Named only where users do not go: in the constructor of a conversation, and by stages written for comparing."""


def test_whatever_a_public_signature_takes_or_gives_is_public_too():
    missing = {
        (name, kind.__name__)
        for name in runtime.__all__
        for annotation in signatures(name)
        for kind in named_in(annotation)
        if kind.__name__ not in {*runtime.__all__, *INNER}
    }
    assert not missing


def test_the_public_names_exist_and_are_sorted():
    assert sorted(runtime.__all__, key=lambda name: (name[0].islower(), name)) == runtime.__all__
    assert all(hasattr(runtime, name) for name in runtime.__all__)
    assert {"Options", "Setup", "Question", "Turn", "resolve", "load"} <= set(runtime.__all__)
