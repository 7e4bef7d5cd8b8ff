"""A Llama in a GGUF file, run by llama.cpp through llama-cpp-python's low-level functions.

The high-level `Llama` class is not used: it cannot take embeddings in place of tokens.
"""

import ctypes
import os
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from .base import EngineInfo, Floats, LanguageModelSetup, Segment, TokenSegment
from .errors import BundleError, EngineError, EngineUnavailable, InputError
from .exclusive import Exclusive
from .gguf_header import read_gguf_header
from .llama_cpp_library import built_for_gpu, check_gpu, cpu_code, cpu_features, import_llama_cpp, last_log
from .token_embeddings import TokenEmbeddings

NOT_ON_GPU = {34: "tq1_0", 35: "tq2_0"}
"""Types, by ggml's numbers, that export can make and ggml's code for NVIDIA's GPUs cannot multiply."""


def build() -> str:
    """This llama.cpp: its version, and which of its builds runs with which features. Raises EngineUnavailable."""
    return f"llama-cpp-python {import_llama_cpp().__version__} ({cpu_code()}); {cpu_features()}"


def installed_devices() -> tuple[str, ...]:
    """The devices that this llama.cpp was built for. Raises EngineUnavailable."""
    return ("cpu", "cuda") if built_for_gpu() else ("cpu",)


