"""What a GGUF file's header says, read without loading the model, and held against what a bundle may hold.

llama.cpp's own reader checks lengths against the file. Its loader trusts the rest: some values end the process, others
change what is computed without a word. So a key that the exporter does not write is refused, and each has a range.
"""

import ctypes
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .base import Array
from .errors import BundleError
from .llama_cpp_library import GgufInitParams, file_types, ggml_library, import_llama_cpp, last_log

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # ggml's enum gguf_type
MAX_WIDTH = 1 << 20
MAX_CONTEXT = 1 << 20
UNKNOWN, CONTROL, UNUSED, BYTE = 2, 3, 5, 6  # llama.cpp's types of tokens; 1 and 4 are plain text
BYTE_TEXT = re.compile(rb"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Number:
    """A whole number's range."""

    low: int
    high: int
    kind: int = UINT32


@dataclass(frozen=True)
class Real:
    """A float's range."""

    low: float
    high: float
    kind: int = FLOAT32


@dataclass(frozen=True)
class Fixed:
    """The one value that a bundle's model has; None: any text."""

    value: bool | str | None
    kind: int = STRING


@dataclass(frozen=True)
class List:
    """An array with as many items as there are tokens."""

    item: int
    kind: int = ARRAY


KEYS: dict[str, Number | Real | Fixed | List] = {
    "general.architecture": Fixed("llama"),
    "general.name": Fixed(None),
    "general.file_type": Number(0, 1000),
    "general.quantization_version": Number(2, 2),
    "llama.vocab_size": Number(1, MAX_WIDTH),
    "llama.context_length": Number(1, MAX_CONTEXT),
    "llama.embedding_length": Number(1, MAX_WIDTH),
    "llama.block_count": Number(1, 1000),
    "llama.feed_forward_length": Number(1, MAX_WIDTH),
    "llama.rope.dimension_count": Number(1, MAX_WIDTH),
    "llama.rope.freq_base": Real(100, 1e9),
    "llama.attention.head_count": Number(1, 1000),
    "llama.attention.head_count_kv": Number(1, 1000),
    "llama.attention.layer_norm_rms_epsilon": Real(1e-12, 1e-2),
    "tokenizer.ggml.model": Fixed("llama"),
    "tokenizer.ggml.pre": Fixed("default"),
    "tokenizer.ggml.tokens": List(STRING),
    "tokenizer.ggml.scores": List(FLOAT32),
    "tokenizer.ggml.token_type": List(INT32),
    "tokenizer.ggml.bos_token_id": Number(0, MAX_WIDTH),
    "tokenizer.ggml.eos_token_id": Number(0, MAX_WIDTH),
    "tokenizer.ggml.unknown_token_id": Number(0, MAX_WIDTH),
    "tokenizer.ggml.add_bos_token": Fixed(True, BOOL),
    "tokenizer.ggml.add_eos_token": Fixed(False, BOOL),
    "tokenizer.ggml.add_space_prefix": Fixed(True, BOOL),
}
"""Every key of a bundle's language model, as `export/gguf_file.py` and `export/tokenizer.py` write them."""


@dataclass(frozen=True)
class GgufHeader:
    """The facts of a GGUF file that other parts of a bundle must agree with."""

    n_embd: int
    n_vocab: int
    n_layer: int
    n_ctx_train: int
    """Tokens of the longest text that the model was trained for."""
    kv_width: int
    """Width of a layer's keys for one token, and of its values: all heads that store them."""
    special_tokens: dict[str, int]
    """Token ids of `unknown`, `bos` and `eos`."""
    file_type: str
    """llama.cpp's name for the mixture of tensor types, such as `q4_k_m`."""
    tensors: tuple["GgufTensor", ...]


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies in the file."""

    name: str
    type: int
    """ggml's number of its type."""
    offset: int
    """In bytes from the file's beginning."""
    size: int
    """In bytes."""


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header with llama.cpp's own parser, which checks every length against the file.

    Raises BundleError if it is no GGUF file of a Llama, or holds a key or value that no bundle's model has.
    """
    import_llama_cpp()
    lib = ggml_library()
    context = lib.gguf_init_from_file(os.fsencode(path), GgufInitParams(True, None))
    if not context:
        raise BundleError(f"{path.name}: not a GGUF file that llama.cpp can read ({last_log()})")
    try:
        return _check(_Values(lib, context, path.name), path.stat().st_size)
    finally:
        lib.gguf_free(context)


class _Values:
    """The keys of an open GGUF file, each with the type that it must have."""

    def __init__(self, lib: ctypes.CDLL, context: int, name: str) -> None:
        self._lib = lib
        self._context = context
        self.name = name
        count = range(lib.gguf_get_n_kv(context))
        self._found = {lib.gguf_get_key(context, i).decode(errors="replace"): i for i in count}
        if unknown := sorted(self._found.keys() - KEYS.keys()):
            raise BundleError(f"{name}: unknown key {unknown[0]!r} in the GGUF header; no exporter of ours writes it")
        for key, rule in KEYS.items():
            if key not in self._found:
                raise BundleError(f"{name}: the GGUF header has no {key}")
            if lib.gguf_get_kv_type(context, self._found[key]) != rule.kind:
                raise BundleError(f"{name}: {key} in the GGUF header has an unexpected type")
            if isinstance(rule, List) and lib.gguf_get_arr_type(context, self._found[key]) != rule.item:
                raise BundleError(f"{name}: {key} in the GGUF header has items of an unexpected type")

    def get(self, key: str) -> Any:
        """A single value. Raises BundleError if it is out of range."""
        rule, index = KEYS[key], self._found[key]
        found: Any
        if rule.kind == STRING:
            found = self._lib.gguf_get_val_str(self._context, index).decode(errors="replace")
        else:
            read = {UINT32: "u32", FLOAT32: "f32", BOOL: "bool"}[rule.kind]
            found = getattr(self._lib, f"gguf_get_val_{read}")(self._context, index)
        if isinstance(rule, Fixed) and rule.value not in (None, found):
            raise BundleError(f"{self.name}: {key} is {found!r}, expected {rule.value!r}")
        if isinstance(rule, Number | Real) and not rule.low <= found <= rule.high:  # NaN, too
            raise BundleError(f"{self.name}: {key} is {found}, expected {rule.low} to {rule.high}")
        return found

    def same(self, key: str, expected: int) -> None:
        if (found := self.get(key)) != expected:
            raise BundleError(f"{self.name}: {key} is {found}, expected {expected}")

    def length(self, key: str) -> int:
        return int(self._lib.gguf_get_arr_n(self._context, self._found[key]))

    def numbers(self, key: str, kind: type[np.generic]) -> Array:
        """An array of numbers, copied."""
        count, size = self.length(key), np.dtype(kind).itemsize
        data = self._lib.gguf_get_arr_data(self._context, self._found[key])
        return np.frombuffer(ctypes.string_at(data, count * size), kind)

    def texts(self, key: str) -> list[bytes]:
        index = self._found[key]
        return [self._lib.gguf_get_arr_str(self._context, index, i) for i in range(self.length(key))]

    def tensors(self) -> tuple[GgufTensor, ...]:
        lib, context = self._lib, self._context
        begin = lib.gguf_get_data_offset(context)
        return tuple(
            GgufTensor(
                lib.gguf_get_tensor_name(context, i).decode(errors="replace"),
                lib.gguf_get_tensor_type(context, i),
                begin + lib.gguf_get_tensor_offset(context, i),
                lib.gguf_get_tensor_size(context, i),
            )
            for i in range(lib.gguf_get_n_tensors(context))
        )


def _check(values: _Values, size: int) -> GgufHeader:
    for key, rule in KEYS.items():
        if not isinstance(rule, List):
            values.get(key)
    n_vocab = values.length("tokenizer.ggml.tokens")
    values.same("llama.vocab_size", n_vocab)
    n_embd, heads = values.get("llama.embedding_length"), values.get("llama.attention.head_count")
    kv_heads = values.get("llama.attention.head_count_kv")
    if n_embd % heads or heads % kv_heads:
        raise BundleError(f"{values.name}: {heads} heads and {kv_heads} KV heads do not divide a width of {n_embd}")
    values.same("llama.rope.dimension_count", n_embd // heads)
    special = {name: values.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "unknown")}
    _check_tokens(values, n_vocab, special)
    tensors = values.tensors()
    if max((tensor.offset + tensor.size for tensor in tensors), default=0) > size:
        raise BundleError(f"{values.name}: it ends before its last tensor does")
    names = {number: kind for kind, number in file_types().items()}
    return GgufHeader(
        n_embd=n_embd,
        n_vocab=n_vocab,
        n_layer=values.get("llama.block_count"),
        n_ctx_train=values.get("llama.context_length"),
        kv_width=n_embd // heads * kv_heads,
        special_tokens=special,
        file_type=names.get(values.get("general.file_type"), "unknown"),
        tensors=tensors,
    )


def _check_tokens(values: _Values, n_vocab: int, special: dict[str, int]) -> None:
    """llama.cpp ends the process at a text that two tokens share, and takes types and scores as they are."""
    name = values.name
    for key in ("scores", "token_type"):
        if (count := values.length(f"tokenizer.ggml.{key}")) != n_vocab:
            raise BundleError(f"{name}: tokenizer.ggml.{key} has {count} items, expected {n_vocab}, one a token")
    for kind, token in special.items():
        if not token < n_vocab:
            raise BundleError(f"{name}: tokenizer.ggml.{kind}_token_id is {token}, expected 0 to {n_vocab - 1}")
    if not np.isfinite(values.numbers("tokenizer.ggml.scores", np.float32)).all():
        raise BundleError(f"{name}: tokenizer.ggml.scores holds NaN or infinity")
    types = values.numbers("tokenizer.ggml.token_type", np.int32)
    if strange := sorted(set(types.tolist()) - set(range(1, BYTE + 1))):
        raise BundleError(f"{name}: a token has type {strange[0]}, expected 1 to {BYTE}")
    texts = values.texts("tokenizer.ggml.tokens")
    if "" in (decoded := [_text(name, i, text) for i, text in enumerate(texts)]):
        raise BundleError(f"{name}: token {decoded.index('')} has no text")
    first: dict[str, int] = {}
    for number, text in enumerate(decoded):
        if first.setdefault(text, number) != number:
            raise BundleError(f"{name}: tokens {first[text]} and {number} have the same text {text!r}")
    _check_bytes(name, texts, types)
    expected = {"unknown": UNKNOWN, "bos": CONTROL, "eos": CONTROL}
    for kind, token in special.items():
        if types[token] != expected[kind]:
            raise BundleError(f"{name}: token {token}, {kind}, has type {types[token]}, expected {expected[kind]}")


def _check_bytes(name: str, texts: Sequence[bytes], types: Array) -> None:
    """A text that no token has is written by the 256 tokens of single bytes; llama.cpp relies on each."""
    found = set()
    for number in np.flatnonzero(types == BYTE).tolist():
        match = BYTE_TEXT.fullmatch(texts[number])
        if not match:
            raise BundleError(f"{name}: token {number} stands for a byte, but its text is {texts[number]!r}")
        found.add(int(match[1], 16))
    if len(found) != 256:
        raise BundleError(f"{name}: {len(found)} tokens stand for single bytes, expected 256")


def _text(name: str, number: int, text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise BundleError(f"{name}: token {number} is not UTF-8: {text!r}") from None


def check_finite(path: Path, header: GgufHeader) -> None:
    """Read all weights and raise BundleError for a tensor that holds NaN or infinity.

    ggml names the place on standard error itself.
    """
    lib, data = ggml_library(), np.memmap(path, np.uint8, "r")
    for tensor in header.tensors:
        part = data[tensor.offset : tensor.offset + tensor.size]
        if not lib.ggml_validate_row_data(tensor.type, part.ctypes.data, part.nbytes):
            raise BundleError(f"{path.name}: {tensor.name} holds NaN or infinity")
