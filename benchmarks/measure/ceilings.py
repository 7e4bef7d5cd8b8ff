"""This machine's peak speeds: reading memory, and float32 and int8 matrix products. Runs in a worker.

The time of a stage is then compared with its ceiling. Each ceiling is the fastest of several ways to reach it.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from ...runtime.machine import read_bandwidth

BUFFER = 1 << 30  # bytes; far beyond any processor cache
SQUARES = (1024, 2048, 3072)
ROWS, INNER, COLUMNS = (256, 512, 1024), (1408, 2048, 4096, 6144), (512, 1408, 2048, 4096)
SEARCH_TRIALS = 3


class Ceilings:
    """Measures the ceilings. The worker's environment variables have set the number of numpy's threads."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def measure(self, trials: int, thorough: bool) -> dict[str, dict[str, Any]]:
        """All three ceilings. `thorough` tries all shapes of int8 products instead of two."""
        return {
            "read_bandwidth": self._read_bandwidth(trials),
            "float32_peak": self._float32_peak(trials),
            "int8_peak": self._int8_peak(trials, thorough),
        }

    def _read_bandwidth(self, trials: int) -> dict[str, Any]:
        found = read_bandwidth(self._threads, BUFFER, trials)
        return _ceiling(found, "B/s", f"numpy bitwise_or over {BUFFER >> 20} MiB, {self._threads} threads")

    def _float32_peak(self, trials: int) -> dict[str, Any]:
        found = {}
        for size in SQUARES:
            a = np.random.default_rng(0).random((size, size), np.float32)
            out = a @ a
            seconds = [_seconds(partial(np.matmul, a, a, out=out)) for _ in range(trials)]
            found[size] = [2 * size**3 / value for value in seconds]
        best = max(found, key=lambda size: max(found[size]))
        return _ceiling(found[best], "FLOP/s", f"numpy matmul of {best} × {best}, {self._threads} threads")

    def _int8_peak(self, trials: int, thorough: bool) -> dict[str, Any]:
        shapes = list(product(ROWS, INNER, COLUMNS)) if thorough else [(512, 4096, 512), (256, 2048, 2048)]
        rates = {shape: max(self._int8_rates(shape, SEARCH_TRIALS)) for shape in shapes}
        best = max(rates, key=lambda shape: rates[shape])
        # The fastest shape is measured again, because the highest of many rates is partly luck.
        how = f"ONNX Runtime MatMulInteger {' × '.join(map(str, best))}, {self._threads} threads"
        return _ceiling(self._int8_rates(best, trials), "OP/s", f"{how}, best of {len(shapes)} shapes")

    def _int8_rates(self, shape: tuple[int, int, int], trials: int) -> list[float]:
        m, k, n = shape
        run = int8_product(m, k, n, self._threads)
        run()
        return [2 * m * k * n / _seconds(run) for _ in range(trials)]


def int8_product(m: int, k: int, n: int, threads: int) -> Callable[[], None]:
    """A function that multiplies uint8 (m, k) by constant int8 (k, n), as a quantised layer does."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(0)
    weight = numpy_helper.from_array(chance.integers(-127, 128, (k, n), np.int8), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weight"], ["y"])],
        "int8_product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, (m, k))],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (m, n))],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x, y = chance.integers(0, 256, (m, k), np.uint8), np.empty((m, n), np.int32)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu", 0, np.int32, y.shape, y.ctypes.data)

    def run() -> None:
        session.run_with_iobinding(binding)
        assert x.size and y.size  # bound by address: they must outlive the binding

    return run


def _seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _ceiling(trials: list[float], unit: str, how: str) -> dict[str, Any]:
    return {"value": max(trials), "unit": unit, "trials": trials, "how": how}