class LlamaCppModel:
    """A Llama run by llama.cpp. All sequences share the KV cache's cells, so that a forked prefix is stored once.

    Its memory is freed by `close`, or when it is dropped unclosed.
    """

    def __init__(self, path: Path, setup: LanguageModelSetup) -> None:
        """Raises BundleError for a bad file, EngineError, EngineUnavailable, InputError for too much context."""
        self._lib = lib = import_llama_cpp()
        if setup.device != "cpu":
            check_gpu()
            _check_types(path)
        if setup.device == "cpu" and setup.layout == "repacked" and "AMX_INT8 = 1" in cpu_features():
            # It would repack for AMX, whose results are wrong where ONNX Runtime runs in the same thread.
            raise EngineUnavailable(
                "this llama.cpp was built with AMX, which gives wrong results here: build it as CONTRIBUTING.md says, "
                "or ask for layout 'plain', which is right and slower"
            )
        owned = ExitStack()
        free = weakref.finalize(self, _free, owned, os.getpid())
        free.atexit = False  # the system frees it then; a daemon thread may still be computing
        self.exclusive = Exclusive(free)
        self._model = lib.llama_model_load_from_file(os.fsencode(path), _model_params(lib, setup))
        if not self._model:
            reason = last_log()
            kind = EngineError if "alloc" in reason else BundleError  # too little memory is no fault of the file
            raise kind(f"{path.name}: llama.cpp cannot load it ({reason})")
        owned.callback(lib.llama_model_free, self._model)
        trained = lib.llama_model_n_ctx_train(self._model)
        if setup.context > trained:
            self.close()
            raise InputError(f"context is {setup.context}, but this model was trained for at most {trained}")
        self._context = lib.llama_init_from_model(self._model, _context_params(lib, setup))
        if not self._context:
            self.close()
            raise EngineError(f"{path.name}: llama.cpp cannot make a context of {setup.cells} ({last_log()})")
        owned.callback(lib.llama_free, self._context)
        self._memory = lib.llama_get_memory(self._context)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.n_embd: int = lib.llama_model_n_embd(self._model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self._vocab)
        self.n_ctx = setup.cells
        self.n_batch = setup.batch
        try:
            self._embeddings = TokenEmbeddings(lib.llama_cpp._lib, self._model, self.n_embd, self.n_vocab)
        except EngineError:
            self.close()
            raise
        self._token_batch = lib.llama_batch_init(setup.batch, 0, 1)
        self._embedding_batch = lib.llama_batch_init(setup.batch, self.n_embd, 1)
        for batch in (self._token_batch, self._embedding_batch):
            owned.callback(lib.llama_batch_free, batch)
        self._setup = setup
        how = (setup.kv_type, setup.flash_attention, setup.sequences, setup.cells, setup.batch, setup.device)
        self.identity = f"{build()}; {(*how, setup.gpu_layers, setup.layout)}"

    @property
    def info(self) -> EngineInfo:
        """All but the device is read from llama.cpp itself, not from what it was asked."""
        with self.exclusive:
            lib, buffer = self._lib, ctypes.create_string_buffer(128)
            lib.llama_model_desc(self._model, buffer, len(buffer))
            return EngineInfo(
                engine="llama.cpp",
                version=f"llama-cpp-python {lib.__version__}",
                device=self._setup.device,
                threads=lib.llama_n_threads(self._context),
                details={
                    "model": buffer.value.decode(errors="replace"),
                    "prefill_threads": lib.llama_n_threads_batch(self._context),
                    "cells": lib.llama_n_ctx(self._context),
                    "sequences": lib.llama_n_seq_max(self._context),
                    "batch": lib.llama_n_batch(self._context),
                    "cpu_code": cpu_code(),
                    "cpu_features": cpu_features().strip(),
                },
            )

    def tokenize(self, text: str, *, bos: bool) -> list[int]:
        with self.exclusive:
            data = text.encode()
            room = len(data) + 2  # a byte each, the dummy prefix, BOS
            ids = (ctypes.c_int32 * room)()
            count = self._lib.llama_tokenize(self._vocab, data, len(data), ids, room, bos, False)
            if count < 0:
                raise EngineError(f"llama.cpp cannot tokenise a text of {len(data)} bytes")
            return list(ids[:count])

    def token_bytes(self, token: int) -> bytes:
        with self.exclusive:
            size = 256
            while True:
                buffer = ctypes.create_string_buffer(size)
                count = self._lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, True)
                if count >= 0:
                    return buffer.raw[:count]
                size = -count

    def set_threads(self, threads: int, prefill_threads: int) -> None:
        with self.exclusive:
            self._lib.llama_set_n_threads(self._context, threads, prefill_threads)

    def embed(self, tokens: Sequence[int]) -> Floats:
        with self.exclusive:
            return self._embeddings.rows(tokens)

    def evaluate(self, segments: Sequence[Segment]) -> Floats:
        self._check_room(sum(map(len, segments)))
        with self.exclusive:
            texts = [segment for segment in segments if isinstance(segment, TokenSegment)]
            if len(texts) == len(segments):
                batch = self._token_batch
                for i, token in enumerate(token for segment in texts for token in segment.tokens):
                    batch.token[i] = token
            else:  # a call takes tokens or embeddings, never both
                batch = self._embedding_batch
                rows = np.concatenate([self._rows(segment) for segment in segments])
                ctypes.memmove(batch.embd, rows.ctypes.data, rows.nbytes)
            ends = _place(batch, segments)
            self._decode(batch, ends[-1] + 1)
            return self._logits_after(ends)

    def _rows(self, segment: Segment) -> Floats:
        if isinstance(segment, TokenSegment):
            return self._embeddings.rows(segment.tokens)
        if segment.embeddings.ndim != 2 or segment.embeddings.shape[1] != self.n_embd:
            raise EngineError(f"embeddings have shape {segment.embeddings.shape}, expected (n, {self.n_embd})")
        return segment.embeddings.astype(np.float32, copy=False)

    def _check_room(self, count: int) -> None:
        self.exclusive.check()
        if not 1 <= count <= self.n_batch:
            raise EngineError(f"{count} tokens or embeddings in one call, expected 1 to {self.n_batch}")

    def _decode(self, batch: Any, count: int) -> None:
        batch.n_tokens = count
        status = self._lib.llama_decode(self._context, batch)
        if status != 0:
            reason = "the KV cache is full" if status == 1 else last_log()
            raise EngineError(f"llama.cpp could not evaluate {count} items at {batch.pos[0]}: {reason}")

    def _logits_after(self, items: Sequence[int]) -> Floats:
        """Copies of llama.cpp's own rows, which are overwritten when it evaluates again."""
        logits = np.empty((len(items), self.n_vocab), np.float32)
        for row, item in zip(logits, items, strict=True):
            address = self._lib.llama_get_logits_ith(self._context, item)
            if not address:
                raise EngineError(f"llama.cpp has no logits of item {item}: {last_log()}")
            ctypes.memmove(row.ctypes.data, address, row.nbytes)
        return logits

    def fork(self, source: int, target: int, length: int) -> None:
        with self.exclusive:
            self._lib.llama_memory_seq_rm(self._memory, target, -1, -1)
            self._lib.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def rewind(self, sequence: int, length: int) -> None:
        with self.exclusive:
            if not self._lib.llama_memory_seq_rm(self._memory, sequence, length, -1):
                raise EngineError(f"llama.cpp could not rewind sequence {sequence} to {length}")

    def snapshot(self, sequence: int) -> bytes:
        with self.exclusive:
            size = self._lib.llama_state_seq_get_size(self._context, sequence)
            buffer = (ctypes.c_uint8 * size)()
            written = self._lib.llama_state_seq_get_data(self._context, buffer, size, sequence)
            return ctypes.string_at(buffer, written)

    def restore(self, sequence: int, data: bytes) -> None:
        with self.exclusive:
            buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
            if self._lib.llama_state_seq_set_data(self._context, buffer, len(data), sequence) != len(data):
                raise EngineError(f"llama.cpp cannot restore a snapshot of {len(data)} bytes: {last_log()}")

    def wipe(self) -> None:
        with self.exclusive:
            self._lib.llama_memory_clear(self._memory, True)
            ctypes.memset(self._embedding_batch.embd, 0, self.n_batch * self.n_embd * 4)  # float32

    def close(self) -> None:
        self.exclusive.close()


