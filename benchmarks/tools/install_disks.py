"""Full and read-only disks, disks that fail, and sticks that are removed: a clear error, and nothing is lost."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from unittest.mock import patch

from ...engines.errors import BundleError
from ...runtime.install.installing import install, remove, roll_back
from .install_kills import CHANGES, Place, Tally, in_a_folder, traced
from .install_packages import NAME, snapshot
from .service_checks import Findings, Say

MOUNTING = ("unshare", "--user", "--map-root-user", "--mount")
"""A process that may mount what nobody else sees."""
DISK_BYTES = 16 << 20
ERRORS = ("EIO", "ENOSPC", "EROFS")
UPGRADE = CHANGES[1]


async def run_full(count: int, say: Say) -> Findings:
    """A disk with `count` different sizes of room, all too small, and one that can only be read."""
    if not can_mount():
        return Findings({"disks: no namespaces here": 0})
    program = f"from {__name__} import in_a_small_disk; in_a_small_disk({count})"
    # No -P: the store's own folder is not looked into for modules.
    output = await asyncio.to_thread(subprocess.check_output, [*MOUNTING, sys.executable, "-P", "-c", program])
    said = json.loads(output)
    say(f"{len(said['full'])} full disks")
    found = Findings({"full disks": len(said["full"]), "read-only disks": len(said["read_only"])})
    unlike = "nothing was changed"
    found.none(
        "full disks without a clear line", (one for one in said["full"] if unlike not in one and "free" not in one)
    )
    found.none("full disks on which something was changed", said["changed"])
    found.none("read-only disks without a clear line", (one for one in said["read_only"] if unlike not in one))
    found.equal("versions on the disk that was full and can only be read", said["versions"], [2, 1])
    found.equal("with room again, the upgrade gives versions", said["upgraded"], [3, 2])
    found.more = {**found.more, "sentences": sorted({one for kind in ("full", "read_only") for one in said[kind]})}
    return found


def in_a_small_disk(count: int) -> None:
    """In a process that may mount: fill a disk, and print what was found as JSON."""

    def part(place: Place, count: int, _: Say) -> Findings:
        print(json.dumps(_fill(place, count)))
        return Findings()

    in_a_folder(part, count, print, 1)


def _fill(place: Place, count: int) -> Mapping[str, object]:
    store = place.trusted.store
    store.mkdir()
    mount("-t", "tmpfs", "-o", f"mode=755,size={DISK_BYTES}", "none", str(store))
    for version in UPGRADE.begin:
        install(place.packages / f"{version}.skingpt")
    before, full, changed = snapshot(store), [], []
    filler = store / "filler"  # no bundle can have this name's folder: it is a file
    needed = (place.packages / "3.skingpt").stat().st_size
    for number in range(count):
        room = needed * number // count
        filler.write_bytes(bytes(max(0, shutil.disk_usage(store).free - room)))
        # With room enough as it seems, as when another program fills the disk meanwhile.
        seems = patch("shutil.disk_usage", return_value=shutil.disk_usage("/")._replace(free=1 << 40))
        with seems if number else nullcontext():
            full.append(error_of(lambda: install(place.packages / "3.skingpt")).replace(str(place.packages), "DIR"))
        filler.unlink()
        if snapshot(store) != before:
            changed.append(f"{room} bytes of room")
    mount("-o", "remount,ro", str(store))
    actions = (lambda: install(place.packages / "3.skingpt"), lambda: roll_back(NAME), lambda: remove(NAME))
    read_only = [error_of(action).replace(str(place.packages), "DIR") for action in actions]
    versions = place.state()
    mount("-o", f"remount,rw,size={4 * DISK_BYTES}", str(store))
    install(place.packages / "3.skingpt")
    found = {"full": full, "changed": changed, "read_only": read_only, "versions": versions, "upgraded": place.state()}
    subprocess.run(["umount", str(store)], check=True)  # noqa: S607
    return found


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)  # noqa: S607


def error_of(action: Callable[[], object]) -> str:
    """The line that a user gets; empty if there is none."""
    try:
        action()
    except BundleError as error:
        return str(error)
    return ""


async def run_errors(every: int, say: Say) -> Findings:
    """A system call of the real command that changes something fails, every so manyth: once, or all of its name from
    then on."""
    return await asyncio.to_thread(in_a_folder, _errors, every, say)


def _errors(place: Place, every: int, say: Say) -> Findings:
    tally, unclear, failed = Tally([], []), [], 0
    number = 0
    for change in CHANGES:
        place.begin(change)
        calls = traced(place, change).calls
        for call in calls[every // 2 :: every]:
            error, number = ERRORS[number % len(ERRORS)], number + 1
            place.begin(change)
            run = traced(place, change, f"{call.name}:error={error}:when={call.number}{'+' * (number % 2)}")
            what = f"{change.name}, {error} at {call.name} {call.number}"
            failed += run.code != 0
            if run.code not in (0, 4, 6) or "Traceback" in run.error or (run.code and not one_line(run.error)):
                unclear.append(f"{what}: {run.code} {run.error[-300:]}")
            tally.note(place, change, what)
        say(f"{change.name}: {len(calls)} calls")
    found = tally.findings({"failing calls": number, "commands that failed": failed})
    found.none("without one clear line", unclear)
    return found


def one_line(error: str) -> bool:
    """One line of an error; none if the very line could not be written."""
    lines = [line for line in error.splitlines() if not line.startswith(("copying", "every report"))]
    return lines == [] or (len(lines) == 1 and lines[0].startswith("error: "))


async def run_sticks(count: int, say: Say) -> Findings:
    """A stick is removed after any of `count` reads, or the package on it is cut while it is read."""
    return await asyncio.to_thread(in_a_folder, _sticks, count, say)


def _sticks(place: Place, count: int, say: Say) -> Findings:
    tally, unclear = Tally([], []), []
    for number in range(1, count + 1):
        place.begin(UPGRADE)
        package = place.packages / "3.skingpt"
        run = traced(place, UPGRADE, f"read:error=EIO:when={number}+", str(package))
        if run.code != 4 or "was the stick or disk removed?" not in run.error:
            unclear.append(f"EIO at read {number}: {run.code} {run.error[-300:]}")
        tally.note(place, UPGRADE, f"EIO at read {number}")
        place.begin(UPGRADE)
        line = _cut_while_read(place, number)
        if "too early" not in line:
            unclear.append(f"cut at read {number}: {line}")
        tally.note(place, UPGRADE, f"cut at read {number}")
    say(f"{count} sticks removed")
    found = tally.findings({"removed sticks": count, "packages cut while they were read": count})
    found.none("without a clear line", unclear)
    return found


def _cut_while_read(place: Place, number: int) -> str:
    """The line of an upgrade whose package is cut when so many of its files are copied."""
    package = place.packages / "cut.skingpt"
    shutil.copy(place.packages / "3.skingpt", package)
    copied = []

    def cut(name: str, *_: int) -> None:
        copied.append(name)
        if len(copied) == 1 + number % 3:
            os.truncate(package, 600)

    return error_of(lambda: install(package, progress=cut))


def can_mount() -> bool:
    """Whether a process here may mount in a namespace of its own."""
    unshare = shutil.which(MOUNTING[0])
    command = [*MOUNTING, "mount", "-t", "tmpfs", "none", "/mnt"]
    return unshare is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
