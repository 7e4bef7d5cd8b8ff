"""How much each column of a matrix matters: the mean square of what it is multiplied with (llama.cpp's "imatrix").

The file has llama.cpp's own format, so its tools read it, too.
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from torch import Tensor

from ..engines.base import Floats
from ..engines.errors import ExportError
from .llama_reference import final_states
from .llama_weights import LAYER_NAMES, LlamaSource, gguf_tensors

SUMS, COUNTS = ".in_sum2", ".counts"
EMBEDDINGS = "token_embd.weight"  # looked up, never multiplied
OUTPUT = "lm_head.weight"


@dataclass(frozen=True)
class Importance:
    sums: dict[str, Floats]
    """Of squares, (columns,), by the matrix's name in GGUF."""
    tokens: int
    """Items of the prompts and answers over which they were summed."""

    @property
    def means(self) -> dict[str, Floats]:
        return {name: values / np.float32(self.tokens) for name, values in self.sums.items()}

    def check(self, llama: LlamaSource) -> None:
        """Raises ExportError if a matrix of this Llama is missing or has another number of columns."""
        for name, shape, _ in gguf_tensors(llama):
            if len(shape) < 2 or name == EMBEDDINGS:
                continue
            found = self.sums.get(name)
            if found is None or len(found) != shape[1]:
                has = "is missing" if found is None else f"has {len(found)} columns, expected {shape[1]}"
                raise ExportError(f"the importance file is of another model: {name} {has}")


def measure_importance(llama: LlamaSource, sequences: Sequence[Tensor]) -> Importance:
    """Of all matrices but the token embeddings, over sequences of embeddings (n, width).

    Computed in float32 by the original's layers, one of them in memory at a time.
    """
    sums: dict[str, Tensor] = {}

    def watch(name: str, rows: Tensor) -> None:
        squares = rows.double().square().sum(0)
        sums[name] = sums[name] + squares if name in sums else squares

    for state in final_states(llama, sequences, watch):
        watch(OUTPUT, state)
    tokens = sum(map(len, sequences))
    return Importance({_gguf_name(name): total.float().numpy() for name, total in sums.items()}, tokens)


def _gguf_name(name: str) -> str:
    if name == OUTPUT:
        return "output.weight"
    layer, matrix = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
    return f"blk.{layer}.{LAYER_NAMES[matrix]}.weight"


def write_importance(importance: Importance, path: Path) -> None:
    """As llama.cpp's `llama-imatrix` writes it."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["pictures with reports"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", importance.tokens)
    for name, sums in importance.sums.items():
        writer.add_tensor(f"{name}{SUMS}", sums.reshape(1, -1))
        writer.add_tensor(f"{name}{COUNTS}", np.full((1, 1), importance.tokens, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_importance(path: Path) -> Importance:
    """Raises ExportError if the file is none of llama.cpp's importance files in GGUF."""
    try:
        tensors = {tensor.name: np.array(tensor.data, np.float32) for tensor in gguf.GGUFReader(path).tensors}
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ExportError(f"{path}: not a readable GGUF file: {error}") from None
    sums, counts = (
        {name.removesuffix(end): values.reshape(-1) for name, values in tensors.items() if name.endswith(end)}
        for end in (SUMS, COUNTS)
    )
    if not sums or not all(np.isfinite(values).all() for values in sums.values()):
        raise ExportError(f"{path}: not an importance file: no tensor ends with {SUMS}, or one is not finite")
    found = {int(values[0]) for values in counts.values() if values.size == 1}
    if sums.keys() != counts.keys() or len(found) != 1 or min(found) < 1:
        raise ExportError(f"{path}: expected one count above 0, the same for all matrices, found {sorted(found)}")
    return Importance(sums, found.pop())


@contextmanager
def as_llama_cpp(lib: Any, importance: Importance | None) -> Iterator[Any]:
    """For `llama_model_quantize_params.imatrix`; valid within the block."""
    columns = importance.means if importance else {}
    kept = [(name.encode(), np.ascontiguousarray(values, np.float32)) for name, values in columns.items()]
    array = (lib.llama_model_imatrix_data * (len(kept) + 1))()  # the last one has no name, which marks the end
    for entry, (name, values) in zip(array, kept, strict=False):
        entry.name = name
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    yield array if kept else None
