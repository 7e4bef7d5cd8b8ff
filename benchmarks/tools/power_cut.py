"""A power cut at any step of a function that changes files: what was not synced may be lost, in the worst way.

The function runs in a forked child, in which the calls that change files are counted. Before the call of a given
number, or at the end, the power goes: files of which the content was not synced are cut short, and changes to folders
that were not synced are undone, all of them or some. (Files that were removed stay removed.)
"""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COUNTED = ("open", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "chmod", "fchmod")
CUT, DONE, FAILED = 70, 71, 72
"""Exit codes of the child: the power was cut, it had finished before, it raised an error."""


@dataclass
class Made:
    """A file, folder or new name that a power cut can take back until its folder was synced."""

    path: str
    source: str = ""
    """Of a renaming: the name before."""
    replaced: bytes | None = None
    """Of a renaming: what the file of that name held before."""

    @property
    def folder(self) -> str:
        return str(Path(self.path).parent)

    def undo(self) -> None:
        path = Path(self.path)
        if self.source and path.exists():
            ORIGINAL["rename"](path, self.source)
            if self.replaced is not None:
                path.write_bytes(self.replaced)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@dataclass
class Disk:
    """What a power cut could still take back."""

    at: int
    """The call before which it comes; calls are counted from 0."""
    chance: random.Random
    count: int = 0
    unsynced: set[str] = field(default_factory=set)
    """Files with content that may be lost."""
    made: list[Made] = field(default_factory=list)

    def step(self) -> None:
        if self.count == self.at:
            self.cut()
            os._exit(CUT)
        self.count += 1

    def cut(self) -> None:
        unwatch()
        everything = self.chance.random() < 0.5
        for name in self.unsynced:
            if Path(name).is_file():
                os.truncate(name, self.chance.randrange(Path(name).stat().st_size + 1))
        for one in reversed(self.made):
            if everything or self.chance.random() < 0.5:
                one.undo()

    def synced(self, path: str) -> None:
        self.unsynced.discard(path)
        self.made = [one for one in self.made if one.folder != path]

    def renaming(self, source: str, target: str) -> None:
        """Called before it is renamed."""
        replaced = Path(target).read_bytes() if Path(target).is_file() else None

        def moved(path: str) -> str:
            return target + path[len(source) :] if path == source or path.startswith(source + "/") else path

        self.unsynced = {moved(path) for path in self.unsynced}
        for one in self.made:
            if one.path != source:
                one.path = moved(one.path)
        self.made.append(Made(target, source, replaced))


ORIGINAL: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in COUNTED}


def run_until(function: Callable[[], object], at: int, seed: int) -> int:
    """Run a function until the power is cut before its call number `at`, or after its end; the child's exit code."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = FAILED
    try:
        disk = Disk(at, random.Random(seed))  # noqa: S311
        watch(disk)
        function()
        disk.cut()
        code = DONE
    finally:
        os._exit(code)


def watch(disk: Disk) -> None:
    """Let every call of `os` that changes files go through the disk."""
    for name in COUNTED:
        setattr(os, name, counted(disk, name))


def unwatch() -> None:
    for name, function in ORIGINAL.items():
        setattr(os, name, function)


def counted(disk: Disk, name: str) -> Callable[..., Any]:
    original = ORIGINAL[name]

    def call(*given: Any, **named: Any) -> Any:
        if name == "open" and not given[1] & os.O_CREAT:
            return original(*given, **named)
        disk.step()
        path = "" if isinstance(given[0], int) or named.get("dir_fd") else str(Path(given[0]).absolute())
        if name in ("rename", "replace"):
            disk.renaming(path, str(Path(given[1]).absolute()))
        if name == "fsync":
            disk.synced(str(Path(f"/proc/self/fd/{given[0]}").readlink()))
        result = original(*given, **named)
        if name == "open":
            disk.unsynced.add(path)
        if name in ("open", "mkdir") and path:
            disk.made.append(Made(path))
        return result

    return call
