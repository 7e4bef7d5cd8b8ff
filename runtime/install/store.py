"""The folder of installed bundles: which versions of each are there, and which one is used.

    STORE/NAME/state.json       which version is current, which one was before it, and the highest that ever was
    STORE/NAME/VERSION-…/       a version: a bundle's folder

A version counts only if `state.json` names it, and that file is replaced in one step. So at any moment the store holds
the versions from before a change or those from after it.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...engines.errors import BundleError
from .durable import others_can_write, write_durably

STORE_VARIABLE = "SKINGPT_STORE"
SYSTEM_STORE = Path("/var/lib/skingpt-edge-bundles")  # not the service's own folder, which belongs to the service
STATE, FORMAT = "state.json", 1
MAX_STATE_BYTES = 100_000


@dataclass(frozen=True)
class Signer:
    """A key that this machine trusted when a bundle was installed."""

    key: str
    """minisign's number of the key, 16 hexadecimal digits."""
    file: str
    """The name of its file on this machine."""

    def __str__(self) -> str:
        return f"key {self.key} ({self.file})"


@dataclass(frozen=True)
class Installed:
    """A version of a bundle that came from a package."""

    name: str
    version: int
    bundle_id: str
    signer: Signer | None
    """None: installed with `--unsigned`, and not signed by a key that this machine trusted."""
    folder: str
    """Its name in the store's folder of this bundle."""

    @property
    def signature(self) -> str:
        """For a person: who signed it."""
        return f"signed by {self.signer}" if self.signer else "not signed by a trusted key"


@dataclass(frozen=True)
class State:
    """What `state.json` says of a bundle's versions."""

    current: Installed | None = None
    previous: Installed | None = None
    highest_version: int = 0
    """The highest that was ever installed and signed; it outlives `skingpt remove`."""
    highest_id: str = ""
    held: tuple[Installed, ...] = ()
    """Earlier versions that a running service still used at the last change."""

    @property
    def kept(self) -> tuple[Installed, ...]:
        """The versions whose folders are kept."""
        return tuple(version for version in (self.current, self.previous) if version)


def own_store() -> Path:
    """Where this user's commands install: root's is for the whole machine. Raises BundleError without a home."""
    if given := os.environ.get(STORE_VARIABLE):
        return Path(given).absolute()
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return SYSTEM_STORE
    return user_folder("XDG_DATA_HOME", ".local/share") / "bundles"


def user_folder(variable: str, usual: str) -> Path:
    """This user's folder of a kind, as the XDG base directories say. Raises BundleError without a home."""
    try:
        return Path(os.environ.get(variable) or Path.home() / usual).absolute() / "skingpt-edge"
    except RuntimeError:
        raise BundleError(f"this user has no home directory: say where to install with {STORE_VARIABLE}") from None


def stores() -> Iterator[Path]:
    """The folders in which a name is looked up: the user's own, then the whole machine's."""
    try:
        own = own_store()
    except BundleError:  # a service may have no home directory
        own = SYSTEM_STORE
    yield own
    if own != SYSTEM_STORE:
        yield SYSTEM_STORE


def find_installed(name: str) -> Path | None:
    """The folder of the current version of a bundle. Raises BundleError for a store that cannot be read."""
    if name in ("", ".", "..") or os.sep in name or "\0" in name:
        return None
    for store in stores():
        if current := read_state(store / name).current:
            return store / name / current.folder
    return None


def installed_at(folder: Path) -> Installed | None:
    """What was installed in a folder; None if it is no version in a store.

    Raises BundleError for a store that cannot be read.
    """
    place = folder.resolve()
    for store in stores():
        if place.parent.parent == store.resolve():
            state = read_state(place.parent)
            return next((one for one in (*state.kept, *state.held) if one.folder == place.name), None)
    return None


def current_version(folder: Path) -> Path:
    """The folder of the current version, given that of any version in a store; another folder as it is.

    Raises BundleError for a store that cannot be read.
    """
    place = folder.resolve()
    if any(place.parent.parent == store.resolve() for store in stores()):
        current = read_state(place.parent).current
        if current and current.folder != place.name:
            return place.parent / current.folder
    return folder


def read_state(folder: Path) -> State:
    """The state of a bundle's folder in a store; an empty one if there is none.

    Raises BundleError, also if another user could have written it.
    """
    file = folder / STATE
    try:
        with file.open("rb") as opened:
            for found in (folder.parent.stat(), folder.stat(), os.fstat(opened.fileno())):
                if others_can_write(found):
                    raise BundleError(f"{file}: another user can write to it or to its folders, so it is not believed")
            data = json.loads(opened.read(MAX_STATE_BYTES))
        if data["format"] != FORMAT:
            raise BundleError(f"{file}: written by a newer version of this program")
        current, previous = _installed(data["current"]), _installed(data["previous"])
        held = tuple(one for one in map(_installed, data["held"]) if one)
        return State(current, previous, int(data["highest_version"]), data["highest_id"], held)
    except (FileNotFoundError, NotADirectoryError):
        return State()
    except OSError as error:
        raise BundleError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BundleError(f"{file}: damaged: remove {folder} and install the bundle again") from None


def write_state(folder: Path, state: State) -> None:
    """The one step in which a version becomes current. Raises OSError."""
    write_durably(folder / STATE, json.dumps({"format": FORMAT, **asdict(state)}, indent=1).encode())


def _installed(data: Any) -> Installed | None:
    if data is None:
        return None
    signer = Signer(**data["signer"]) if data["signer"] else None
    found = Installed(**{**data, "signer": signer})
    if Path(found.folder).name != found.folder:
        raise ValueError("not a folder's name")
    return found
