"""llama.cpp's code for this very processor and for GPUs, where a build brings it as libraries that are loaded.

Of the code for several kinds of processors one is loaded. Other builds (`GGML_BACKEND_DL` off) have all their code
linked in; nothing is loaded then.
"""

import ctypes
import os
import re
from ctypes import c_char_p, c_size_t, c_void_p
from functools import cache
from pathlib import Path

from .errors import EngineUnavailable

FILE_NAME = re.compile(r"libggml-cpu-(\w+)\.so")
GPU_FILE = Path("cuda", "libggml-cuda.so")
"""In a folder of its own, so that it is not loaded with the others: cuBLAS, which it needs, is 600 MB."""


def load_backends(ggml: ctypes.CDLL, folder: Path) -> None:
    """Load from `folder` the best of the backends that this processor can run, unless they are linked in.

    `ggml` is a library that depends on ggml. Raises EngineUnavailable if none can be run.
    """
    # ggml's own search would also look into the current directory, where anybody may have put a library.
    ggml.ggml_backend_reg_count.restype = c_size_t
    if ggml.ggml_backend_reg_count():
        return
    load = ggml.ggml_backend_load_all_from_path
    load.argtypes, load.restype = [c_char_p], None
    load(os.fsencode(folder))
    if _backend(ggml, b"CPU") is None:
        there = sorted(found[1] for path in folder.iterdir() if (found := FILE_NAME.fullmatch(path.name)))
        raise EngineUnavailable(
            f"llama.cpp has no code for this processor, which needs SSE4.2 at least: {folder} has "
            f"{', '.join(there) or 'none at all'}"
        )


def load_gpu_backend(ggml: ctypes.CDLL, folder: Path) -> bool:
    """Load the code for NVIDIA's GPUs, if `folder` has it and it is not loaded yet. False if that failed."""
    path = folder / GPU_FILE
    if has_gpu_code(ggml) or not path.exists():
        return True
    load = ggml.ggml_backend_load
    load.argtypes, load.restype = [c_char_p], c_void_p
    return load(os.fsencode(path)) is not None


def has_gpu_code(ggml: ctypes.CDLL) -> bool:
    """Whether code for NVIDIA's GPUs is loaded or linked in; that says nothing of a GPU."""
    return _backend(ggml, b"CUDA") is not None


@cache
def cpu_variant(ggml: ctypes.CDLL) -> str | None:
    """The kind of processor that the loaded backend is for, by llama.cpp's name; None where it is linked in."""
    # The registry does not tell a backend's file. The loader knows in which file a function of it lies.
    backend = _backend(ggml, b"CPU")
    find = ggml.ggml_backend_reg_get_proc_address
    find.argtypes, find.restype = [c_void_p, c_char_p], c_void_p
    where = _DlInfo()
    if backend is None or not ctypes.CDLL(None).dladdr(
        c_void_p(find(backend, b"ggml_backend_get_features")), ctypes.byref(where)
    ):
        return None
    found = FILE_NAME.fullmatch(Path(os.fsdecode(where.file)).name)
    return found[1] if found else None


def _backend(ggml: ctypes.CDLL, name: bytes) -> int | None:
    by_name = ggml.ggml_backend_reg_by_name
    by_name.argtypes, by_name.restype = [c_char_p], c_void_p
    found: int | None = by_name(name)
    return found


class _DlInfo(ctypes.Structure):
    """glibc's `Dl_info`."""

    _fields_ = (("file", c_char_p), ("base", c_void_p), ("symbol", c_char_p), ("address", c_void_p))
