"""Graphs run by ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import Array, EngineInfo, TensorSpec
from .errors import BundleError, EngineError, EngineUnavailable

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OrtGraph:
    """A graph run by ONNX Runtime on the device asked for, or an error."""

    def __init__(self, path: Path, *, device: str, precision: str, threads: int) -> None:
        """Raises BundleError for a file that is no graph, EngineUnavailable for a device that is not there."""
        try:
            import onnxruntime
        except ImportError:
            raise EngineUnavailable(
                "the onnxruntime engine is not installed: pip install 'skingpt-edge[cpu]'"
            ) from None
        if device not in PROVIDERS:
            raise EngineUnavailable(f"device {device!r} is unknown; known are {', '.join(PROVIDERS)}")
        if PROVIDERS[device] not in onnxruntime.get_available_providers():
            raise EngineUnavailable(
                f"device {device!r} was asked for, but this onnxruntime has only "
                f"{', '.join(onnxruntime.get_available_providers())}"
            )
        options, providers = session_options(threads), [PROVIDERS[device]]
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise BundleError(f"{path.name}: ONNX Runtime cannot load it: {error}") from error
        self._name = path.name
        self.info = EngineInfo("onnxruntime", onnxruntime.__version__, device, precision, threads)
        self.inputs = tuple(_spec(arg) for arg in self._session.get_inputs())
        self.outputs = tuple(_spec(arg) for arg in self._session.get_outputs())

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        names = [output.name for output in self.outputs]
        if self._session is None:
            raise EngineError("the model is closed")
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise EngineError(f"{self._name}: ONNX Runtime failed: {error}") from error

    def close(self) -> None:
        self._session = None


def session_options(threads: int) -> Any:
    """ONNX Runtime's `SessionOptions` of every graph here."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Its threads would otherwise spin beside llama.cpp's, which come next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _spec(arg: object) -> TensorSpec:
    shape = (size if isinstance(size, int) else None for size in arg.shape)  # type: ignore[attr-defined]
    return TensorSpec(arg.name, tuple(shape))  # type: ignore[attr-defined]
