"""Keeps TensorRT-RTX's plans on this machine, because building one takes long.

A plan is executable code. So none is ever read from a bundle, and one of the cache is used only if it is this user's
alone, was built for the same graph, GPU, driver and TensorRT-RTX, and has the SHA-256 that was noted when it was built.
Otherwise it is built anew, and `Plan.origin` says why.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..engines.cuda_driver import gpu_facts
from ..engines.errors import BundleError, EngineError
from ..engines.tensorrt_rtx_plan import PICTURES, Plan, build_plan, check_target, library
from .bundle import Bundle, Progress, hash_file
from .cache_folder import cache_folder, forget, keep, read_kept

FORMAT = 1
"""Of the notes, and of how plans are built; with another number every plan is built anew."""
MAX_NOTE_BYTES, MAX_PLAN_BYTES = 100_000, 1 << 33


@dataclass(frozen=True)
class PlanKey:
    """What decides a plan, except the driver."""

    format: int
    graph: str
    """SHA-256 over those of the graph's file and of its weights' file."""
    library: str
    """Version of TensorRT-RTX."""
    target: str
    """Compute capability of the GPU."""
    pictures: tuple[int, ...]

    @property
    def file(self) -> Path:
        """Where the plan lies; its note beside it ends in `.json`. Raises RuntimeError without a home directory."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()
        return cache_folder() / "plans" / f"{self._prefix}{digest[:32]}.plan"

    @property
    def note(self) -> Path:
        return self.file.with_suffix(".json")

    def others(self) -> Iterator[Path]:
        """Files of this graph and target that are of another version."""
        for path in self.file.parent.glob(f"{self._prefix}*"):
            if path not in (self.file, self.note):
                yield path

    @property
    def _prefix(self) -> str:
        return f"{self.graph[:32]}-{self.target}-"


@dataclass(frozen=True)
class BuiltPlan:
    """A plan that was built ahead of time."""

    graph: str
    """Name of the graph's file."""
    file: Path
    size: int


def plan_for(bundle: Bundle, graph: str, progress: Progress | None = None) -> Plan:
    """The plan of a bundle's graph for this machine's GPU: the one in the cache, or else built now and kept there.

    `progress` is called with `plan`, 0 and 0 before one is built, which takes up to a minute. Raises BundleError,
    EngineError, EngineUnavailable.
    """
    facts = gpu_facts()
    check_target(facts.target, facts.name)
    key = plan_key(bundle, graph, facts.target)
    found = read_plan(key, facts.driver)
    if isinstance(found, Plan):
        return found
    if progress:
        progress("plan", 0, 0)
    plan = Plan(_build(bundle, graph, facts.target), f"built now: {found}")
    # Without a writable cache it is built at every start; that is slow, not wrong.
    with suppress(OSError, RuntimeError):
        keep_plan(key, plan.data, facts.driver)
    return plan


def build_ahead(bundle: Bundle, target: str) -> Iterator[BuiltPlan]:
    """Build the plans of both graphs for a named target and keep them. No GPU is needed.

    The first driver that loads such a plan becomes its driver. Raises BundleError, EngineError also for a cache that
    cannot be written, EngineUnavailable.
    """
    for graph in (bundle.manifest.vision.encoder, bundle.manifest.vision.qformer):
        data = _build(bundle, graph, target)
        try:
            key = plan_key(bundle, graph, target)
            keep_plan(key, data, None)
        except (OSError, RuntimeError) as error:
            raise EngineError(f"the plan of {graph} cannot be kept: {error}") from None
        yield BuiltPlan(graph, key.file, len(data))


def plan_key(bundle: Bundle, graph: str, target: str) -> PlanKey:
    """Raises EngineUnavailable."""
    files = bundle.manifest.files
    sums = [files[name].sha256 for name in (graph, f"{graph}.data") if name in files]
    return PlanKey(FORMAT, hashlib.sha256(" ".join(sums).encode()).hexdigest(), library().__version__, target, PICTURES)


def keep_plan(key: PlanKey, data: Any, driver: str | None) -> None:
    """Write a plan and then its note, and remove those of other versions. Raises OSError, RuntimeError."""
    keep(key.file, data)
    _keep_note(key, len(data), hashlib.sha256(data).hexdigest(), driver)
    for path in key.others():
        forget(path)


def read_plan(key: PlanKey, driver: str) -> Plan | str:
    """A plan of the cache that this driver may load, or else why there is none."""
    try:
        if not any(path.exists() or path.is_symlink() for path in (key.file, key.note)):
            return "there was none in the cache"
        note = _read_note(key)
        if note["driver"] not in (None, driver):
            return f"the one in the cache is for driver {note['driver']}, here is {driver}"
        data = read_kept(key.file, MAX_PLAN_BYTES)
        if data is None:
            return "the one in the cache is missing, or another user can write to it"
        if len(data) != note["size"] or hashlib.sha256(data).hexdigest() != note["sha256"]:
            return "the one in the cache was damaged"
        if note["driver"] is None:
            with suppress(OSError):
                _keep_note(key, note["size"], note["sha256"], driver)
    except (ValueError, TypeError, KeyError, RecursionError, RuntimeError):
        return "the note of the one in the cache is missing or damaged, or another user can write to it"
    return Plan(data, "from the cache")


def _read_note(key: PlanKey) -> dict[str, Any]:
    """Raises ValueError, TypeError, KeyError, RecursionError for one that is missing, damaged or of another key."""
    note: dict[str, Any] = json.loads(read_kept(key.note, MAX_NOTE_BYTES) or b"")
    if note["key"] != json.loads(json.dumps(asdict(key))):
        raise ValueError("the note is of another plan")
    return note


def _keep_note(key: PlanKey, size: int, sha256: str, driver: str | None) -> None:
    note = {"key": asdict(key), "driver": driver, "size": size, "sha256": sha256}
    keep(key.note, (json.dumps(note, indent=1) + "\n").encode())


def _build(bundle: Bundle, graph: str, target: str) -> memoryview:
    # The key names the graph by the manifest's sums, so the files must have them.
    for name in (graph, f"{graph}.data"):
        entry = bundle.manifest.files.get(name)
        if entry and hash_file(bundle.file(name), expected=bundle.fingerprint[name]) != entry.sha256:
            raise BundleError(f"{name}: its content has changed (SHA-256 differs): copy the bundle again")
    plan = build_plan(bundle.file(graph), target)
    bundle.check_unchanged()
    return plan
