"""Graphs run by ONNX Runtime."""

import json
import re
from collections.abc import Mapping, Set
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import onnx_cuda, processor
from .base import Array, EngineInfo, GraphSetup, TensorSpec
from .errors import BundleError, EngineError, EngineUnavailable
from .forked_children import keep_in_children

NO_MEMORY = ("bad_alloc", "pthread_create failed", "Failed to allocate memory", "out of memory", "ALLOC_FAILED")
"""In ONNX Runtime's errors."""
MAX_REASON = 200  # letters of ONNX Runtime's own words in an error
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

VNNI = {"avx512_vnni", "avx_vnni"}
"""Flags of processors that sum 8-bit products in 32 bits."""
EXACT_PRODUCTS = "session.x64quantprecision"


def build() -> str:
    """This ONNX Runtime's version and what it can run on. Raises EngineUnavailable."""
    lib = import_onnxruntime()
    return f"onnxruntime {lib.__version__}; {', '.join(lib.get_available_providers())}"


def installed_devices() -> tuple[str, ...]:
    """The devices that this ONNX Runtime was built for. Raises EngineUnavailable."""
    there = import_onnxruntime().get_available_providers()
    return tuple(device for device, provider in PROVIDERS.items() if provider in there)


class OrtGraph:
    """A graph run by ONNX Runtime on the device asked for, or an error."""

    def __init__(self, path: Path, setup: GraphSetup) -> None:
        """Raises BundleError for a file that is no graph, EngineUnavailable for a device that is not there."""
        self._session: Any = open_session(path, setup)
        self._name = path.name
        self.inputs = tuple(spec_of(arg) for arg in self._session.get_inputs())
        self.outputs = tuple(spec_of(arg) for arg in self._session.get_outputs())
        self.info = info_of(self._session, setup)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        names = [output.name for output in self.outputs]
        if self._session is None:
            raise EngineError("the model is closed")
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise failure(self._name, self.info.device, error) from error

    def close(self) -> None:
        self._session = None


def profile_operators(path: Path, setup: GraphSetup, inputs: Mapping[str, Array], runs: int) -> list[dict[str, Any]]:
    """The events of ONNX Runtime's own profile of `runs` runs of a graph. Raises as `OrtGraph` does."""
    with TemporaryDirectory() as folder:
        session = open_session(path, setup, profile=str(Path(folder) / "graph"))
        for _ in range(runs):
            session.run(None, dict(inputs))
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    return events


def open_session(
    path: Path,
    setup: GraphSetup,
    *,
    profile: str | None = None,
    provider_options: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    on_cpu: Set[str] = onnx_cuda.OF_SHAPES,
) -> Any:
    """ONNX Runtime's session of a graph on the device that the setup names.

    `profile` is the beginning of the file that its profile is written to, `provider_options` are those of the device's
    execution provider, `sizes` fixes dimensions by name, and `on_cpu` are operators that a GPU may leave to the
    processor. Raises as `OrtGraph` does.
    """
    lib, provider = import_onnxruntime(), PROVIDERS[setup.device]
    if provider not in lib.get_available_providers():
        raise EngineUnavailable(
            f"device {setup.device!r} was asked for, but this onnxruntime has only "
            f"{', '.join(lib.get_available_providers())}: {onnx_cuda.OTHER_BUILD}"
        )
    if setup.device != "cpu":
        onnx_cuda.prepare(lib)
    options = _session_options(lib, setup, profile, sizes or {})
    providers = [(provider, dict(provider_options or {}))]
    try:
        session = lib.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        raise _cannot_open(lib, path.name, setup, error) from error
    keep_in_children(session)
    if provider not in session.get_providers():  # it falls back to the CPU without a word
        raise onnx_cuda.not_started(lib)
    if setup.device != "cpu":
        onnx_cuda.check_operators(path.name, session, on_cpu)
        onnx_cuda.check_cudnn(lib)
    return session


def _cannot_open(lib: Any, name: str, setup: GraphSetup, error: Exception) -> Exception:
    """What to raise for what ONNX Runtime raised when it opened the graph of this name."""
    if short := _no_memory(name, setup.device, error):
        return short
    if setup.device != "cpu" and (explained := onnx_cuda.explained(lib, error)):
        return explained
    return BundleError(f"{name}: ONNX Runtime cannot load it: {_reason(error)}")


def _session_options(lib: Any, setup: GraphSetup, profile: str | None, sizes: Mapping[str, int]) -> Any:
    options = lib.SessionOptions()
    options.add_session_config_entry(onnx_cuda.RECORD, "0" if setup.device == "cpu" else "1")
    options.intra_op_num_threads = setup.threads
    options.log_severity_level = 4  # its errors come as exceptions; its log would stand beside ours
    # Its threads would otherwise spin beside llama.cpp's, which come next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if VNNI.isdisjoint(processor.flags()):
        # Its sums of 8-bit products would overflow and the picture would be misread. With VNNI they cannot, and this
        # would more than double the time.
        options.add_session_config_entry(EXACT_PRODUCTS, "1")
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return options


def info_of(session: Any, setup: GraphSetup) -> EngineInfo:
    """What a session says of itself."""
    return EngineInfo(
        engine=setup.engine,
        version=import_onnxruntime().__version__,
        device=setup.device,
        threads=session.get_session_options().intra_op_num_threads,
        details={"providers": ", ".join(session.get_providers())},
    )


def failure(name: str, device: str, error: Exception) -> EngineError:
    """What to raise where ONNX Runtime raised this while it ran the graph of this name."""
    return _no_memory(name, device, error) or EngineError(f"{name}: ONNX Runtime failed: {_reason(error)}")


def _no_memory(name: str, device: str, error: Exception) -> EngineError | None:
    """For an error that says that memory is short: the file is not to blame."""
    if not any(words in str(error) for words in NO_MEMORY):
        return None
    if device == "cpu":
        return EngineError(f"{name}: there is too little memory to run it")
    return EngineError(f"{name}: there is too little GPU memory to run it: {onnx_cuda.ON_CPU}")


def _reason(error: Exception) -> str:
    """ONNX Runtime's message in one short line, without its status, source files, C++ signatures and our paths."""
    if failed := onnx_cuda.cuda_failure(error):
        return failed
    text = " ".join(str(error).split())
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"Load model from .*? failed: ?", "", text)
    text = re.sub(r"\S+\.(?:cc|h|cpp):\d+ \S+(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?(?: const)? ", "", text)
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


def import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise EngineUnavailable("the onnxruntime engine is not installed: pip install 'skingpt-edge[cpu]'") from None
    except ImportError as error:  # for instance for want of memory
        raise EngineUnavailable(f"onnxruntime cannot be loaded: {error}") from None
    return onnxruntime


def spec_of(arg: Any) -> TensorSpec:
    return TensorSpec(arg.name, tuple(size if isinstance(size, int) else None for size in arg.shape))
