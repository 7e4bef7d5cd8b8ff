"""llama.cpp's library, loaded quietly, and what it reads in a GGUF file's header without loading the model."""

import ctypes
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .errors import BundleError, EngineUnavailable

_log_tail: list[str] = []
_listeners: list[Callable[[str], None]] = []


@dataclass(frozen=True)
class GgufHeader:
    """The facts of a GGUF file that other parts of a bundle must agree with."""

    architecture: str
    n_embd: int
    n_vocab: int
    n_layer: int
    n_ff: int
    """Width of the feed-forward layers."""
    kv_width: int
    """Width of a layer's keys for one token, and of its values: all heads that store them."""
    tensor_types: dict[str, int]
    """ggml type number of each tensor by name."""
    has_chat_template: bool
    file_type: str
    """llama.cpp's name for the mixture of tensor types, such as `q4_k_m`."""


@cache
def import_llama_cpp() -> Any:
    """The `llama_cpp` module, its log kept instead of printed. Raises EngineUnavailable."""
    try:
        import llama_cpp
    except ImportError:
        raise EngineUnavailable("the llama.cpp engine is not installed: pip install 'skingpt-edge[cpu]'") from None
    llama_cpp.llama_log_set(_keep_log(llama_cpp), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


def llama_cpp_build() -> str:
    """This llama.cpp: its version and the processor features it was compiled for. Raises EngineUnavailable."""
    lib = import_llama_cpp()
    return f"llama-cpp-python {lib.__version__}; {lib.llama_print_system_info().decode()}"


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


def file_types() -> dict[str, int]:
    """llama.cpp's names for the precisions of a whole file, and its numbers for them."""
    lib = import_llama_cpp()
    prefix = "LLAMA_FTYPE_MOSTLY_"
    found = {name[len(prefix) :].lower(): getattr(lib, name) for name in dir(lib) if name.startswith(prefix)}
    return {"f32": lib.LLAMA_FTYPE_ALL_F32, **found}


@contextmanager
def log_listener(listener: Callable[[str], None]) -> Iterator[None]:
    """Let `listener` hear each line llama.cpp logs; its quantiser tells its progress no other way."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header with llama.cpp's own parser, which checks every length against the file.

    Raises BundleError if it is no GGUF file of a Llama.
    """
    import_llama_cpp()
    lib = ggml_library()
    context = lib.gguf_init_from_file(os.fsencode(path), _InitParams(True, None))
    if not context:
        raise BundleError(f"{path.name}: not a GGUF file that llama.cpp can read ({last_log()})")
    try:
        return _read(lib, context, path.name, path.stat().st_size)
    finally:
        lib.gguf_free(context)


def _read(lib: ctypes.CDLL, context: int, name: str, size: int) -> GgufHeader:
    def key(wanted: str) -> int:
        index: int = lib.gguf_find_key(context, wanted.encode())
        if index < 0:
            raise BundleError(f"{name}: the GGUF header has no {wanted}")
        return index

    def checked(wanted: str, kind: int) -> int:
        index = key(wanted)
        if lib.gguf_get_kv_type(context, index) != kind:
            raise BundleError(f"{name}: {wanted} in the GGUF header has an unexpected type")
        return index

    uint32, float32, string, array = 4, 6, 8, 9  # enum gguf_type

    def number(wanted: str, low: int, high: int) -> int:
        found: int = lib.gguf_get_val_u32(context, checked(wanted, uint32))
        if not low <= found <= high:
            raise BundleError(f"{name}: {wanted} is {found}, expected {low} to {high}")
        return found

    architecture = lib.gguf_get_val_str(context, checked("general.architecture", string)).decode(errors="replace")
    if architecture != "llama":
        raise BundleError(f"{name}: architecture {architecture!r}, expected 'llama'")
    n_vocab = lib.gguf_get_arr_n(context, checked("tokenizer.ggml.tokens", array))
    # llama.cpp ends the process on some of these instead of refusing them.
    n_layer = number("llama.block_count", 1, 1000)
    n_ff = number("llama.feed_forward_length", 1, 1 << 20)
    heads = number("llama.attention.head_count", 1, 1000)
    n_embd = number("llama.embedding_length", 1, 1 << 20)
    grouped = lib.gguf_find_key(context, b"llama.attention.head_count_kv") >= 0
    kv_heads = number("llama.attention.head_count_kv", 1, heads) if grouped else heads
    for part in ("key", "value"):  # other widths than those that follow from the heads are not known here
        if lib.gguf_find_key(context, f"llama.attention.{part}_length".encode()) >= 0:
            number(f"llama.attention.{part}_length", n_embd // heads, n_embd // heads)
    for token in ("bos", "eos"):
        number(f"tokenizer.ggml.{token}_token_id", 0, n_vocab - 1)
    for wanted in ("llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"):
        found = lib.gguf_get_val_f32(context, checked(wanted, float32))
        if not 0 < found < math.inf:
            raise BundleError(f"{name}: {wanted} is {found}, expected a number above 0")
    tensors = range(lib.gguf_get_n_tensors(context))
    ends = [lib.gguf_get_tensor_offset(context, i) + lib.gguf_get_tensor_size(context, i) for i in tensors]
    if lib.gguf_get_data_offset(context) + max(ends, default=0) > size:
        raise BundleError(f"{name}: it ends before its last tensor does")
    types = {number: kind for kind, number in file_types().items()}
    return GgufHeader(
        architecture=architecture,
        n_embd=n_embd,
        n_vocab=n_vocab,
        n_layer=n_layer,
        n_ff=n_ff,
        kv_width=n_embd // heads * kv_heads,
        file_type=types.get(number("general.file_type", 0, 1000), "unknown"),
        tensor_types={
            lib.gguf_get_tensor_name(context, i).decode(errors="replace"): lib.gguf_get_tensor_type(context, i)
            for i in tensors
        },
        has_chat_template=lib.gguf_find_key(context, b"tokenizer.chat_template") >= 0,
    )


@cache
def ggml_library() -> ctypes.CDLL:
    """llama.cpp's ggml library, with the signatures of the functions used here and in export."""
    # Looked up through libllama, so that this is the very ggml it uses: the wheel holds copies of the file, and a
    # second one would log elsewhere.
    lib: ctypes.CDLL = import_llama_cpp().llama_cpp._lib
    pointer, index = ctypes.c_void_p, ctypes.c_int64
    signatures = {
        "gguf_init_from_file": ([ctypes.c_char_p, _InitParams], pointer),
        "gguf_free": ([pointer], None),
        "gguf_find_key": ([pointer, ctypes.c_char_p], index),
        "gguf_get_kv_type": ([pointer, index], ctypes.c_int),
        "gguf_get_val_u32": ([pointer, index], ctypes.c_uint32),
        "gguf_get_val_f32": ([pointer, index], ctypes.c_float),
        "gguf_get_data_offset": ([pointer], ctypes.c_size_t),
        "gguf_get_tensor_offset": ([pointer, index], ctypes.c_size_t),
        "gguf_get_tensor_size": ([pointer, index], ctypes.c_size_t),
        "gguf_get_val_str": ([pointer, index], ctypes.c_char_p),
        "gguf_get_arr_n": ([pointer, index], ctypes.c_size_t),
        "gguf_get_n_tensors": ([pointer], index),
        "gguf_get_tensor_name": ([pointer, index], ctypes.c_char_p),
        "gguf_get_tensor_type": ([pointer, index], ctypes.c_int),
        "ggml_backend_dev_by_type": ([ctypes.c_int], pointer),
        "ggml_backend_dev_backend_reg": ([pointer], pointer),
        "ggml_backend_reg_get_proc_address": ([pointer, ctypes.c_char_p], pointer),
        "ggml_backend_buft_name": ([pointer], ctypes.c_char_p),
        "ggml_quantize_chunk": (
            [ctypes.c_int, pointer, pointer, index, index, index, pointer],
            ctypes.c_size_t,
        ),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = arguments, result
    return lib
