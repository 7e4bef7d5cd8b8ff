"""A language model's embedding matrix, read row by row from its GGUF file.

llama.cpp evaluates tokens or embeddings in one call, never both. With the tokens' embeddings a picture and the question
about it are one call, as they are in the original.
"""

import ctypes
import os
from collections.abc import Sequence
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from .base import Floats
from .errors import BundleError, EngineError
from .gguf_header import read_gguf_header
from .llama_cpp_library import ggml_library

NAME = "token_embd.weight"
FLOAT32 = 0  # ggml's number of a type that need not be converted


class TokenEmbeddings:
    """The rows of the matrix as llama.cpp looks them up, in float32. A picture's bytes never come here."""

    def __init__(self, path: Path) -> None:
        """Raises BundleError for a file without such a matrix."""
        header = read_gguf_header(path)
        found = [tensor for tensor in header.tensors if tensor.name == NAME]
        lib = ggml_library()
        lib.ggml_row_size.argtypes, lib.ggml_row_size.restype = [c_int, c_int64], c_size_t
        self._row_size = lib.ggml_row_size(found[0].type, header.n_embd) if found else 0
        if not found or found[0].size != self._row_size * header.n_vocab:
            raise BundleError(f"{path.name}: {NAME} is not {header.n_vocab} rows of {header.n_embd}")
        self._tensor, self._n_embd, self._n_vocab = found[0], header.n_embd, header.n_vocab
        self._to_float = _converter(lib, self._tensor.type)
        self._name = path.name
        self._file = path.open("rb", buffering=0)
        self._state = self._now()

    def rows(self, tokens: Sequence[int]) -> Floats:
        """Embeddings (tokens, n_embd). Raises EngineError for a number that is no token, or if the file changed."""
        result = np.empty((len(tokens), self._n_embd), np.float32)
        try:
            # It is read long after the bundle was verified.
            if self._now() != self._state:
                raise EngineError(f"{self._name} has changed since it was loaded: open the bundle again")
            for row, token in zip(result, tokens, strict=True):
                self._read(token, row)
        except OSError as error:
            raise EngineError(f"{self._name} cannot be read any more: {error.strerror}") from None
        return result

    def close(self) -> None:
        self._file.close()

    def _read(self, token: int, row: Floats) -> None:
        if not 0 <= token < self._n_vocab:
            raise EngineError(f"token {token}, but the vocabulary has {self._n_vocab}")
        place = self._tensor.offset + token * self._row_size
        data = os.pread(self._file.fileno(), self._row_size, place)
        if len(data) != self._row_size:
            raise EngineError(f"{self._name} ends before its last token's embedding")
        if self._to_float is None:
            row[:] = np.frombuffer(data, np.float32)
        else:
            self._to_float(data, row.ctypes.data, self._n_embd)

    def _now(self) -> tuple[int, int]:
        state = os.fstat(self._file.fileno())
        return state.st_size, state.st_mtime_ns


class _TypeTraits(ctypes.Structure):
    """ggml's `ggml_type_traits`, as far as it is read here."""

    _fields_ = (
        ("type_name", c_char_p),
        ("blck_size", c_int64),
        ("blck_size_interleave", c_int64),
        ("type_size", c_size_t),
        ("is_quantized", c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, c_char_p, c_void_p, c_int64)),
    )


def _converter(lib: ctypes.CDLL, kind: int) -> Any:
    """ggml's own function, the one that llama.cpp looks rows up with; none for float32."""
    if kind == FLOAT32:
        return None
    lib.ggml_get_type_traits.argtypes, lib.ggml_get_type_traits.restype = [c_int], ctypes.POINTER(_TypeTraits)
    return lib.ggml_get_type_traits(kind).contents.to_float
