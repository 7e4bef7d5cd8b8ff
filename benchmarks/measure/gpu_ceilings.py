"""A GPU's peak speeds: reading its memory, and float16 and int8 matrix products. Measured with torch, in a worker.

Each ceiling is the fastest of several ways to reach it, as those of the processor are.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from .statistics import Json

BUFFER = 1 << 30  # bytes; far beyond the cache of any GPU
SQUARES = (4096, 8192)
REPEATS = 20  # of one operation in a trial, so that the launch of the first does not count
ROW = 8192  # float16 numbers in a row of the matrix that a vector is multiplied by

Ways = Mapping[str, tuple[float, Callable[[], object]]]
"""By name, a way to reach a ceiling: the operations or bytes of one call, and the call."""


class GpuCeilings:
    """Measures the ceilings of the GPU that torch uses first."""

    def __init__(self, threads: int, device: str = "cuda", buffer: int = BUFFER, squares: tuple[int, ...] = SQUARES):
        """`threads` are torch's own on the processor; `buffer` is in bytes. Any device of torch's will do."""
        torch.set_num_threads(threads)
        self._device, self._buffer, self._squares = torch.device(device), buffer, squares
        self._unavailable = None
        if self._device.type == "cuda" and not torch.cuda.is_available():
            self._unavailable = f"torch {torch.__version__} finds no GPU: install a torch that is built for CUDA"

    def measure(self, trials: int) -> Json:
        """`ceilings` by name, and sentences about those that were `skipped`."""
        found: Json = {"ceilings": {}, "skipped": []}
        kinds: dict[str, tuple[str, Callable[[], Ways]]] = {
            "gpu_read_bandwidth": ("B/s", self._reads),
            "gpu_float16_peak": ("FLOP/s", self._float16_products),
            "gpu_int8_peak": ("OP/s", self._int8_products),
        }
        for name, (unit, make) in kinds.items():
            problem = self._unavailable
            if not problem:
                try:
                    found["ceilings"][name] = self._fastest(make(), unit, trials)
                except RuntimeError as error:  # torch's own, for want of memory or of a kernel for this card
                    problem = " ".join(str(error).split())[:200]
            if problem:
                found["skipped"].append(f"{name.replace('_', ' ')}: not measured: {problem}")
        return found

    def _reads(self) -> Ways:
        numbers = torch.ones(self._buffer // 4, dtype=torch.float32, device=self._device)
        matrix = torch.ones(self._buffer // (2 * ROW), ROW, dtype=torch.float16, device=self._device)
        return {
            "sum": (self._buffer, numbers.sum),
            "highest": (self._buffer, numbers.amax),
            "matrix × vector": (self._buffer, partial(torch.mv, matrix, matrix[0].clone())),
        }

    def _float16_products(self) -> Ways:
        def way(size: int) -> Callable[[], object]:
            a = torch.randn(size, size, device=self._device).half()
            return partial(torch.matmul, a, a, out=torch.empty_like(a))

        return {f"float16 matmul of {size} × {size}": (2 * size**3, way(size)) for size in self._squares}

    def _int8_products(self) -> Ways:
        def way(size: int) -> Callable[[], object]:
            a, b = (torch.randint(-127, 128, (size, size), dtype=torch.int8, device=self._device) for _ in "ab")
            transposed: Tensor = b.t()  # the layout that tensor cores multiply fastest
            return partial(torch._int_mm, a, transposed)

        return {f"int8 matmul of {size} × {size}": (2 * size**3, way(size)) for size in self._squares}

    def _fastest(self, ways: Ways, unit: str, trials: int) -> Json:
        """The ceiling of the way that was fastest in any of its trials."""
        rates = {
            name: [work * REPEATS / self._seconds(run) for _ in range(trials + 1)][1:]  # the first raises the clock
            for name, (work, run) in ways.items()
        }
        best = max(rates, key=lambda name: max(rates[name]))
        how = f"torch {torch.__version__}, {best}, on {self._name()}"
        return {"value": max(rates[best]), "unit": unit, "trials": rates[best], "how": how}

    def _seconds(self, run: Callable[[], object]) -> float:
        """Seconds of REPEATS calls in a row."""
        if self._device.type != "cuda":
            begun = time.perf_counter()
            for _ in range(REPEATS):
                run()
            return time.perf_counter() - begun
        # The GPU's own clock: the processor is ahead of it.
        first, last = (torch.cuda.Event(enable_timing=True) for _ in "12")  # type: ignore[no-untyped-call]
        first.record()
        for _ in range(REPEATS):
            run()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3

    def _name(self) -> str:
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else str(self._device)