def _check_types(path: Path) -> None:
    """Raises EngineUnavailable for weights whose products llama.cpp would leave to the processor without a word."""
    types = {tensor.type for tensor in read_gguf_header(path).tensors}
    if found := [name for number, name in NOT_ON_GPU.items() if number in types]:
        raise EngineUnavailable(
            f"{path.name}: llama.cpp has no code for a GPU for weights of the type {', '.join(found)}: "
            "ask for 'cpu', or make the bundle with another --llm-type"
        )


def _place(batch: Any, segments: Sequence[Segment]) -> list[int]:
    """Say where in the KV cache each item of a batch belongs; the numbers of the segments' last items."""
    ends, count = [], 0
    for segment in segments:
        if not len(segment):
            raise EngineError("a segment without tokens or embeddings has no logits")
        for position in range(segment.position, segment.position + len(segment)):
            batch.pos[count] = position
            batch.n_seq_id[count] = 1
            batch.seq_id[count][0] = segment.sequence
            batch.logits[count] = False
            count += 1
        batch.logits[count - 1] = True
        ends.append(count - 1)
    return ends


def _free(owned: ExitStack, process: int) -> None:
    # A child that was forked has the memory, but not the threads that freeing it would wait for.
    if os.getpid() == process:
        owned.close()


def _model_params(lib: Any, setup: LanguageModelSetup) -> Any:
    params = lib.llama_model_default_params()
    _set(
        params,
        n_gpu_layers=setup.gpu_layers,
        # The first GPU or none: without this, one that is there would compute prompts also where the CPU was asked for.
        split_mode=lib.LLAMA_SPLIT_MODE_NONE,
        main_gpu=-1 if setup.device == "cpu" else 0,
        # Mapped, the file's pages would stand beside the repacked weights: twice the memory at the same speed.
        load_mode=lib.LLAMA_LOAD_MODE_NONE,
        use_extra_bufts=setup.layout == "repacked",
    )
    return params


def _context_params(lib: Any, setup: LanguageModelSetup) -> Any:
    keys, _, values = setup.kv_type.partition("/")
    attention = "ENABLED" if setup.flash_attention else "DISABLED"
    params = lib.llama_context_default_params()
    _set(
        params,
        n_ctx=setup.cells,
        n_batch=setup.batch,
        n_ubatch=setup.batch,
        n_seq_max=setup.sequences,
        n_threads=setup.threads,
        n_threads_batch=setup.prefill_threads,
        type_k=getattr(lib, f"GGML_TYPE_{keys.upper()}"),
        type_v=getattr(lib, f"GGML_TYPE_{(values or keys).upper()}"),
        flash_attn_type=getattr(lib, f"LLAMA_FLASH_ATTN_TYPE_{attention}"),
        kv_unified=True,  # a forked prefix then shares its cells instead of being copied
    )
    return params


def _set(params: Any, **values: Any) -> None:
    # A ctypes structure silently accepts a field that it does not have.
    known = {field[0] for field in params._fields_}
    for name, value in values.items():
        if name not in known:
            raise EngineError(f"this llama-cpp-python has no parameter {name!r}; version 0.3.36 is needed")
        setattr(params, name, value)
