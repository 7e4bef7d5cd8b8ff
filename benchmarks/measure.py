"""Takes the measurements of a suite, one engine after the other, each in a process of its own.

What is compared is measured in turns: picture by picture where all engines fit into memory together, otherwise ours,
the other, and ours again.
"""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..engines.errors import EngineError
from ..runtime.bundle import Bundle
from . import energy, memory
from .figures import Json, median
from .sizes import Sizes
from .work import llama_sizes, vision_sizes
from .worker import Worker

OURS = "skingpt"
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
SPARE = 1_500_000_000  # bytes for libraries, activations, the KV cache and everything else on the machine
LONGEST_REPORT = 480.0  # seconds; a baseline's report that would take longer is computed from its parts
READY = (
    "import sys; from skingpt_edge.runtime.options import Options; from skingpt_edge.runtime.skingpt import SkinGPT\n"
    "options = Options(*sys.argv[3:], threads=int(sys.argv[2]))\n"
    "with SkinGPT.open(sys.argv[1], options=options): print('ready', flush=True)"
)

ON_DEVICES = ("skingpt", "vision", "growth", "conversations")  # our engines; the rest is measured on the CPU

Key = tuple[str, str, str]
"""Engine, stage, `cold` or `warm`."""


@dataclass
class Measured:
    """What was measured, before any statistics."""

    seconds: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    ceilings: Json = field(default_factory=dict)
    engines: Json = field(default_factory=dict)
    turns: list[Mapping[str, list[int]]] = field(default_factory=list)
    """Token ids of each turn: `before` and `after` the picture, and of the `answer`."""
    image_rows: int = 0
    memory: list[Json] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    """Bytes of its own that our process took for opening the bundle and a whole report, at most."""
    energy: Json = field(default_factory=dict)
    growth: dict[str, dict[int, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    operators: list[Json] = field(default_factory=list)
    operators_before: list[Json] = field(default_factory=list)
    python_share: list[float] = field(default_factory=list)
    """Percent of a report."""
    ten_runs: list[float] = field(default_factory=list)
    ten_samples: list[float] = field(default_factory=list)
    computed_reports: dict[str, str] = field(default_factory=dict)
    """By engine, how its report's time was computed where it was too long to be measured."""
    skipped: list[str] = field(default_factory=list)


class Measurement:
    """One run of a suite on one bundle."""

    def __init__(
        self,
        bundle: Bundle,
        sizes: Sizes,
        threads: int,
        dtypes: tuple[str, ...],
        devices: tuple[str, str],
        before: Path | None = None,
    ) -> None:
        """`dtypes` of the baseline in torch, none for no baseline; `devices` of the language model and of vision.

        `before`: the vision encoder's graph of an earlier export, profiled beside this one's.
        """
        self._devices, self._before = devices, before
        self.found = Measured()
        self._bundle, self._path = bundle, str(bundle.path)
        self._sizes, self._threads, self._dtypes = sizes, threads, dtypes
        self._llama, self._vision = llama_sizes(bundle), vision_sizes(bundle)

    def run(self) -> Iterator[tuple[Measured, list[str]]]:
        """Measure everything. Yields what there is each time it is enough for results, and the steps still to come.

        Raises EngineError where our own engines fail.
        """
        half = self._sizes.trials // 2
        steps: dict[str, Callable[[], None]] = {
            "ceilings of this machine": self._ceilings,
            "vision, picture by picture": self._vision_rounds,
            "reports, first half": lambda: self._reports(self._sizes.trials - half),
            **{f"torch {dtype}": partial(self._torch, dtype) for dtype in self._dtypes},
            "reports, second half": lambda: self._reports(half),
            "process start": self._starts,
            "growth": self._growth,
            "memory by conversations": self._memory_by_conversations,
            "profile of the vision encoder": self._profile,
        }
        names = list(steps)
        for number, (name, measure) in enumerate(steps.items(), 1):
            with step(name):
                measure()
            if self.found.turns:
                yield self.found, names[number:]

    def _worker(self, role: str, **options: Any) -> Worker:
        if role in ON_DEVICES:
            options = {"device": self._devices[0], "vision_device": self._devices[1], **options}
        return Worker(role, threads=self._threads, bundle=self._path, **options)

    def _ceilings(self) -> None:
        with Worker("ceilings", threads=self._threads) as worker:
            sizes = self._sizes
            self.found.ceilings = worker.ask("measure", trials=sizes.ceiling_trials, thorough=sizes.thorough)

    def _vision_rounds(self) -> None:
        """One picture with each engine in turn; the first round is the cold one."""
        with ExitStack() as stack:
            ours = stack.enter_context(self._worker("vision"))
            workers = {OURS: ours}
            for dtype in self._dtypes:
                if self._fits(dtype, self._vision.parameters, "vision encoder"):
                    options = {"dtype": dtype, "whole": False}
                    workers[f"torch {dtype}"] = stack.enter_context(self._worker("torch", **options))
            for trial in range(1 + self._sizes.trials):
                for engine, worker in workers.items():
                    self._keep(engine, "warm" if trial else "cold", worker.ask("encode"))

    def _reports(self, trials: int) -> None:
        """Our engine as a whole: a cold report when it opens, then warm trials of stages and reports."""
        with self._worker("skingpt", answer_tokens=self._sizes.answer_tokens) as worker:
            cold = worker.opened["cold"]
            self.found.engines = worker.opened["engines"]
            self.found.turns, self.found.image_rows = cold["turns"], cold["image_rows"]
            self.found.memory = self.found.memory or worker.opened["memory"]
            self.found.peaks.append(worker.opened["memory"][-1]["peak_anon"])
            prefills = {name: value for name, value in cold["seconds"].items() if name.startswith("prefill")}
            whole = {name: cold["seconds"][name] for name in ("first_token", "report")}
            self._keep(OURS, "cold", {**prefills, **whole, "next_token": cold["steps"][0]})
            for _ in range(trials):
                self._keep(OURS, "warm", worker.ask("prefill"))
                self._keep(OURS, "warm", {"first_token": worker.ask("first_token")})
            self.found.seconds[OURS, "next_token", "warm"] += worker.ask("decode", tokens=self._sizes.decode_steps)
            meter = energy.start()
            for _ in range(trials):
                report = worker.ask("report")
                self._keep(OURS, "warm", {"report": report["seconds"]["report"]})
                self.found.python_share.append(100 * report["python_share"])
                self.found.turns = report["turns"]
            self.found.energy = energy.per_answer(meter, max(1, trials) * len(self.found.turns))

    def _torch(self, dtype: str) -> None:
        if not self._fits(dtype, self._llama.parameters + self._vision.parameters, "whole model"):
            return
        engine, sizes, turns = f"torch {dtype}", self._sizes, self.found.turns
        with self._worker("torch", dtype=dtype, whole=True) as worker:
            for trial in range(1 + sizes.trials):
                state = "warm" if trial else "cold"
                self._keep(engine, state, {"first_token": worker.ask("first_token", turn=turns[0])})
            steps = []
            for _ in "12":  # as often as ours, whose trials they are paired with
                steps += worker.ask("decode", turn=turns[0], tokens=sizes.decode_steps)
            self.found.seconds[engine, "next_token", "warm"] += steps
            self.found.seconds[engine, "report", "warm"] += self._torch_reports(worker, engine, median(steps))
            self.found.memory += worker.ask("memory")

    def _torch_reports(self, worker: Worker, engine: str, token_seconds: float) -> list[float]:
        """Reports measured as often as there is time for, or one computed from its parts."""
        turns = self.found.turns
        vision = median([sum(worker.ask("encode").values()) for _ in "123"])
        prompts = sum(worker.ask("prefill", turn=turn) for turn in turns)
        tokens = sum(len(turn["answer"]) - 1 for turn in turns)
        estimate = vision + prompts + tokens * token_seconds
        if estimate > LONGEST_REPORT:
            self.found.computed_reports[engine] = (
                f"{engine}'s report was computed, not run: {vision:.1f} s encoding, {prompts:.1f} s for its "
                f"{len(turns)} prompts, measured at their real lengths, and {tokens} tokens of {token_seconds:.3f} s"
            )
            return [estimate]
        trials = max(1, min(self._sizes.trials, int(LONGEST_REPORT / estimate)))
        reports = [worker.ask("report", turns=turns) for _ in range(trials)]
        expected = [len(turn["answer"]) for turn in turns]
        for report in reports:
            if report["answer_tokens"] != expected:
                raise EngineError(f"{engine} answered with {report['answer_tokens']} tokens, ours with {expected}")
        return [report["seconds"] for report in reports]

    def _fits(self, dtype: str, parameters: int, what: str) -> bool:
        needed, there = parameters * DTYPE_BYTES[dtype] + SPARE, memory.available()
        if needed > there:
            self.found.skipped.append(
                f"torch {dtype}, {what}: needs about {needed / 1e9:.1f} GB of memory, {there / 1e9:.1f} GB are free"
            )
        return needed <= there

    def _starts(self) -> None:
        """From a new process to a ready model; one before brings the files into the page cache."""
        for trial in range(1 + self._sizes.starts):
            begun = time.perf_counter()
            command = [sys.executable, "-c", READY, self._path, str(self._threads), *self._devices]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout
                ready = process.stdout.readline()
                seconds = time.perf_counter() - begun
            if ready != "ready\n":
                raise EngineError(f"opening the bundle in a new process failed with code {process.returncode}")
            if trial:
                self._keep(OURS, "cold", {"process_start": seconds})

    def _growth(self) -> None:
        sizes, growth = self._sizes, self.found.growth
        with self._worker("growth", conversations=max(*sizes.conversations, sizes.samples)) as worker:
            for _ in range(sizes.growth_trials):
                found = worker.ask("first_token_by_turn", turns=sizes.turns, answer_tokens=sizes.turn_tokens)
                _add(growth["first_token_by_turn"], found)
                found = worker.ask("first_token_by_prompt_length", questions=sizes.question_lengths)
                _add(growth["first_token_by_prompt_length"], found)
                for count in sizes.conversations:
                    rate = worker.ask("tokens_per_second", conversations=count, steps=sizes.conversation_steps)
                    growth["tokens_per_second_by_conversations"][count].append(rate)
                for batch in sizes.batches:
                    growth["images_per_second_by_batch"][batch].append(worker.ask("images_per_second", batch=batch))
            for _ in range(sizes.sample_trials):
                work = {"answer_tokens": sizes.answer_tokens}
                self.found.ten_runs.append(worker.ask("ten_runs", runs=sizes.samples, **work))
                self.found.ten_samples.append(worker.ask("ten_samples", samples=sizes.samples, **work))

    def _memory_by_conversations(self) -> None:
        context = self._bundle.manifest.llm.context
        for count in self._sizes.conversations:
            # Keys and values of two bytes at each layer and cell.
            cells = 4 * self._llama.layers * self._llama.kv_width * context * count
            needed, there = self._llama.bytes_read + cells + SPARE, memory.available()
            if needed > there:
                self.found.skipped.append(
                    f"memory of {count} conversations: needs about {needed / 1e9:.1f} GB, {there / 1e9:.1f} GB are free"
                )
                continue
            with self._worker("conversations", conversations=count) as worker:
                self.found.growth["memory_by_conversations"][count].append(worker.opened["peak_anon"])

    def _profile(self) -> None:
        runs = self._sizes.profile_runs
        with self._worker("profile") as worker:
            self.found.operators = worker.ask("vision_encoder", runs=runs)
            if self._before:
                try:
                    self.found.operators_before = worker.ask("vision_encoder", runs=runs, graph=str(self._before))
                except EngineError as error:  # the last of an hour's steps: the rest is not lost for it
                    self.found.skipped.append(f"the profile of {self._before.name}: {error}")

    def _keep(self, engine: str, state: str, seconds: Mapping[str, float]) -> None:
        for stage, value in seconds.items():
            self.found.seconds[engine, stage, state].append(value)


def _add(growth: dict[int, list[float]], found: Mapping[str, float]) -> None:
    """One trial of a curve; JSON has made its numbers texts."""
    for x, value in found.items():
        growth[int(x)].append(value)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say on standard error what is being measured and how long it took."""
    begun = time.perf_counter()
    print(f"{name} …", file=sys.stderr, flush=True)
    yield
    print(f"{name}: {time.perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)
