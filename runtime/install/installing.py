"""Puts a package's bundle into the store, goes back to the version before it, and removes it."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ...engines.errors import BundleError
from ..bundle import Progress, read_bundle
from ..manifest import MANIFEST
from .durable import FOLDER_MODE, make_folder, others_can_write, sync_folder, temporary_file
from .in_use import in_use
from .package_format import NAME, Index, read_index
from .package_reader import Package, open_package
from .store import STATE, SYSTEM_STORE, Installed, Signer, State, find_installed, own_store, read_state, write_state
from .trusted_keys import SYSTEM_KEYS, check_signature, own_keys

INCOMING = ".incoming"
SPARE_BYTES = 1_000_000  # for folders and what else is written beside the files


def install(
    path: Path, *, unsigned: bool = False, older: bool = False, progress: Progress | None = None
) -> tuple[Installed, State]:
    """Install a package, and make it the current version of its name; the one before it is kept.

    `unsigned` takes packages without a signature and those of unknown keys; `older` takes versions that are not higher
    than all before. Gives what is installed and the state before. Raises BundleError; the store is then as it was.
    """
    store = own_store()
    with open_package(path) as package:
        signer = _check_origin(package, key_folders(store), unsigned=unsigned)
        try:
            index = read_index(package.index_data)
        except BundleError as error:
            raise package.error(str(error)) from None
        with _changing(store, index.name, make=True) as folder:
            before = read_state(folder)
            if not older:
                _check_version(index, before)
            installed = _copy_in(package, index, signer, folder, progress)
            _switch(folder, before, _after(before, installed))
    return installed, before


def key_folders(store: Path) -> tuple[Path, ...]:
    """Where keys are trusted that sign for a store: what the whole machine uses is not for a user's keys to allow."""
    if store == SYSTEM_STORE:
        return (SYSTEM_KEYS,)
    return SYSTEM_KEYS, own_keys()


def roll_back(name: str) -> tuple[Installed, Installed]:
    """Make the version before the current one current again; the two are then swapped: (current, before).

    Raises BundleError.
    """
    with _changing(own_store(), name) as folder:
        state = read_state(folder)
        if not state.current or not state.previous:
            raise BundleError(f"{name}: no version before the current one is kept, so there is none to go back to")
        try:
            read_bundle(folder / state.previous.folder)
        except BundleError as error:
            raise BundleError(f"{name}: version {state.previous.version} is damaged: {error}") from None
        _switch(folder, state, replace(state, current=state.previous, previous=state.current))
    return state.previous, state.current


def remove(name: str, *, previous_only: bool = False) -> tuple[Installed, ...]:
    """Remove all versions of a bundle, or only the one that is kept to go back to; those that were removed.

    The highest version that was installed is still remembered. Raises BundleError if there is nothing to remove.
    """
    with _changing(own_store(), name) as folder:
        state = read_state(folder)
        removed = state.kept[1:] if previous_only else state.kept
        if not removed:
            raise BundleError(f"{name}: no version {'before the current one' if previous_only else ''} is installed")
        left = state.current if previous_only else None
        _switch(folder, state, replace(state, current=left, previous=None))
    return removed


def list_installed(store: Path) -> Iterator[tuple[str, State | BundleError]]:
    """The bundles of a store in the order of their names; an error for one whose state cannot be read.

    Raises OSError.
    """
    names = sorted(found.name for found in store.iterdir() if NAME.fullmatch(found.name)) if store.is_dir() else []
    for name in names:
        try:
            state = read_state(store / name)
        except BundleError as error:
            yield name, error
        else:
            if state.current:
                yield name, state


def clean_up(store: Path) -> None:
    """Remove what interrupted commands have left, unless another one is running or this user may not."""
    with suppress(BundleError, OSError), _locked(store):
        _clean(store)


def _check_origin(package: Package, folders: Sequence[Path], *, unsigned: bool) -> Signer | None:
    """The trusted key that signed a package; None if there is none and `unsigned` allows that. Raises BundleError."""
    signer = None
    if package.signature is not None:
        try:
            signer = check_signature(package.index_data, package.signature, folders)
        except BundleError as error:
            raise package.error(str(error)) from None
    if signer is None and not unsigned:
        what = "it is not signed" if package.signature is None else "it is signed by a key that is not trusted here"
        raise package.error(
            f"{what}: put the public key (.pub) of somebody you trust into {' or '.join(map(str, folders))}, "
            "or install it with --unsigned, which every report will say"
        )
    return signer


def _check_version(index: Index, state: State) -> None:
    """Raises BundleError for a version that could be an old one with mistakes which somebody wants to have back."""
    if index.version < state.highest_version:
        raise BundleError(
            f"{index.name}: version {index.version} is older than version {state.highest_version}, which was installed "
            f"here: `skingpt rollback {index.name}` goes back to the version before, --older installs this one"
        )
    if index.version == state.highest_version and index.bundle_id != state.highest_id:
        raise BundleError(
            f"{index.name}: version {index.version} was installed here with other content: other content needs a "
            "higher version; --older installs this one"
        )


