"""A language model's embedding matrix, read row by row from llama.cpp's own memory.

llama.cpp evaluates tokens or embeddings in one call, never both. With the tokens' embeddings a picture and the question
about it are one call, as they are in the original.
"""

import ctypes
from collections.abc import Sequence
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any

import numpy as np

from .base import Floats
from .errors import EngineError

NAME = b"token_embd.weight"
FIND = "_ZNK11llama_model10get_tensorEPKc"
"""`llama_model::get_tensor(const char *) const`; llama.h has no function for it any more."""
FLOAT32 = 0  # ggml's number of a type that need not be converted


class TokenEmbeddings:
    """The rows of the matrix as llama.cpp looks them up, in float32. They are there as long as the model is."""

    def __init__(self, llama: ctypes.CDLL, model: Any, n_embd: int, n_vocab: int) -> None:
        """`llama` is the library, `model` its pointer. Raises EngineError for a matrix that cannot be read."""
        self._shape = n_vocab, n_embd
        self._tensor = _find(llama, model)
        self._read = _function(llama, "ggml_backend_tensor_get", [c_void_p, c_void_p, c_size_t, c_size_t], None)
        facts = ctypes.cast(self._tensor, ctypes.POINTER(_Tensor)).contents if self._tensor else None
        if not facts or tuple(facts.ne[:2]) != (n_embd, n_vocab) or not _keeps_rows(llama, facts.buffer):
            raise EngineError("llama.cpp does not show the embeddings of its tokens; llama-cpp-python 0.3.36 is needed")
        row_size = _function(llama, "ggml_row_size", [c_int, c_int64], c_size_t)
        self._row = (ctypes.c_char * row_size(facts.type, n_embd))()
        self._to_float = None if facts.type == FLOAT32 else _converter(llama, facts.type)

    def rows(self, tokens: Sequence[int]) -> Floats:
        """Embeddings (tokens, n_embd). Raises EngineError for a number that is no token."""
        n_vocab, n_embd = self._shape
        result = np.empty((len(tokens), n_embd), np.float32)
        for row, token in zip(result, tokens, strict=True):
            if not 0 <= token < n_vocab:  # llama.cpp would end the process
                raise EngineError(f"token {token}, but the vocabulary has {n_vocab}")
            self._read(self._tensor, self._row, token * len(self._row), len(self._row))
            if self._to_float is None:
                row[:] = np.frombuffer(self._row, np.float32)
            else:
                self._to_float(self._row, row.ctypes.data, n_embd)
        return result


class _Tensor(ctypes.Structure):
    """ggml's `ggml_tensor`, as far as it is read here."""

    _fields_ = (("type", c_int), ("buffer", c_void_p), ("ne", c_int64 * 4))


class _TypeTraits(ctypes.Structure):
    """ggml's `ggml_type_traits`, as far as it is read here."""

    _fields_ = (
        ("type_name", c_char_p),
        ("blck_size", c_int64),
        ("blck_size_interleave", c_int64),
        ("type_size", c_size_t),
        ("is_quantized", c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int64)),
    )


def _find(llama: ctypes.CDLL, model: Any) -> int | None:
    try:
        found: int | None = _function(llama, FIND, [c_void_p, c_char_p], c_void_p)(model, NAME)
    except AttributeError:
        return None
    return found


def _keeps_rows(llama: ctypes.CDLL, buffer: int) -> bool:
    """Whether rows in this memory are as in the file: the processor's, or a GPU's, where a copy for the output may lie.

    Weights that are laid out anew cannot be read.
    """
    name = _function(llama, "ggml_backend_buffer_name", [c_void_p], c_char_p)(buffer)
    return bool(_function(llama, "ggml_backend_buffer_is_host", [c_void_p], c_bool)(buffer)) or name.startswith(b"CUDA")


def _converter(llama: ctypes.CDLL, kind: int) -> Any:
    """ggml's own function, the one that llama.cpp looks rows up with."""
    return _function(llama, "ggml_get_type_traits", [c_int], ctypes.POINTER(_TypeTraits))(kind).contents.to_float


def _function(library: ctypes.CDLL, name: str, arguments: list[Any], result: Any) -> Any:
    # By item: each is an object of its own, and nobody else's declaration of the same function is changed.
    function = library[name]
    function.argtypes, function.restype = arguments, result
    return function
