"""What a GGUF file's header says, read without loading the model."""

import ctypes
import math
import os
from dataclasses import dataclass
from pathlib import Path

from .errors import BundleError
from .llama_cpp_library import GgufInitParams, file_types, ggml_library, import_llama_cpp, last_log


@dataclass(frozen=True)
class GgufHeader:
    """The facts of a GGUF file that other parts of a bundle must agree with."""

    architecture: str
    n_embd: int
    n_vocab: int
    n_layer: int
    kv_width: int
    """Width of a layer's keys for one token, and of its values: all heads that store them."""
    tensor_types: dict[str, int]
    """ggml type number of each tensor by name."""
    special_tokens: dict[str, int]
    """Token ids of `unknown`, `bos` and `eos`, as far as the file names them."""
    has_chat_template: bool
    file_type: str
    """llama.cpp's name for the mixture of tensor types, such as `q4_k_m`."""


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header with llama.cpp's own parser, which checks every length against the file.

    Raises BundleError if it is no GGUF file of a Llama.
    """
    import_llama_cpp()
    lib = ggml_library()
    context = lib.gguf_init_from_file(os.fsencode(path), GgufInitParams(True, None))
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
    number("llama.feed_forward_length", 1, 1 << 20)
    heads = number("llama.attention.head_count", 1, 1000)
    n_embd = number("llama.embedding_length", 1, 1 << 20)
    grouped = lib.gguf_find_key(context, b"llama.attention.head_count_kv") >= 0
    kv_heads = number("llama.attention.head_count_kv", 1, heads) if grouped else heads
    for part in ("key", "value"):  # other widths than those that follow from the heads are not known here
        if lib.gguf_find_key(context, f"llama.attention.{part}_length".encode()) >= 0:
            number(f"llama.attention.{part}_length", n_embd // heads, n_embd // heads)
    special = {token: number(f"tokenizer.ggml.{token}_token_id", 0, n_vocab - 1) for token in ("bos", "eos")}
    if lib.gguf_find_key(context, b"tokenizer.ggml.unknown_token_id") >= 0:
        special["unknown"] = number("tokenizer.ggml.unknown_token_id", 0, n_vocab - 1)
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
        kv_width=n_embd // heads * kv_heads,
        file_type=types.get(number("general.file_type", 0, 1000), "unknown"),
        tensor_types={
            lib.gguf_get_tensor_name(context, i).decode(errors="replace"): lib.gguf_get_tensor_type(context, i)
            for i in tensors
        },
        special_tokens=special,
        has_chat_template=lib.gguf_find_key(context, b"tokenizer.chat_template") >= 0,
    )
