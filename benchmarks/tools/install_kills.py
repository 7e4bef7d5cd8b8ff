"""Ends an installation, an upgrade, a return and a removal at any moment: the store is as before or as after, whole."""

import asyncio
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...engines.errors import BundleError
from ...runtime.bundle import check_hashes, read_bundle
from ...runtime.install.installing import clean_up, install, list_installed, remove, roll_back
from ...runtime.install.store import STATE, State
from .environment import changed_environment
from .install_packages import NAME, Trusted, make_trusted, parts, small_files, snapshot
from .power_cut import CUT, DONE, FAILED, run_until
from .service_checks import Findings, Say

SEED = 19
MEGABYTES = 8  # of the model in a bundle, so that copying takes a while
MUTATING = (
    "write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,chmod,fchmod,"
    "fchmodat,flock,ftruncate"
)
LATE = 1.15  # kills come until so many times the time of a whole run
Versions = tuple[int | None, int | None]
"""Current and previous."""


@dataclass(frozen=True)
class Change:
    """One command, and the versions in the store before and after it."""

    name: str
    begin: tuple[int, ...]
    """Versions that are installed first."""
    arguments: tuple[str, ...]
    """Of `skingpt`."""
    run: Callable[[Path], object]
    """The same in Python, given the folder of the packages."""
    before: Versions
    after: Versions


CHANGES = (
    Change("install", (), ("install", "1.skingpt"), lambda at: install(at / "1.skingpt"), (None, None), (1, None)),
    Change("upgrade", (1, 2), ("install", "3.skingpt"), lambda at: install(at / "3.skingpt"), (2, 1), (3, 2)),
    Change("rollback", (1, 2), ("rollback", NAME), lambda _: roll_back(NAME), (2, 1), (1, 2)),
    Change("remove", (1, 2), ("remove", NAME), lambda _: remove(NAME), (2, 1), (None, None)),
)


@dataclass(frozen=True)
class Place:
    """A store in a folder, and packages to install into it."""

    trusted: Trusted

    @property
    def packages(self) -> Path:
        return self.trusted.folder

    def begin(self, change: Change) -> None:
        """Put into the store what is there before a change."""
        self.reset()
        kept = self.packages / f"begin-{change.name}"
        if not kept.exists():
            for version in change.begin:
                install(self.packages / f"{version}.skingpt")
            self.trusted.store.mkdir(exist_ok=True)
            shutil.copytree(self.trusted.store, kept)
            return
        shutil.copytree(kept, self.trusted.store)

    def reset(self) -> None:
        shutil.rmtree(self.trusted.store, ignore_errors=True)

    def states(self) -> Iterator[tuple[str, State]]:
        """What is installed, by name. Raises BundleError."""
        for name, state in list_installed(self.trusted.store):
            if isinstance(state, BundleError):
                raise state
            yield name, state

    def state(self) -> Versions:
        """The versions in the store, each of which is read from end to end. Raises BundleError if one is not whole."""
        store = self.trusted.store
        for name, state in self.states():
            for one in state.kept:
                check_hashes(read_bundle(store / name / one.folder))
            found = [version.version if version else None for version in (state.current, state.previous)]
            return found[0], found[1]
        return None, None

    def leftovers(self) -> list[str]:
        """What is in the store and belongs to no version, after the next command."""
        store = self.trusted.store
        if not store.exists():
            return []
        clean_up(store)
        kept = {f"{name}/{one.folder}" for name, state in self.states() for one in state.kept}
        found = snapshot(store)
        return [
            path for path in found
            if path not in (NAME, f"{NAME}/{STATE}") and not any(f"{path}/".startswith(f"{one}/") for one in kept)
        ]  # fmt: skip


def make_place(folder: Path, megabytes: int) -> Place:
    trusted = make_trusted(folder)
    sizes = {"llm.gguf": megabytes << 20, "qformer.onnx": 700, "qformer.onnx.data": 512, "vision_encoder.onnx": 1}
    for version in (1, 2, 3):
        package = parts(small_files(version, sizes), trusted.key, version=version).package
        (folder / f"{version}.skingpt").write_bytes(package)
    return Place(trusted)


@dataclass
class Tally:
    """What was found after each end."""

    wrong: list[str]
    left: list[str]
    before: int = 0
    after: int = 0

    def note(self, place: Place, change: Change, what: str) -> Versions | None:
        """Look into the store; the versions that it had, or None if one of them is not whole."""
        found = None
        try:
            found = place.state()
            if found == change.before:
                self.before += 1
            elif found == change.after:
                self.after += 1
            else:
                self.wrong.append(f"{what}: {found}")
            if (
                change.arguments[0] == "install" and (self.before + self.after) % 2
            ):  # the next command is the same again
                change.run(place.packages)
                if place.state() != change.after:
                    self.wrong.append(f"{what}: {place.state()} after the same again")
                return found
            if left := place.leftovers():
                self.left.append(f"{what}: {left}")
            if place.state() != found:
                self.wrong.append(f"{what}: another version after cleaning")
        except Exception as error:
            self.wrong.append(f"{what}: {error!r}")
        return found

    def findings(self, counts: dict[str, int]) -> Findings:
        found = Findings({**counts, "with the versions before": self.before, "with those after": self.after})
        found.none("neither the versions before nor those after, whole", self.wrong)
        found.none("with something left after the next command", self.left)
        return found


