"""What ONNX Runtime needs on an NVIDIA GPU besides itself: the driver, and CUDA's libraries."""

import ctypes
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from .cuda_driver import gpu_kind
from .errors import EngineUnavailable

PROVIDER_LIBRARY = "libonnxruntime_providers_cuda.so"
REMEDY = "pip install 'onnxruntime-gpu[cuda,cudnn]', or ask for --vision-device cpu"


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
