"""A Llama in a GGUF file, run by llama.cpp through llama-cpp-python's low-level functions.

The high-level `Llama` class is not used: it cannot take embeddings in place of tokens.
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .base import EngineInfo, Floats, Run
from .errors import EngineError, EngineUnavailable, InputError
from .gguf_header import import_llama_cpp, last_log, llama_cpp_build, read_gguf_header
from .own_thread import OwnThread
from .weight_layouts import TYPES, overrides

DEVICES = ("cpu", "cuda")
KV_TYPES = {
    "f32": ("GGML_TYPE_F32", "GGML_TYPE_F32"),
    "f16": ("GGML_TYPE_F16", "GGML_TYPE_F16"),
    "q8_0/f16": ("GGML_TYPE_Q8_0", "GGML_TYPE_F16"),
    "q8_0": ("GGML_TYPE_Q8_0", "GGML_TYPE_Q8_0"),
}
"""Types of the KV cache: of its keys and of its values. Values of q8_0 need flash attention."""
BATCH = 128  # tokens or embeddings evaluated by one call, at most; a first prompt is about as long
ALL_LAYERS = 999


class LlamaCppModel:
    """A Llama run by llama.cpp with a KV cache of `cells` cells, `context` unless given, that all sequences share.

    `gpu_layers` of a device other than the CPU are computed there, all unless given. `amx` lets a build that has AMX
    use it: see `has_amx`.
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int,
        threads: int,
        precision: str,
        kv_type: str = "f16",
        flash_attention: bool = True,
        sequences: int = 2,
        cells: int | None = None,
        batch: int = BATCH,
        prefill_threads: int | None = None,
        device: str = "cpu",
        gpu_layers: int | None = None,
        amx: bool = False,
    ) -> None:
        self._lib = lib = import_llama_cpp()
        if device not in DEVICES:
            raise EngineUnavailable(f"device {device!r} is unknown; known are {', '.join(DEVICES)}")
        if device != "cpu" and not lib.llama_supports_gpu_offload():
            raise EngineUnavailable(f"device {device!r} was asked for, but this llama.cpp runs on the CPU only")
        if gpu_layers is not None and device == "cpu":
            raise InputError(f"gpu_layers is {gpu_layers}, but the device is the CPU: ask for device 'cuda'")
        if kv_type not in KV_TYPES:
            raise EngineError(f"KV type {kv_type!r} is unknown; known are {', '.join(KV_TYPES)}")
        layers = 0 if device == "cpu" else ALL_LAYERS if gpu_layers is None else gpu_layers
        own_layouts = device == "cpu" and has_amx(lib)
        self._layouts = overrides(lib, read_gguf_header(path), amx=amx) if own_layouts else None
        self._model = lib.llama_model_load_from_file(os.fsencode(path), _model_params(lib, layers, self._layouts))
        if not self._model:
            raise EngineError(f"{path.name}: llama.cpp cannot load it ({last_log()})")
        params = lib.llama_context_default_params()
        _set(
            params,
            n_ctx=cells or context,
            n_batch=batch,
            n_ubatch=batch,
            n_seq_max=sequences,
            n_threads=threads,
            n_threads_batch=prefill_threads or threads,
            type_k=getattr(lib, KV_TYPES[kv_type][0]),
            type_v=getattr(lib, KV_TYPES[kv_type][1]),
            flash_attn_type=(
                lib.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attention else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
            ),
            kv_unified=True,  # a forked prefix then shares its cells instead of being copied
        )
        trained = lib.llama_model_n_ctx_train(self._model)
        if context > trained:
            lib.llama_model_free(self._model)
            raise InputError(f"context is {context}, but this model was trained for at most {trained}")
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            lib.llama_model_free(self._model)
            raise EngineError(f"{path.name}: llama.cpp cannot make a context of {cells or context} ({last_log()})")
        self._memory = lib.llama_get_memory(self._context)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.n_embd: int = lib.llama_model_n_embd(self._model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self._vocab)
        self.n_ctx = cells or context
        self.n_batch = batch
        self.eos: int = lib.llama_vocab_eos(self._vocab)
        self._token_batch = lib.llama_batch_init(batch, 0, 1)
        self._embedding_batch = lib.llama_batch_init(batch, self.n_embd, 1)
        version = f"llama-cpp-python {lib.__version__}"
        how = (kv_type, flash_attention, sequences, self.n_ctx, batch, device, gpu_layers, amx, TYPES)
        self.identity = f"{llama_cpp_build()}; {how}"
        """All that decides how the KV cache is laid out and what bits are in it, but for the weights."""
        self._thread = OwnThread("llama.cpp") if amx and own_layouts else None
        ran = f"{version} with AMX" if self._thread else version
        self.info = EngineInfo("llama.cpp", ran, device, precision, threads)

    def tokenize(self, text: str, *, bos: bool) -> list[int]:
        self._check_open()
        data = text.encode()
        room = len(data) + 2  # a byte each, the dummy prefix, BOS
        ids = (ctypes.c_int32 * room)()
        count = self._lib.llama_tokenize(self._vocab, data, len(data), ids, room, bos, False)
        if count < 0:
            raise EngineError(f"llama.cpp cannot tokenise a text of {len(data)} bytes")
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        self._check_open()
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, True)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def set_threads(self, threads: int, prefill_threads: int) -> None:
        """Compute single tokens and longer runs with so many threads from now on."""
        self._check_open()
        self._lib.llama_set_n_threads(self._context, threads, prefill_threads)

    def evaluate_tokens(self, sequence: int, position: int, tokens: Sequence[int]) -> None:
        for start in range(0, len(tokens), self.n_batch):
            chunk = tokens[start : start + self.n_batch]
            for i, token in enumerate(chunk):
                self._token_batch.token[i] = token
            self._decode(self._token_batch, len(chunk), sequence, position + start)

    def evaluate_embeddings(self, sequence: int, position: int, embeddings: Floats) -> None:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.n_embd:
            raise EngineError(f"embeddings have shape {embeddings.shape}, expected (n, {self.n_embd})")
        for start in range(0, len(embeddings), self.n_batch):
            chunk = np.ascontiguousarray(embeddings[start : start + self.n_batch], dtype=np.float32)
            ctypes.memmove(self._embedding_batch.embd, chunk.ctypes.data, chunk.nbytes)
            self._decode(self._embedding_batch, len(chunk), sequence, position + start)

    def evaluate_together(self, runs: Sequence[Run]) -> Floats:
        batch, ends, count = self._token_batch, [], 0
        if (total := sum(len(run.tokens) for run in runs)) > self.n_batch:
            raise EngineError(f"{total} tokens were to be evaluated together, at most {self.n_batch} can be")
        for run in runs:
            for i, token in enumerate(run.tokens):
                batch.token[count] = token
                self._place(batch, count, run.sequence, run.position + i, last=i == len(run.tokens) - 1)
                count += 1
            ends.append(count - 1)
        self._evaluate(batch, count)
        return np.stack([self._logits_after(end) for end in ends])

    def _decode(self, batch: Any, count: int, sequence: int, position: int) -> None:
        for i in range(count):
            self._place(batch, i, sequence, position + i, last=i == count - 1)
        self._evaluate(batch, count)

    def _place(self, batch: Any, i: int, sequence: int, position: int, *, last: bool) -> None:
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = last

    def _evaluate(self, batch: Any, count: int) -> None:
        self._check_open()
        batch.n_tokens = count
        decode = self._lib.llama_decode
        status = self._thread(decode, self._context, batch) if self._thread else decode(self._context, batch)
        if status != 0:
            reason = "the KV cache is full" if status == 1 else last_log()
            raise EngineError(f"llama.cpp could not evaluate {count} items at {batch.pos[0]}: {reason}")

    def logits(self) -> Floats:
        self._check_open()
        return self._logits_after(-1).copy()

    def _logits_after(self, item: int) -> Floats:
        """llama.cpp's own array, valid until it evaluates again."""
        pointer = self._lib.llama_get_logits_ith(self._context, item)
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,))

    def fork(self, source: int, target: int, length: int) -> None:
        self._check_open()
        self._lib.llama_memory_seq_rm(self._memory, target, -1, -1)
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def rewind(self, sequence: int, length: int) -> None:
        self._check_open()
        if not self._lib.llama_memory_seq_rm(self._memory, sequence, length, -1):
            raise EngineError(f"llama.cpp could not rewind sequence {sequence} to {length}")

    def snapshot(self, sequence: int) -> bytes:
        """The KV cache of a sequence, for `restore` into a model of the same `identity`."""
        self._check_open()
        size = self._lib.llama_state_seq_get_size(self._context, sequence)
        buffer = (ctypes.c_uint8 * size)()
        written = self._lib.llama_state_seq_get_data(self._context, buffer, size, sequence)
        return ctypes.string_at(buffer, written)

    def restore(self, sequence: int, data: bytes) -> None:
        """Put a snapshot into an empty sequence. Raises EngineError if llama.cpp does not take it."""
        self._check_open()
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        if self._lib.llama_state_seq_set_data(self._context, buffer, len(data), sequence) != len(data):
            raise EngineError(f"llama.cpp cannot restore a snapshot of {len(data)} bytes: {last_log()}")

    def _check_open(self) -> None:
        if not self._context:  # llama.cpp would end the process
            raise EngineError("the model is closed")

    def close(self) -> None:
        if self._context:
            if self._thread:
                self._thread.close()
            self._lib.llama_batch_free(self._token_batch)
            self._lib.llama_batch_free(self._embedding_batch)
            self._lib.llama_free(self._context)
            self._lib.llama_model_free(self._model)
            self._context = self._model = None


