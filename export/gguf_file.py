"""A Llama as a GGUF file, written tensor by tensor, and llama.cpp's quantisers."""

import ctypes
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch

from ..engines.errors import ExportError
from ..engines.llama_cpp_library import file_types, ggml_library, import_llama_cpp, last_log, log_listener
from .checkpoints import not_finite, refuse
from .importance import Importance, as_llama_cpp
from .llama_weights import LlamaSource, gguf_tensors
from .quantise import to_float16
from .tokenizer import add_tokenizer

GgmlType = gguf.GGMLQuantizationType
F32, F16 = GgmlType.F32, GgmlType.F16
TypeOf = Callable[[str, tuple[int, ...]], Any]
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


def plain_types(matrices: Any) -> TypeOf:
    """Matrices in one type, vectors in float32."""
    return lambda _, shape: matrices if len(shape) > 1 else F32


def write_gguf(source: LlamaSource, path: Path, type_of: TypeOf, file_type: int, name: str, progress: Progress) -> None:
    """Write a Llama with its tokenizer into a GGUF file, holding one tensor at a time.

    Raises ExportError naming tensors that are NaN or infinite or do not fit float16.
    """
    writer = gguf.GGUFWriter(path, "llama")
    _add_settings(writer, source, file_type, name)
    add_tokenizer(writer, source.folder, source.config.vocabulary)
    tensors = [(n, shape, content, type_of(n, shape)) for n, shape, content in gguf_tensors(source)]
    for tensor_name, shape, _, kind in tensors:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        nbytes = int(np.prod(shape)) // block * size
        writer.add_tensor_info(tensor_name, shape, np.dtype(np.float32), nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total, done = sum(int(np.prod(shape)) * 4 for _, shape, _, _ in tensors), 0
    problems: list[str] = []
    try:
        for tensor_name, shape, content, kind in tensors:
            values = content().to(torch.float32)
            problems += not_finite(tensor_name, values)
            writer.write_tensor_data(convert(values.numpy(), kind, tensor_name))
            done += int(np.prod(shape)) * 4
            progress(done, total)
    finally:
        writer.close()
    refuse(problems)


def _add_settings(writer: Any, source: LlamaSource, file_type: int, name: str) -> None:
    config = source.config
    writer.add_name(name)
    writer.add_vocab_size(config.vocabulary)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.hidden)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def convert(values: npt.NDArray[np.float32], kind: Any, name: str) -> npt.NDArray[Any]:
    """Float32 values as a ggml type, by llama.cpp's own code. Raises ExportError."""
    if kind == F32:
        return np.ascontiguousarray(values)
    if kind == F16:
        return np.ascontiguousarray(to_float16(values, name))
    values = np.ascontiguousarray(values)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    if columns % block:
        raise ExportError(f"{name}: rows of {columns} values do not fill blocks of {block} for {kind.name}")
    row_bytes = columns // block * size
    result = np.empty((rows, row_bytes), np.uint8)
    library = ggml_library()

    def part(start: int, count: int) -> None:
        source = values[start:].ctypes.data_as(ctypes.c_void_p)
        target = result[start:].ctypes.data_as(ctypes.c_void_p)
        written = library.ggml_quantize_chunk(int(kind), source, target, 0, count, columns, None)
        assert written == count * row_bytes

    workers = torch.get_num_threads()
    step = -(-rows // workers)
    with ThreadPoolExecutor(workers) as pool:  # the library lets go of Python's lock
        list(pool.map(lambda start: part(start, min(step, rows - start)), range(0, rows, step)))
    return result


def quantise(source: Path, target: Path, kind: str, progress: Progress, importance: Importance | None = None) -> None:
    """Quantise a GGUF file with llama.cpp's own quantiser, which chooses each tensor's type.

    `importance`: see `importance.py`; some types need it. Raises ExportError if llama.cpp refuses.
    """
    lib = import_llama_cpp()
    params = lib.llama_model_quantize_default_params()
    params.ftype = file_types()[kind]
    params.nthread = torch.get_num_threads()
    size = source.stat().st_size
    with (
        as_llama_cpp(lib, importance) as params.imatrix,
        _tensor_count(lambda done, total: progress(size * done // total, size)),
    ):
        status = lib.llama_model_quantize(os.fsencode(source), os.fsencode(target), params)
    if status != 0:
        target.unlink(missing_ok=True)
        raise ExportError(f"llama.cpp could not quantise to {kind}: {last_log()}")


@contextmanager
def _tensor_count(heard: Progress) -> Iterator[None]:
    def listen(line: str) -> None:
        if match := re.match(r"\[\s*(\d+)/\s*(\d+)\]", line):
            heard(int(match[1]), int(match[2]))

    with log_listener(listen):
        yield
