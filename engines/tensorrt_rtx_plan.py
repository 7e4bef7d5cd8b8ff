"""Builds TensorRT-RTX's plan of a graph: the graph compiled for one kind of NVIDIA GPU. No GPU is needed to build.

A plan is executable code. It is only as trustworthy as the file it is read from.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BundleError, EngineError, EngineUnavailable
from .onnx_file import check_onnx_file

TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that TensorRT-RTX builds for: GeForce RTX 20, A100, RTX 30, RTX 40, RTX 50, GB10."""
PICTURES = (1, 1, 8)
"""The fewest pictures that a plan takes at once, the number it is made fastest for, and the most."""
MAX_REASON = 200  # letters of TensorRT-RTX's own words in an error


@dataclass(frozen=True)
class Plan:
    """A plan as it is loaded onto a GPU."""

    data: Any
    """Bytes, or memory of TensorRT-RTX that can be read as bytes."""
    origin: str
    """Where it comes from, for the user."""


def library() -> Any:
    """The module of TensorRT-RTX. Raises EngineUnavailable."""
    try:
        import tensorrt_rtx_bindings
    except ModuleNotFoundError:
        raise EngineUnavailable("TensorRT-RTX is not installed: pip install 'skingpt-edge[rtx]'") from None
    except (ImportError, OSError) as error:  # for instance for want of memory
        raise EngineUnavailable(f"TensorRT-RTX cannot be loaded: {error}") from None
    return tensorrt_rtx_bindings


def check_target(target: str, name: str = "") -> None:
    """Raises EngineUnavailable for a GPU that TensorRT-RTX does not build for; `name` is the GPU's."""
    if target not in TARGETS:
        raise EngineUnavailable(
            f"TensorRT-RTX builds no plan for {name or 'a GPU'} ({target}), only for {', '.join(TARGETS)}: "
            "ask for --vision-engine onnxruntime, or for --vision-device cpu"
        )


def build_plan(path: Path, target: str) -> memoryview:
    """Compile an ONNX graph, whose weights may lie beside it, for GPUs of a compute capability such as `sm89`.

    Arithmetic is in the types that the graph names; float32 is not rounded to TF32. Raises BundleError for a file that
    is no graph, EngineError for one that TensorRT-RTX cannot build, EngineUnavailable.
    """
    check_target(target)
    check_onnx_file(path)  # the parser would read weights from any file that the graph names
    trt = library()
    log = error_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        _refuse(path.name, [parser.get_error(i) for i in range(parser.num_errors)])
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), 0)
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        batch, *rest = tensor.shape
        if batch != -1 or -1 in rest:
            raise BundleError(f"{path.name}: {tensor.name} has shape {tuple(tensor.shape)}, only the batch may vary")
        profile.set_shape(tensor.name, *((pictures, *rest) for pictures in PICTURES))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if "FP32 GEMM is not supported" in log.reason():
            raise EngineError(
                f"{path.name}: TensorRT-RTX multiplies no float32 on {target}: make the bundle anew with --vision f16, "
                "or ask for --vision-engine onnxruntime, or for --vision-device cpu"
            )
        raise EngineError(f"{path.name}: TensorRT-RTX cannot build a plan for {target}: {log.reason()}")
    return memoryview(plan).cast("B")


def error_log(trt: Any) -> Any:
    """A logger for TensorRT-RTX that keeps its errors and shows nothing."""

    class ErrorLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

        def reason(self) -> str:
            """The first error, which is the cause of the others, on one short line."""
            text = " ".join(self.errors[0].split()) if self.errors else "no reason was given"
            return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"

    return ErrorLog()


def _refuse(name: str, errors: list[Any]) -> None:
    """Raises for a graph that the parser did not take."""
    operators = sorted({error.node_operator() for error in errors} - {""})
    if not operators:
        reason = errors[0].desc() if errors else "no reason was given"
        raise BundleError(f"{name}: TensorRT-RTX cannot read it: {reason:.{MAX_REASON}}")
    raise EngineError(
        f"{name}: TensorRT-RTX does not take its operators {', '.join(operators)}. Graphs of int8 vision have such: "
        "make the bundle with --vision f16, or ask for --vision-engine onnxruntime, or for --vision-device cpu"
    )
