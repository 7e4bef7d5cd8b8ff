"""Graphs run by NVIDIA's TensorRT-RTX, on the first GPU. Never run on one so far: none of its kind was at hand."""

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from .base import Array, EngineInfo, GraphSetup, TensorSpec
from .cuda_driver import Gpu, gpu_facts
from .errors import EngineError
from .forked_children import keep_in_children
from .tensorrt_rtx_plan import PICTURES, Plan, build_plan, check_target, error_log, library


def build() -> str:
    """This TensorRT-RTX's version. Raises EngineUnavailable."""
    return f"tensorrt-rtx {library().__version__}"


def installed_devices() -> tuple[str, ...]:
    """Raises EngineUnavailable without the library."""
    library()
    return ("cuda",)


class TensorRtxGraph:
    """A graph run by TensorRT-RTX, or an error."""

    def __init__(self, path: Path, setup: GraphSetup, plan: Plan | None = None) -> None:
        """`plan` is what was built of the graph for this machine's GPU; it is built now unless given.

        Raises EngineUnavailable without library, driver or a GPU that TensorRT-RTX knows; BundleError, EngineError.
        """
        trt, facts = library(), gpu_facts()
        check_target(facts.target, facts.name)
        plan = plan or Plan(build_plan(path, facts.target), "built now, and not kept")
        self._name, self._lock, self._log = path.name, Lock(), error_log(trt)
        self._gpu = Gpu()
        keep_in_children(self)
        try:
            self._load(trt, plan)
        except BaseException:
            with suppress(EngineError):  # what went wrong first is what the user must hear
                self.close()
            raise
        self.info = EngineInfo(
            engine="tensorrt-rtx",
            version=trt.__version__,
            device=setup.device,
            threads=1,
            details={"gpu": facts.name, "target": facts.target, "driver": facts.driver, "plan": plan.origin},
        )

    def _load(self, trt: Any, plan: Plan) -> None:
        self._context: Any = None
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan.data)
        if self._engine is None:
            raise EngineError(f"{self._name}: TensorRT-RTX cannot load the plan: {self._log.reason()}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{self._name}: TensorRT-RTX cannot prepare the plan: {self._log.reason()}")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._types = {name: np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))) for name in names}
        self.inputs = tuple(self._spec(name) for name in inputs)
        self.outputs = tuple(self._spec(name) for name in names if name not in inputs)
        for name in inputs:
            self._set_shape(name, tuple(self._engine.get_tensor_profile_shape(name, 0)[2]))
        # Room for the most pictures, so that no address changes later.
        sizes = {name: math.prod(self._context.get_tensor_shape(name)) * self._types[name].itemsize for name in names}
        self._addresses = {name: self._gpu.allocate(size) for name, size in sizes.items()}
        for name, address in self._addresses.items():
            self._context.set_tensor_address(name, address)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with self._lock:
            if self._context is None:
                raise EngineError("the model is closed")
            self._check(inputs)
            self._log.errors.clear()
            self._gpu.enter()
            sent = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
            results = {}
            try:
                for name, array in sent.items():
                    self._set_shape(name, array.shape)
                    self._gpu.send(array, self._addresses[name])
                if not self._context.execute_async_v3(self._gpu.stream):
                    raise EngineError(f"{self._name}: TensorRT-RTX failed: {self._log.reason()}")
                for name in (spec.name for spec in self.outputs):
                    results[name] = np.empty(tuple(self._context.get_tensor_shape(name)), self._types[name])
                    self._gpu.fetch(results[name], self._addresses[name])
            finally:
                self._gpu.wait()  # `sent` and `results` must be there until they are copied
            return results

    def close(self) -> None:
        with self._lock:
            # In this order: each needs the next one until it is gone.
            self._context = self._engine = self._runtime = None
            self._gpu.close()

    def _spec(self, name: str) -> TensorSpec:
        shape = self._engine.get_tensor_shape(name)
        return TensorSpec(name, tuple(None if size == -1 else int(size) for size in shape))

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            raise EngineError(f"{self._name}: {name} cannot have shape {shape}: {self._log.reason()}")

    def _check(self, inputs: Mapping[str, Array]) -> None:
        """Raises EngineError for inputs that are not the graph's."""
        specs = {spec.name: spec for spec in self.inputs}
        if set(inputs) != set(specs):
            raise EngineError(f"{self._name}: its inputs are {', '.join(specs)}, given were {', '.join(inputs)}")
        for name, array in inputs.items():
            pictures, most = array.shape[0] if array.ndim else 0, PICTURES[-1]
            if array.dtype != self._types[name] or array.shape[1:] != specs[name].shape[1:]:
                raise EngineError(f"{self._name}: {name} is {array.dtype} {array.shape}, not {specs[name].shape}")
            if not 1 <= pictures <= most:
                raise EngineError(f"{self._name}: {pictures} pictures at once; a plan takes 1 to {most}")
