"""What ONNX Runtime needs on an NVIDIA GPU besides itself, and what of a graph it would leave to the processor."""

import ctypes
import sys
from collections.abc import Set
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from .cuda_driver import gpu_kind
from .errors import EngineUnavailable

CPU_PROVIDER = "CPUExecutionProvider"
PROVIDER_LIBRARY = "libonnxruntime_providers_cuda.so"
REMEDY = "pip install 'onnxruntime-gpu[cuda,cudnn]', or ask for --vision-device cpu"
RECORD = "session.record_ep_graph_assignment_info"
"""Has a session note which operators run where; "1" or "0"."""
OF_SHAPES = frozenset(
    {"Shape", "Concat", "Gather", "Unsqueeze", "Squeeze", "Slice", "Cast", "Add", "Sub", "Mul", "Div"}
)
"""Operators that compute the shape of a batch, a few numbers, and are best left to the processor."""


def prepare(onnxruntime: Any) -> None:
    """Load the libraries that pip installed, which ONNX Runtime would not find by itself.

    Raises EngineUnavailable if there is no GPU, or no driver.
    """
    gpu_kind()
    onnxruntime.set_default_logger_severity(4)  # what it cannot load comes as an error of ours
    with redirect_stdout(sys.stderr):  # where it prints what it did not find; standard output may be JSON
        onnxruntime.preload_dlls()


def missing(onnxruntime: Any) -> str:
    """Why the dynamic linker cannot load ONNX Runtime's code for GPUs; empty if it can.

    Only after ONNX Runtime has tried to: its code must not be loaded before it is ready for it.
    """
    library = Path(onnxruntime.__file__).parent / "capi" / PROVIDER_LIBRARY
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error).replace(f"{library.parent}/", "")
    return ""


def cannot_start(onnxruntime: Any, why: str) -> EngineUnavailable:
    """What to raise where ONNX Runtime could not start on the GPU."""
    return EngineUnavailable(f"onnxruntime {onnxruntime.__version__} cannot start on this GPU ({why}): {REMEDY}")


def check_operators(name: str, session: Any, allowed: Set[str] = OF_SHAPES) -> None:
    """Raises EngineUnavailable if ONNX Runtime gave operators that are not `allowed` to the processor.

    It has no code for a GPU for some, such as those of our `int8` graphs, and would copy to and fro without a word.
    The session was opened with RECORD.
    """
    on_cpu = {
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == CPU_PROVIDER
        for node in part.get_nodes()
    }
    if rest := sorted(on_cpu - allowed):
        raise EngineUnavailable(
            f"{name}: ONNX Runtime has no code for a GPU for {', '.join(rest)}: make the bundle with --vision f16, or "
            "ask for --vision-device cpu"
        )
