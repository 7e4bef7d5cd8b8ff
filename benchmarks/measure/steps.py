"""The steps of a run, one after the other. Each engine is measured in a process of its own.

What is compared is measured in turns. For vision that is picture by picture, if all engines fit into memory together.
For whole reports it is first ours, then the baseline, then ours again.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...engines.errors import EngineError, EngineUnavailable, SkinGPTError
from ...runtime.bundle import Bundle
from ...runtime.machine import available_memory, free_gpu_memory
from ...runtime.options import Options
from ...runtime.resolving import resolve
from ...runtime.worker import Worker
from . import energy
from .model_sizes import llama_sizes, vision_sizes
from .raw_results import OURS, Measured
from .run_baseline import measure_baseline
from .statistics import Json
from .suites import Sizes
from .workers import ROLES, most_threads

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SPARE = 1_500_000_000  # bytes for libraries, activations, the KV cache and everything else on the machine
READY = (
    "import json, sys; from skingpt_edge.runtime import SkinGPT; from skingpt_edge.runtime.options import Options\n"
    "options = Options(**json.loads(sys.argv[2]))\n"
    "with SkinGPT.open(sys.argv[1], options=options): print('ready', flush=True)"
)


class Measurement:
    """One run of a suite on one bundle; `found` holds what it has measured so far."""

    def __init__(
        self,
        bundle: Bundle,
        sizes: Sizes,
        options: Options,
        baselines: tuple[str, ...] = (),
        before: Path | None = None,
    ) -> None:
        """`baselines` are engines of `torch_baseline.py`, measured on the device of the language model.

        `before` is the vision encoder of an earlier export, to be profiled beside the bundle's.
        Raises InputError, EngineError for options that this machine cannot fulfil.
        """
        self.found = Measured()
        self._bundle, self._path = bundle, str(bundle.path)
        self._sizes, self._options, self._baselines, self._before = sizes, options, baselines, before
        self._setup = resolve(bundle, options)
        self.threads = most_threads(self._setup)
        self._llama, self._vision = llama_sizes(bundle), vision_sizes(bundle)

    def run(self) -> Iterator[tuple[Measured, list[str]]]:
        """Measure everything. Yields, after each step, what has been measured and the names of the steps to come.

        Nothing is yielded before there is enough for results. Raises EngineError where our own engines fail.
        """
        half = self._sizes.trials // 2
        steps: dict[str, Callable[[], None]] = {
            "ceilings of this machine": self._ceilings,
            "vision, picture by picture": self._vision_rounds,
            "reports, first half": lambda: self._reports(self._sizes.trials - half),
            **{engine: partial(self._torch, engine) for engine in self._baselines},
            "reports, second half": lambda: self._reports(half),
            "process start": self._starts,
            "scaling": self._scaling,
            "memory by conversations": self._memory_by_conversations,
            "profile of the vision encoder": self._profile,
        }
        names = list(steps)
        for number, (name, measure) in enumerate(steps.items(), 1):
            with step(name):
                measure()
            if self.found.turns:
                yield self.found, names[number:]

    def _ours(self, role: str, options: Options | None = None, **arguments: Any) -> Worker:
        """A process that opens the bundle with the run's options, or with others."""
        asked = (options or self._options).to_json()
        return Worker(ROLES[role], threads=self.threads, bundle=self._path, options=asked, **arguments)

    def _baseline(self, engine: str, *, whole: bool) -> Worker:
        arguments: Json = {"bundle": self._path, "engine": engine, "whole": whole, "device": self._device}
        return Worker(ROLES["torch"], threads=self.threads, **arguments)

    @property
    def _device(self) -> str:
        return self._setup.language_model.device

    def _ceilings(self) -> None:
        """Those of each device that is used; a stage is never held against another device's."""
        trials, devices = self._sizes.ceiling_trials, {self._setup.vision.device, self._device}
        if "cpu" in devices:
            with Worker(ROLES["ceilings"], threads=self.threads) as worker:
                self.found.ceilings = worker.ask("measure", trials=trials, thorough=self._sizes.thorough)
        if "cuda" in devices:
            found = self._gpu_ceilings(trials)
            self.found.ceilings.update(found["ceilings"])
            self.found.skipped += found["skipped"]

    def _gpu_ceilings(self, trials: int) -> Json:
        if find_spec("torch") is None:
            return {"ceilings": {}, "skipped": ["ceilings of the GPU: not measured: torch is not installed"]}
        with Worker(ROLES["gpu_ceilings"], threads=self.threads) as worker:
            found: Json = worker.ask("measure", trials=trials)
        return found

    def _vision_rounds(self) -> None:
        """Each picture with every engine in turn; the first round is the cold one."""
        with ExitStack() as stack:
            workers = {OURS: stack.enter_context(self._ours("vision"))}
            for engine in self._baselines:
                if self._fits(engine, self._vision.parameters, "vision encoder"):
                    with self._optional(engine):
                        workers[engine] = stack.enter_context(self._baseline(engine, whole=False))
            for trial in range(1 + self._sizes.trials):
                for engine, worker in workers.items():
                    self.found.add(engine, "warm" if trial else "cold", worker.ask("encode"))

    def _reports(self, trials: int) -> None:
        """Our engines as a whole: a cold report when the bundle is opened, then warm trials of stages and reports."""
        found = self.found
        with self._ours("whole", answer_tokens=self._sizes.answer_tokens) as worker:
            opened, cold = worker.opened, worker.opened["cold"]
            found.setup, found.engines = opened["setup"], opened["engines"]
            found.turns, found.image_rows = cold["turns"], cold["image_rows"]
            found.memory = found.memory or opened["memory"]
            found.peaks.append(opened["memory"][-1]["peak_anon"])
            if self._device != "cpu" and (on_gpu := [entry["vram"] for entry in opened["memory"] if entry["vram"]]):
                found.gpu_peaks.append(max(on_gpu))
            # The stages of vision are those of the rounds before, where all engines take turns.
            parts = ("prefill_system", "prefill_image", "prefill_question", "first_token", "report")
            seconds = {name: cold["seconds"][name] for name in parts}
            found.add(OURS, "cold", {**seconds, "next_token": cold["steps"][0]})
            for _ in range(trials):
                found.add(OURS, "warm", worker.ask("prefill"))
                found.add(OURS, "warm", {"first_token": worker.ask("first_token")})
            found.seconds[OURS, "next_token", "warm"] += worker.ask("decode", tokens=self._sizes.decode_steps)
            meter = energy.start(on_gpu="cuda" in (self._setup.vision.device, self._device))
            for _ in range(trials):
                report = worker.ask("report")
                found.add(OURS, "warm", {"report": report["seconds"]["report"]})
                found.python_share.append(100 * report["python_share"])
                found.turns = report["turns"]
            found.energy = energy.per_answer(meter, max(1, trials) * len(found.turns))

    def _torch(self, engine: str) -> None:
        if self._fits(engine, self._llama.parameters + self._vision.parameters, "whole model"):
            with self._optional(engine), self._baseline(engine, whole=True) as worker:
                measure_baseline(worker, engine, self.found, self._sizes)

    @contextmanager
    def _optional(self, engine: str) -> Iterator[None]:
        """A baseline that cannot be had is among the skipped; our own figures are worth having without it."""
        try:
            yield
        except EngineUnavailable as error:
            self.found.skipped.append(f"{engine}: {error}")

    def _fits(self, engine: str, parameters: int, what: str) -> bool:
        dtype = engine.split()[1]
        return self._enough_memory(parameters * DTYPE_BYTES[dtype] + SPARE, f"{engine}, {what}")

    def _enough_memory(self, needed: int, what: str) -> bool:
        """Whether the device has so many bytes free; if not, `what` is among the skipped."""
        if self._device == "cpu":
            free, kind = available_memory() or 0, "memory"
        else:  # a driver that does not say lets it be tried
            free, kind = free_gpu_memory() or needed, "GPU memory"
        if needed > free:
            sentence = f"{what}: needs about {needed / 1e9:.1f} GB of {kind}, {free / 1e9:.1f} GB are free"
            self.found.skipped.append(sentence)
        return needed <= free

    def _starts(self) -> None:
        """From a new process to a ready model. One more process before brings the files into the page cache."""
        command = [sys.executable, "-c", READY, self._path, json.dumps(self._options.to_json())]
        for trial in range(1 + self._sizes.starts):
            begun = time.perf_counter()
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout
                ready = process.stdout.readline()
                seconds = time.perf_counter() - begun
            if ready != "ready\n":
                raise EngineError(f"opening the bundle in a new process failed with code {process.returncode}")
            if trial:
                self.found.add(OURS, "cold", {"process_start": seconds})

    def _scaling(self) -> None:
        sizes, found = self._sizes, self.found
        # No more cells than one conversation has, because these conversations share their prompt.
        options = replace(
            self._options,
            conversations=max(*sizes.conversations, sizes.samples),
            cells=self._setup.language_model.context,
        )
        with self._ours("scaling", options) as worker:
            for _ in range(sizes.scaling_trials):
                by_turn = worker.ask("first_token_by_turn", turns=sizes.turns, answer_tokens=sizes.turn_tokens)
                found.add_to_curve("first_token_by_turn", by_turn)
                by_length = worker.ask("first_token_by_prompt_length", questions=sizes.question_lengths)
                found.add_to_curve("first_token_by_prompt_length", by_length)
                for count in sizes.conversations:
                    rate = worker.ask("tokens_per_second", conversations=count, steps=sizes.conversation_steps)
                    found.growth["tokens_per_second_by_conversations"][count].append(rate)
                for batch in sizes.batches:
                    rate = worker.ask("images_per_second", batch=batch)
                    found.growth["images_per_second_by_batch"][batch].append(rate)
            for _ in range(sizes.sample_trials):
                work = {"answer_tokens": sizes.answer_tokens}
                found.ten_runs.append(worker.ask("ten_runs", runs=sizes.samples, **work))
                found.ten_samples.append(worker.ask("ten_samples", samples=sizes.samples, **work))

    def _memory_by_conversations(self) -> None:
        for count in self._sizes.memory_conversations:
            # Keys and values of two bytes at each layer and cell.
            cells = 4 * self._llama.layers * self._llama.kv_width * self._setup.language_model.context * count
            if self._enough_memory(self._llama.bytes_read + cells + SPARE, f"memory of {count} conversations"):
                with self._ours("memory", replace(self._options, conversations=count)) as worker:
                    taken = worker.opened["peak_anon"] if self._device == "cpu" else worker.opened["vram"]
                if taken is None:
                    self.found.skipped.append("GPU memory by conversations: it cannot be read without nvidia-ml-py")
                    return
                self.found.growth["memory_by_conversations"][count].append(taken)

    def _profile(self) -> None:
        vision, runs = self._setup.vision, self._sizes.profile_runs
        if vision.device != "cpu":
            self._profile_kernels(runs)
        elif vision.engine != "onnxruntime":
            self.found.skipped.append(f"the vision encoder's profile: {vision.engine} has none on the CPU")
        else:
            self._profile_operators(runs)

    def _profile_kernels(self, runs: int) -> None:
        if self._before:
            self.found.skipped.append(f"the profile of {self._before.name}: only ONNX Runtime on the CPU has one")
        if find_spec("torch") is None:
            self.found.skipped.append("the vision encoder's kernels: torch is not installed, whose profiler sees them")
            return
        try:
            with self._ours("kernels") as worker:
                self.found.operators = worker.ask("vision_encoder", runs=runs)
        except SkinGPTError as error:  # an hour's measurements must not be lost at the last step
            self.found.skipped.append(f"the vision encoder's kernels: {error}")

    def _profile_operators(self, runs: int) -> None:
        with self._ours("operators") as worker:
            self.found.operators = worker.ask("vision_encoder", runs=runs)
            if self._before:
                try:
                    self.found.operators_before = worker.ask("vision_encoder", runs=runs, graph=str(self._before))
                except SkinGPTError as error:
                    self.found.skipped.append(f"the profile of {self._before.name}: {error}")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say on standard error what is being measured and how long it took."""
    begun = time.perf_counter()
    print(f"{name} …", file=sys.stderr, flush=True)
    yield
    print(f"{name}: {time.perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)
