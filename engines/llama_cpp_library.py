"""llama.cpp's library, loaded without printing its log.

The log is kept for error messages. The few functions of ggml that are called directly are declared here.
"""

import ctypes
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from .cuda_driver import gpu_kind
from .errors import EngineUnavailable
from .llama_cpp_backends import GPU_FILE, cpu_variant, has_gpu_code, load_backends, load_gpu_backend

SPINS = "1000"
"""How often a thread looks whether the others have finished their part before it sleeps; read by GNU's OpenMP.

By itself it looks 300,000 times. Where other programs keep all cores busy, the thread that is waited for may be waiting
for this very core: with 7B a token took 4.7 times as long as alone, and with this value 2.2 times
(benchmarks/results/beside-other-programs/README.md).
"""

_log_tail: list[str] = []
_listeners: list[Callable[[str], None]] = []


@cache
def import_llama_cpp() -> Any:
    """The `llama_cpp` module, its log kept instead of printed. Raises EngineUnavailable."""
    # At an abort ggml would start a debugger on this process, where one is installed, and print its memory's content.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        import llama_cpp
    except ModuleNotFoundError:
        raise EngineUnavailable("the llama.cpp engine is not installed: pip install 'skingpt-edge[cpu]'") from None
    except (ImportError, RuntimeError) as error:  # for instance for want of memory
        raise EngineUnavailable(f"llama.cpp cannot be loaded: {error}") from None
    llama_cpp.llama_log_set(_keep_log(llama_cpp), ctypes.c_void_p(0))
    load_backends(llama_cpp.llama_cpp._lib, _folder(llama_cpp))
    llama_cpp.llama_backend_init()
    return llama_cpp


def _folder(llama_cpp: Any) -> Path:
    return Path(llama_cpp.llama_cpp._lib._name).parent


def built_for_gpu() -> bool:
    """Whether this llama.cpp has code for NVIDIA's GPUs. Raises EngineUnavailable without llama.cpp."""
    lib = import_llama_cpp()
    return (_folder(lib) / GPU_FILE).exists() or has_gpu_code(lib.llama_cpp._lib)


def check_gpu() -> None:
    """Raises EngineUnavailable unless llama.cpp can compute on a GPU. Its code for that is loaded if need be."""
    lib = import_llama_cpp()
    if not load_gpu_backend(lib.llama_cpp._lib, _folder(lib)):
        raise EngineUnavailable(f"llama.cpp's code for NVIDIA's GPUs cannot be loaded ({last_log()}): ask for 'cpu'")
    if not has_gpu_code(lib.llama_cpp._lib):
        raise EngineUnavailable(
            "device 'cuda' was asked for, but this llama.cpp runs on the CPU only: see docs/gpu.md, or ask for 'cpu'"
        )
    if not lib.llama_supports_gpu_offload():
        raise EngineUnavailable(
            f"device 'cuda' was asked for, but llama.cpp finds no NVIDIA GPU, or no driver that is new enough "
            f"({last_log()}): ask for 'cpu', or see to the driver"
        )
    if (_folder(lib) / GPU_FILE).exists():
        _check_card(lib.llama_print_system_info().decode())


def _check_card(features: str) -> None:
    """Raises EngineUnavailable for a GPU that the package's code is not for: llama.cpp would end the process.

    That code is compiled for these kinds alone (cuda.sh), and not again for others when it is loaded.
    """
    name, target = gpu_kind()
    found = re.search(r"ARCHS = ([\d,]+)", features)
    there = [int(number) for number in found[1].split(",")] if found else []
    asked = 10 * int(target.removeprefix("sm"))
    if not any(_runs_on(code, asked) for code in there):
        raise EngineUnavailable(
            f"llama.cpp's code for GPUs is for {', '.join(f'sm{code // 10}' for code in there) or 'none'}, "
            f"and {name} is {target}: ask for 'cpu', or build the package with CUDA_ARCHITECTURES"
        )


