"""Graphs run by ONNX Runtime on an NVIDIA GPU, captured once as a CUDA graph and replayed for each picture.

A vision encoder is hundreds of small kernels, and to launch them one by one takes longer than to compute them. A replay
is one launch. This class has never been run on a GPU. Nearly the same calls, made by hand on an H200, took the time of
encoder and Q-Former from 9.4 to 5.2 ms (`benchmarks/results/h200/targets.md`).

https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#using-cuda-graphs-preview
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from . import onnx_runtime
from .base import Array, EngineInfo, GraphSetup, TensorSpec
from .errors import BundleError, EngineError
from .one_thread import OneThread

BATCH = "batch"  # the name of the first dimension of every input in our graphs
CUDA_OPTIONS = {
    "enable_cuda_graph": "1",
    "arena_extend_strategy": "kSameAsRequested",  # a replay takes no new memory, so none need be there to spare
}


def build() -> str:
    """This ONNX Runtime's version and what it can run on. Raises EngineUnavailable."""
    return onnx_runtime.build()


def installed_devices() -> tuple[str, ...]:
    """The devices that this ONNX Runtime was built for. Raises EngineUnavailable."""
    return onnx_runtime.installed_devices()


class OrtCudaGraph:
    """A graph replayed for one picture at a time, or an error.

    ONNX Runtime keeps a captured graph for the thread that ran it, so one thread makes all calls. A captured graph
    holds addresses, so inputs and outputs have buffers that stay. On the device `cpu` the same calls are made and
    nothing is captured, which is what can be tested without a GPU.
    """

    def __init__(self, path: Path, setup: GraphSetup) -> None:
        """Raises BundleError for a file that is no graph, EngineUnavailable for a device that is not there."""
        self._name, self._setup = path.name, setup
        self._lock, self._process = Lock(), os.getpid()
        self._thread = OneThread("skingpt-cuda-graph")
        self._session: Any = None
        self._binding: Any = None
        self._buffers: dict[str, Any] = {}
        try:
            self._thread.run(lambda: self._open(path))
            self._capture()
        except BaseException:
            with suppress(EngineError):  # what went wrong first is what the user must hear
                self.close()
            raise

    def _open(self, path: Path) -> None:
        self._session = session = onnx_runtime.open_session(
            path,
            self._setup,
            provider_options=CUDA_OPTIONS if self._setup.device != "cpu" else {},
            sizes={BATCH: 1},
            on_cpu=frozenset(),  # what the processor computes cannot be captured
        )
        self.info: EngineInfo = onnx_runtime.info_of(session, self._setup)
        inputs = tuple(map(onnx_runtime.spec_of, session.get_inputs()))
        outputs = tuple(map(onnx_runtime.spec_of, session.get_outputs()))
        self._buffers = {spec.name: self._buffer(spec) for spec in (*inputs, *outputs)}
        self._binding = session.io_binding()
        for spec in inputs:
            self._binding.bind_ortvalue_input(spec.name, self._buffers[spec.name])
        for spec in outputs:
            self._binding.bind_ortvalue_output(spec.name, self._buffers[spec.name])
        # As many pictures as wanted can be given: they are computed one after the other.
        self.inputs = tuple(map(_of_any_batch, inputs))
        self.outputs = tuple(map(_of_any_batch, outputs))

    def _buffer(self, spec: TensorSpec) -> Any:
        """Memory on the device for one picture's input or output."""
        if None in spec.shape:
            raise BundleError(f"{self._name}: {spec.name} has shape {spec.shape}, expected only {BATCH!r} to vary")
        ort_value = onnx_runtime.import_onnxruntime().OrtValue
        return ort_value.ortvalue_from_shape_and_type(spec.shape, np.float32, self._setup.device, 0)

    def _capture(self) -> None:
        """Compute a picture of zeros, so that whatever is checked later is a replay with other inputs."""
        shapes = {spec.name: [size or 1 for size in spec.shape] for spec in self.inputs}
        self.run({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        # Before the lock, which another thread may have held at the fork.
        if os.getpid() != self._process:
            raise EngineError("the model was opened before this process was forked: open it again in this one")
        with self._lock:
            if self._session is None:
                raise EngineError("the model is closed")
            pictures = self._one_by_one(inputs)
            try:
                found = self._thread.run(lambda: [self._replay(picture) for picture in pictures])
            except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
                raise onnx_runtime.failure(self._name, self._setup.device, error) from error
        return {spec.name: np.concatenate([one[spec.name] for one in found]) for spec in self.outputs}

    def _one_by_one(self, inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
        """Each picture's inputs. Raises EngineError for inputs that are not the graph's."""
        expected = {spec.name: spec.shape[1:] for spec in self.inputs}
        given = {name: array.shape for name, array in inputs.items()}
        counts = {shape[:1] for shape in given.values()}
        if {name: shape[1:] for name, shape in given.items()} != expected or len(counts) != 1 or (0,) in counts:
            raise EngineError(f"{self._name}: for each picture it takes {expected}, given were {given}")
        if types := {str(array.dtype) for array in inputs.values()} - {"float32"}:
            raise EngineError(f"{self._name}: it takes float32, given were {', '.join(sorted(types))}")
        pictures: zip[tuple[Array, ...]] = zip(*inputs.values(), strict=True)
        return [{name: array[None] for name, array in zip(inputs, picture, strict=True)} for picture in pictures]

    def _replay(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute one picture. On a GPU the first call captures."""
        for name, array in inputs.items():
            self._buffers[name].update_inplace(np.ascontiguousarray(array))
        self._session.run_with_iobinding(self._binding)
        return {spec.name: np.array(self._buffers[spec.name].numpy()) for spec in self.outputs}

    def close(self) -> None:
        """As every engine's. Raises EngineError, when all is freed, if the GPU failed and nothing could be wiped."""
        if os.getpid() != self._process:
            return
        with self._lock:
            if self._session is not None:
                try:
                    self._thread.run(self._free)
                except Exception as error:
                    raise onnx_runtime.failure(self._name, self._setup.device, error) from error

    def _free(self) -> None:
        try:
            for buffer in self._buffers.values():  # they hold a patient's picture
                buffer.update_inplace(np.zeros(buffer.shape(), np.float32))
        finally:
            self._binding = None  # before the session, which it needs
            self._buffers.clear()
            self._session = None


def _of_any_batch(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, (None, *spec.shape[1:]))