def _copy_in(
    package: Package, index: Index, signer: Signer | None, folder: Path, progress: Progress | None
) -> Installed:
    """Copy a package into a new folder that no state names yet. Raises BundleError, with nothing left behind."""
    incoming = folder / INCOMING
    target = folder / f"{index.version}-{secrets.token_hex(4)}"
    try:
        incoming.mkdir()
        incoming.chmod(FOLDER_MODE)
        free = shutil.disk_usage(folder).free
        needed = index.size + SPARE_BYTES
        if free < needed:
            raise BundleError(
                f"{package.path}: it needs {needed / 1e6:,.0f} MB in {folder.parent}, and {free / 1e6:,.0f} MB are "
                "free: `skingpt remove NAME --previous` removes a version that is kept to go back to"
            )
        package.copy_files(index, incoming, progress)
        try:
            bundle = read_bundle(incoming)
        except BundleError as error:
            raise package.error(f"the bundle in it cannot be used: {error}") from None
        if index.files != {MANIFEST: index.files[MANIFEST], **bundle.manifest.files}:
            raise package.error(f"its index and its {MANIFEST} do not list the same files")
        incoming.rename(target)
        sync_folder(folder)
    except BaseException:  # also an interrupt
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    return Installed(index.name, index.version, bundle.id, signer, target.name)


def _after(state: State, installed: Installed) -> State:
    """The state when a version has become current. Only signed versions say how high a number was."""
    higher = installed.signer is not None and installed.version >= state.highest_version
    highest = (installed.version, installed.bundle_id) if higher else (state.highest_version, state.highest_id)
    now = state.current
    again = now and (now.version, now.bundle_id) == (installed.version, installed.bundle_id)
    return State(installed, state.previous if again else now, *highest)


def _switch(folder: Path, before: State, state: State) -> None:
    """Make a state the true one in one step; then remove the versions that it does not name, as far as it works."""
    dropped = [one for one in (*before.kept, *before.held) if one not in state.kept and (folder / one.folder).is_dir()]
    state = replace(state, held=tuple(one for one in dropped if in_use(folder / one.folder)))
    try:
        write_state(folder, state)
    except OSError as error:
        if read_state(folder) != state:
            raise
        raise BundleError(f"{folder}: changed, but a power cut may take that back: {error.strerror}") from None
    finally:
        with suppress(BundleError, OSError):
            _remove_leftovers(folder)


@contextmanager
def _changing(store: Path, name: str, *, make: bool = False) -> Iterator[Path]:
    """The folder of a bundle in a store, for this process alone to change. Leftovers are removed from the store first.

    Raises BundleError if the store cannot be changed.
    """
    folder = store / name
    if not NAME.fullmatch(name) or not (make or folder.is_dir()):
        if elsewhere := find_installed(name):
            raise BundleError(
                f"{name}: is installed in {elsewhere.parent.parent}, which this user's commands leave alone"
            )
        raise BundleError(f"{name!r:.80}: no bundle of this name is installed; `skingpt bundles` lists what is")
    try:
        if make:
            make_folder(store)
        if others_can_write(store.stat()):
            raise BundleError(f"{store}: another user owns it or can write to it, so it is not safe to install there")
        with _locked(store):
            _clean(store)
            if make:
                make_folder(folder)
            try:
                yield folder
            finally:
                with suppress(OSError):
                    folder.rmdir()  # if it stayed empty
    except OSError as error:
        raise BundleError(f"{store}: cannot be written: {error.strerror}: nothing was changed") from None


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Raises BundleError if another process changes the store. The lock ends with its process, however that ends."""
    descriptor = os.open(store, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BundleError(f"{store}: another command is changing it: try again when it is done") from None
        yield
    finally:
        os.close(descriptor)


def _clean(store: Path) -> None:
    """Remove what interrupted commands have left, as far as it works."""
    for folder in [found for found in store.iterdir() if NAME.fullmatch(found.name) and found.is_dir()]:
        with suppress(BundleError, OSError):
            _remove_leftovers(folder)
            folder.rmdir()  # if nothing is in it


def _remove_leftovers(folder: Path) -> None:
    """Remove what the state does not name, unless a service uses it. Raises BundleError, OSError."""
    sync_folder(folder)  # else a power cut could bring back a state that names what is removed here
    kept = {one.folder for one in read_state(folder).kept}
    temporary_file(folder / STATE).unlink(missing_ok=True)
    for found in folder.iterdir():
        if found.is_dir() and not found.is_symlink() and found.name not in kept and not in_use(found):
            shutil.rmtree(found)