def _runs_on(code: int, gpu: int) -> bool:
    """By CUDA's rules: on newer GPUs of the same generation; from 12.0 on llama.cpp is built for one kind alone."""
    return code == gpu or (code < 1200 and code // 100 == gpu // 100 and code < gpu)


def cpu_features() -> str:
    """The processor features that the code of this llama.cpp uses. Raises EngineUnavailable."""
    return str(import_llama_cpp().llama_print_system_info().decode())


def cpu_code() -> str:
    """For which of several kinds of processors llama.cpp's code is, or "one build". Raises EngineUnavailable."""
    return cpu_variant(import_llama_cpp().llama_cpp._lib) or "one build"


@cache
def _keep_log(lib: Any) -> Any:
    @lib.llama_log_callback  # type: ignore[untyped-decorator]
    def keep(level: int, text: bytes, _: object) -> None:
        line = text.decode(errors="replace").strip()
        for listener in _listeners:
            listener(line)
        if level in (3, 4):  # warnings and errors
            _log_tail.append(line)
            del _log_tail[:-5]

    return keep


def last_log() -> str:
    """What llama.cpp said last, for an error message."""
    return "; ".join(_log_tail[-2:]) or "it gave no reason"


@contextmanager
def log_listener(listener: Callable[[str], None]) -> Iterator[None]:
    """Let `listener` hear each line llama.cpp logs; its quantiser tells its progress no other way."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def file_types() -> dict[str, int]:
    """llama.cpp's names for the precisions of a whole file, and its numbers for them."""
    lib = import_llama_cpp()
    prefix = "LLAMA_FTYPE_MOSTLY_"
    found = {name[len(prefix) :].lower(): getattr(lib, name) for name in dir(lib) if name.startswith(prefix)}
    return {"f32": lib.LLAMA_FTYPE_ALL_F32, **found}


class GgufInitParams(ctypes.Structure):
    """ggml's `gguf_init_params`."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


@cache
def ggml_library() -> ctypes.CDLL:
    """llama.cpp's ggml library, with the signatures of the functions used here and in export."""
    # Looked up through libllama, so that this is the very ggml it uses: the wheel holds copies of the file, and a
    # second one would log elsewhere.
    lib: ctypes.CDLL = import_llama_cpp().llama_cpp._lib
    pointer, index = ctypes.c_void_p, ctypes.c_int64
    signatures = {
        "gguf_init_from_file": ([ctypes.c_char_p, GgufInitParams], pointer),
        "gguf_free": ([pointer], None),
        "gguf_get_n_kv": ([pointer], index),
        "gguf_get_key": ([pointer, index], ctypes.c_char_p),
        "gguf_get_kv_type": ([pointer, index], ctypes.c_int),
        "gguf_get_val_u32": ([pointer, index], ctypes.c_uint32),
        "gguf_get_val_f32": ([pointer, index], ctypes.c_float),
        "gguf_get_val_bool": ([pointer, index], ctypes.c_bool),
        "gguf_get_data_offset": ([pointer], ctypes.c_size_t),
        "gguf_get_tensor_offset": ([pointer, index], ctypes.c_size_t),
        "gguf_get_tensor_size": ([pointer, index], ctypes.c_size_t),
        "gguf_get_val_str": ([pointer, index], ctypes.c_char_p),
        "gguf_get_arr_n": ([pointer, index], ctypes.c_size_t),
        "gguf_get_arr_type": ([pointer, index], ctypes.c_int),
        "gguf_get_arr_data": ([pointer, index], pointer),
        "gguf_get_arr_str": ([pointer, index, ctypes.c_size_t], ctypes.c_char_p),
        "gguf_get_n_tensors": ([pointer], index),
        "gguf_get_tensor_name": ([pointer, index], ctypes.c_char_p),
        "gguf_get_tensor_type": ([pointer, index], ctypes.c_int),
        "ggml_validate_row_data": ([ctypes.c_int, pointer, ctypes.c_size_t], ctypes.c_bool),
        "ggml_quantize_chunk": (
            [ctypes.c_int, pointer, pointer, index, index, index, pointer],
            ctypes.c_size_t,
        ),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = arguments, result
    return lib