def _model_params(lib: Any, gpu_layers: int, layouts: Any = None) -> Any:
    params = lib.llama_model_default_params()
    # Mapped, the file's pages would stand beside the repacked weights: twice the memory at the same speed.
    load_mode = lib.LLAMA_LOAD_MODE_NONE
    _set(params, n_gpu_layers=gpu_layers, load_mode=load_mode, use_extra_bufts=not has_amx(lib))
    if layouts is not None:
        _set(params, tensor_buft_overrides=ctypes.addressof(layouts))
    return params


def has_amx(lib: Any) -> bool:
    """Whether this llama.cpp was built to use the AMX tiles of recent Xeons.

    It configures the tiles once per thread; where ONNX Runtime then configures them otherwise in the same thread, its
    results are wrong. So with AMX it computes in a thread of its own, whose OpenMP threads are its own, too. Built by
    GCC 12 without -fno-dse it crashes (llama.cpp pull request 26954), so who opens a model has to find out whether it
    works before asking for it.
    """
    return b"AMX_INT8 = 1" in lib.llama_print_system_info()


def _set(params: Any, **values: Any) -> None:
    # A ctypes structure silently accepts a field that it does not have.
    known = {field[0] for field in params._fields_}
    for name, value in values.items():
        if name not in known:
            raise EngineError(f"this llama-cpp-python has no parameter {name!r}; version 0.3.36 is needed")
        setattr(params, name, value)