async def run_kills(count: int, say: Say) -> Findings:
    """`count` kills at random moments, a quarter in each change."""
    return await asyncio.to_thread(in_a_folder, _kills, count, say, MEGABYTES)


async def run_calls(every: int, say: Say) -> Findings:
    """The real command is killed at its system calls that change something: at every so manyth."""
    return await asyncio.to_thread(in_a_folder, _calls, every, say)


async def run_power_cuts(count: int, say: Say) -> Findings:
    """A power cut before every step and at the end, `count` times each with other losses."""
    return await asyncio.to_thread(in_a_folder, _power_cuts, count, say)


def in_a_folder(part: Callable[[Place, int, Say], Findings], count: int, say: Say, megabytes: int = 0) -> Findings:
    """Run a part in a new place, with packages of about that size."""
    with tempfile.TemporaryDirectory() as folder:
        place = make_place(Path(folder), megabytes)
        with changed_environment(place.trusted.environment):
            return part(place, count, say)


def _kills(place: Place, count: int, say: Say) -> Findings:
    chance, tally, killed, finished = random.Random(SEED), Tally([], []), 0, 0  # noqa: S311
    for change in CHANGES:
        whole = min(_seconds(place, change) for _ in range(3))
        for _ in range(count // len(CHANGES)):
            while True:  # a moment after the end is no kill
                place.begin(change)
                seconds = chance.uniform(0, whole * LATE)
                was_killed = _child(place, change, seconds)
                tally.note(place, change, f"{change.name} killed after {seconds:.4f} s")
                if was_killed:
                    killed += 1
                    break
                finished += 1
        say(f"{change.name}: {killed} kills so far, one run takes {whole:.3f} s")
    return tally.findings({"kills": killed, "runs that ended before the kill": finished})


def _seconds(place: Place, change: Change) -> float:
    """That a change takes which nobody interrupts."""
    place.begin(change)
    begun = time.monotonic()
    _child(place, change, None)
    return time.monotonic() - begun


def _child(place: Place, change: Change, kill_after: float | None) -> bool:
    """Run a change in a child that has imported everything; whether it was killed before its end."""
    ready, go = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(go, b"1")
            change.run(place.packages)
            os._exit(0)
        finally:
            os._exit(1)
    os.read(ready, 1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    os.close(ready)
    os.close(go)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _calls(place: Place, every: int, say: Say) -> Findings:
    tally, killed, alive = Tally([], []), 0, []
    for change in CHANGES:
        place.begin(change)
        calls = traced(place, change).calls
        for call in calls[every // 2 :: every]:
            place.begin(change)
            what = f"{change.name} killed at {call.name} {call.number}"
            if traced(place, change, f"{call.name}:signal=KILL:when={call.number}").code != -signal.SIGKILL:
                alive.append(what)
            killed += 1
            tally.note(place, change, what)
        say(f"{change.name}: {len(calls)} calls, {killed} kills so far")
    found = tally.findings({"kills": killed})
    found.none("runs that were not killed", alive)
    return found


@dataclass(frozen=True)
class Call:
    """A system call, and the how manyth of its name it was; strace counts each name by itself."""

    name: str
    number: int


@dataclass(frozen=True)
class Run:
    """What a command said under strace, and the system calls it made that change something."""

    code: int
    error: str
    calls: tuple[Call, ...]


def traced(place: Place, change: Change, inject: str = "", *only: str) -> Run:
    """Run the real command under strace, which does what `inject` says to its system calls.

    `only`: paths to which the calls must belong.
    """
    log = place.packages / "trace"
    options = [f"inject={inject}", f"trace={inject.partition(':')[0]}"] if inject else [f"trace={MUTATING}"]
    paths = [word for path in only for word in ("-P", path)]
    strace = ["strace", "-f", "-qq", "-o", str(log), *paths, *(word for one in options for word in ("-e", one))]
    program = "import sys; from skingpt_edge.runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    ran = subprocess.run(
        [*strace, sys.executable, "-P", "-c", program, *change.arguments], cwd=place.packages, text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        check=False,
    )  # fmt: skip
    names = re.findall(r"(?m)^\d+ +(\w+)\(", log.read_text(errors="replace"))
    calls = tuple(Call(name, names[: place + 1].count(name)) for place, name in enumerate(names))
    return Run(ran.returncode, ran.stderr, calls)


def _power_cuts(place: Place, count: int, say: Say) -> Findings:
    tally, cuts, failed, lost = Tally([], []), 0, [], []
    for change in CHANGES:
        number = 0
        while True:
            codes = set()
            for seed in range(count):
                place.begin(change)
                code = run_until(partial(change.run, place.packages), number, seed)
                codes.add(code)
                cuts += 1
                what = f"{change.name}, power cut before step {number}, losses {seed}"
                if code == FAILED:
                    failed.append(what)
                found = tally.note(place, change, what)
                if code == DONE and found != change.after:
                    lost.append(f"{what}: {found}")
            if codes != {CUT}:
                break
            number += 1
        say(f"{change.name}: {number} steps, {cuts} power cuts so far")
    findings = tally.findings({"power cuts": cuts})
    findings.none("changes that were reported as done and then lost", lost)
    findings.none("changes that failed by themselves", failed)
    return findings


def can_trace() -> bool:
    """Whether strace is there and may trace."""
    strace = shutil.which("strace")
    return strace is not None and subprocess.run([strace, "-o", "/dev/null", "true"], check=False).returncode == 0
