"""What ONNX Runtime needs on an NVIDIA GPU besides itself, and what of a graph it would leave to the processor."""

import ctypes
import re
from collections.abc import Set
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .cuda_driver import gpu_kind
from .errors import EngineUnavailable

CPU_PROVIDER = "CPUExecutionProvider"
PROVIDER_LIBRARY = "libonnxruntime_providers_cuda.so"
LIBRARIES = ("cudart", "cublasLt", "cublas", "nvrtc", "curand", "cufft", "cudnn")
"""Of CUDA and cuDNN, each after those that it needs itself."""
RECORD = "session.record_ep_graph_assignment_info"
"""Has a session note which operators run where; "1" or "0"."""
OF_SHAPES = frozenset({"Shape", "Concat"})
"""Operators of our graphs that compute the shape of a batch, four numbers, and are best left to the processor."""
CUDNN = "libcudnn.so.9"  # ONNX Runtime loads it when a graph first needs it, and would fail there
ON_CPU = "ask for --vision-device cpu"
INSTALL = f"pip install 'onnxruntime-gpu[cuda,cudnn]', or {ON_CPU}"
OTHER_BUILD = f"see docs/gpu.md for onnxruntime-gpu, or {ON_CPU}"
F16 = f"make the bundle anew with --vision f16, or {ON_CPU}"


def prepare(onnxruntime: Any) -> None:
    """Load the libraries that pip installed, which ONNX Runtime would not find by itself.

    Raises EngineUnavailable if there is no GPU, or no driver. ONNX Runtime's log is silent from then on in the whole
    process: what it cannot load comes as an error of ours.
    """
    gpu_kind()
    onnxruntime.set_default_logger_severity(4)
    _load_from_packages()


@cache
def _load_from_packages() -> None:
    # ONNX Runtime's own preload_dlls() does the same, but prints what it does not find.
    spec = find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for name in LIBRARIES:
            for path in sorted(Path(folder).glob(f"*/lib/lib{name}.so.*")):
                with suppress(OSError):  # one for another CUDA; what is missing in the end is said later
                    ctypes.CDLL(str(path))


def explained(onnxruntime: Any, error: Exception) -> EngineUnavailable | None:
    """What to raise for an error of ONNX Runtime's if the GPU is the reason; None if it is another."""
    if failed := cuda_failure(error):
        what = "update NVIDIA's driver" if "driver version" in failed else "see to NVIDIA's driver"
        return EngineUnavailable(f"{_cannot_start(onnxruntime, failed)}: {what}, or {ON_CPU}")
    if "graph capture" in str(error):  # its own check for CUDA graphs; it names no operator
        return EngineUnavailable(f"ONNX Runtime lacks code for a GPU for operators of this graph: {F16}")
    return not_started(onnxruntime) if _missing(onnxruntime) else None


def not_started(onnxruntime: Any) -> EngineUnavailable:
    """What to raise if ONNX Runtime uses the processor alone without having said why."""
    if why := _missing(onnxruntime):
        return EngineUnavailable(f"{_cannot_start(onnxruntime, why)}: {INSTALL}")
    return EngineUnavailable(f"{_cannot_start(onnxruntime, 'it does not say why')}: {ON_CPU}")


def _cannot_start(onnxruntime: Any, why: str) -> str:
    return f"onnxruntime {onnxruntime.__version__} cannot start on this GPU ({why})"


def check_cudnn(onnxruntime: Any) -> None:
    """Raises EngineUnavailable without it."""
    try:
        ctypes.CDLL(CUDNN)
    except OSError as error:
        raise EngineUnavailable(f"{_cannot_start(onnxruntime, str(error))}: {INSTALL}") from None


def cuda_failure(error: Exception) -> str:
    """The words of CUDA or one of its libraries in an error of ONNX Runtime's; empty if there are none."""
    found = re.search(r"(?:CUDA|CUDNN|CUBLAS|CURAND|CUFFT)\w* failure \d+: [^;]*", str(error))
    return found[0].strip() if found else ""


def _missing(onnxruntime: Any) -> str:
    """Why the dynamic linker cannot load ONNX Runtime's code for GPUs; empty if it can."""
    library = Path(onnxruntime.__file__).parent / "capi" / PROVIDER_LIBRARY
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error).replace(f"{library.parent}/", "")
    return ""


def check_operators(name: str, session: Any, allowed: Set[str] = OF_SHAPES) -> None:
    """Raises EngineUnavailable if ONNX Runtime gave operators that are not `allowed` to the processor.

    It lacks code for a GPU for some, such as those of our `int8` graphs, and would copy to and fro without a word.
    The session was opened with RECORD.
    """
    on_cpu = {
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == CPU_PROVIDER
        for node in part.get_nodes()
    }
    if rest := sorted(on_cpu - allowed):
        raise EngineUnavailable(f"{name}: ONNX Runtime lacks code for a GPU for {', '.join(rest)}: {F16}")
