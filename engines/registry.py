"""The table of engines by name. Each is imported when it is first opened.

A new engine is a file in this folder and a line in one of the two tables. The file has a class that is opened with
`(path, setup)`, a `GraphSetup` or a `LanguageModelSetup`, and implements `GraphEngine` or `LanguageModel`. It also
has a function `build() -> str` that names the library's version and build, because they decide how fast it is. Where
builds differ in the devices that they know, `installed_devices()` names those of the one that is installed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from .base import GraphEngine, GraphSetup, LanguageModel, LanguageModelSetup
from .errors import EngineUnavailable, InputError
from .tensorrt_rtx_plan import Plan


@dataclass(frozen=True)
class Engine:
    """Where an engine's code is and what it can run on."""

    module: str
    class_name: str
    devices: tuple[str, ...]
    needs_plan: bool = False
    """It runs what was compiled of a graph for this machine's GPU, and is opened with `(path, setup, plan)`."""
    needs_check: bool = False
    """What it computes is compared with the bundle's self-test whenever a bundle is opened with it."""

    def load(self) -> Any:
        """The engine's class. Raises EngineUnavailable if its library is not installed."""
        return getattr(self._import(), self.class_name)

    def build(self) -> str:
        """The library's version and build. Raises EngineUnavailable if it is not installed."""
        return str(self._import().build())

    def is_installed_for(self, device: str) -> bool:
        """Whether the library is here, in a build that knows the device."""
        try:
            self.build()
            return device in getattr(self._import(), "installed_devices", lambda: self.devices)()
        except EngineUnavailable:
            return False

    def _import(self) -> Any:
        try:
            return import_module(self.module)
        except ImportError as error:
            raise EngineUnavailable(f"the engine of {self.module} cannot be imported: {error}") from None


GRAPH_ENGINES = {
    "onnxruntime": Engine("skingpt_edge.engines.onnx_runtime", "OrtGraph", ("cpu", "cuda")),
    "tensorrt-rtx": Engine(
        "skingpt_edge.engines.tensorrt_rtx", "TensorRtxGraph", ("cuda",), needs_plan=True, needs_check=True
    ),
    "onnxruntime-cuda-graph": Engine(
        "skingpt_edge.engines.onnx_cuda_graph", "OrtCudaGraph", ("cuda",), needs_check=True
    ),
}
LANGUAGE_MODELS = {
    "llama.cpp": Engine("skingpt_edge.engines.llama_cpp_model", "LlamaCppModel", ("cpu", "cuda")),
}


def devices() -> tuple[str, ...]:
    """Every device that some engine can run on."""
    engines = [*GRAPH_ENGINES.values(), *LANGUAGE_MODELS.values()]
    return tuple(dict.fromkeys(device for engine in engines for device in engine.devices))


def choose(engines: Mapping[str, Engine], name: str | None, device: str) -> str:
    """The engine of this name if it has the device; without a name the first one for it that is installed.

    If none is, the first one: to open it says what is missing. Raises InputError naming what there is.
    """
    if name is not None and name not in engines:
        raise InputError(f"engine {name!r} is unknown; known are {', '.join(engines)}")
    able = [known for known, engine in engines.items() if name in (None, known) and device in engine.devices]
    if len(able) > 1:
        return next((known for known in able if engines[known].is_installed_for(device)), able[0])
    if able:
        return able[0]
    names = [name] if name else list(engines)
    there = dict.fromkeys(device for known in names for device in engines[known].devices)
    raise InputError(f"device {device!r} is unknown to {', '.join(names)}; known are {', '.join(there)}")


def open_graph(path: Path, setup: GraphSetup, plan: Plan | None = None) -> GraphEngine:
    """Load a graph; `plan` is what was built of it, for an engine that needs one and would otherwise build it now.

    Raises BundleError for a file that is no graph, EngineError, EngineUnavailable.
    """
    engine = GRAPH_ENGINES[setup.engine]
    graph: GraphEngine = engine.load()(path, setup, plan) if engine.needs_plan else engine.load()(path, setup)
    return graph


def open_language_model(path: Path, setup: LanguageModelSetup) -> LanguageModel:
    """Load a language model. Raises BundleError, EngineError, InputError for too much context."""
    model: LanguageModel = LANGUAGE_MODELS[setup.engine].load()(path, setup)
    return model
