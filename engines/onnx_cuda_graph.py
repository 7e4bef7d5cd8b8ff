"""Graphs run by ONNX Runtime on an NVIDIA GPU, recorded once as a CUDA graph and replayed for each picture.

A vision encoder is hundreds of small kernels, and to launch them one by one takes longer than to compute them. A replay
is one launch. The class has never been run on a GPU: the same calls, made by hand on an H200, took the time of encoder
and Q-Former from 9.4 to 5.2 ms (`benchmarks/results/h200/targets.md`).

https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#using-cuda-graphs-preview
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from . import onnx_runtime
from .base import Array, EngineInfo, GraphSetup, TensorSpec
from .errors import BundleError, EngineError

BATCH = "batch"  # the name of the first dimension of every input in our graphs
CUDA_OPTIONS = {
    "enable_cuda_graph": "1",
    "arena_extend_strategy": "kSameAsRequested",  # a replay takes no new memory, so none need be there to spare
}

Result = TypeVar("Result")


def build() -> str:
    """This ONNX Runtime's version and what it can run on. Raises EngineUnavailable."""
    return onnx_runtime.build()


def installed_devices() -> tuple[str, ...]:
    """The devices that this ONNX Runtime was built for. Raises EngineUnavailable."""
    return onnx_runtime.installed_devices()


class OrtCudaGraph:
    """A graph replayed for one picture at a time, or an error.

    ONNX Runtime keeps a recording for the thread that made it, so one thread makes all calls. A recording holds
    addresses, so inputs and outputs always lie at the same places. On the device `cpu` the same calls are made and
    nothing is recorded, which is what can be tested without a GPU.
    """

    def __init__(self, path: Path, setup: GraphSetup) -> None:
        """Raises BundleError for a file that is no graph, EngineUnavailable for a device that is not there."""
        self._name, self._setup = path.name, setup
        self._lock, self._process = Lock(), os.getpid()
        self._thread = ThreadPoolExecutor(1, "skingpt-cuda-graph")
        self._session: Any = None
        self._binding: Any = None
        self._places: dict[str, Any] = {}
        try:
            self._in_thread(lambda: self._open(path))
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        on_gpu = self._setup.device != "cpu"
        self._session = session = onnx_runtime.open_session(
            path,
            self._setup,
            provider_options=CUDA_OPTIONS if on_gpu else {},
            sizes={BATCH: 1},
            on_cpu=frozenset(),  # what the processor computes could not be recorded
        )
        self.info: EngineInfo = onnx_runtime.info_of(session, self._setup)
        inputs = tuple(map(onnx_runtime.spec_of, session.get_inputs()))
        outputs = tuple(map(onnx_runtime.spec_of, session.get_outputs()))
        self._places = {spec.name: self._place(spec) for spec in (*inputs, *outputs)}
        self._binding = session.io_binding()
        for spec in inputs:
            self._binding.bind_ortvalue_input(spec.name, self._places[spec.name])
        for spec in outputs:
            self._binding.bind_ortvalue_output(spec.name, self._places[spec.name])
        # As many pictures as wanted can be given: they are computed one after the other.
        self.inputs = tuple(map(_of_any_batch, inputs))
        self.outputs = tuple(map(_of_any_batch, outputs))

    def _place(self, spec: TensorSpec) -> Any:
        """Memory on the device for one picture's input or output."""
        if None in spec.shape:
            raise BundleError(f"{self._name}: {spec.name} has shape {spec.shape}, expected only {BATCH!r} to vary")
        ort_value = onnx_runtime.import_onnxruntime().OrtValue
        return ort_value.ortvalue_from_shape_and_type(spec.shape, np.float32, self._setup.device, 0)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with self._lock:
            self._check_open()
            rows = self._one_by_one(inputs)
            try:
                found = self._in_thread(lambda: [self._replay(row) for row in rows])
            except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
                raise onnx_runtime.failure(self._name, error) from error
        return {spec.name: np.concatenate([one[spec.name] for one in found]) for spec in self.outputs}

    def _check_open(self) -> None:
        if os.getpid() != self._process:  # the thread is not in a forked child, which would wait for it for ever
            raise EngineError("the model was opened before this process was forked: open it again in this one")
        if self._session is None:
            raise EngineError("the model is closed")

    def _one_by_one(self, inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
        """Each picture's inputs. Raises EngineError for inputs that are not the graph's."""
        expected = {spec.name: spec.shape[1:] for spec in self.inputs}
        given = {name: array.shape for name, array in inputs.items()}
        counts = {shape[:1] for shape in given.values()}
        if {name: shape[1:] for name, shape in given.items()} != expected or len(counts) != 1 or (0,) in counts:
            raise EngineError(f"{self._name}: for each picture it takes {expected}, given were {given}")
        rows: zip[tuple[Array, ...]] = zip(*inputs.values(), strict=True)
        return [{name: array[None] for name, array in zip(inputs, row, strict=True)} for row in rows]

    def _replay(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute one picture. The first call also records."""
        for name, array in inputs.items():
            self._places[name].update_inplace(np.ascontiguousarray(array, np.float32))
        self._session.run_with_iobinding(self._binding)
        return {spec.name: np.array(self._places[spec.name].numpy()) for spec in self.outputs}

    def _in_thread(self, work: Callable[[], Result]) -> Result:
        return self._thread.submit(work).result()

    def close(self) -> None:
        if os.getpid() != self._process:
            return
        with self._lock:
            if self._session is not None:
                self._in_thread(self._free)
            self._thread.shutdown()

    def _free(self) -> None:
        self._binding = None
        self._places.clear()
        self._session = None  # last: the others hold its memory


def _of_any_batch(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, (None, *spec.shape[1:]))
