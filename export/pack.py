"""Puts a bundle into one signed file, which `skingpt install` takes."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import minisign

from ..engines.errors import BundleError, ExportError
from ..runtime.bundle import Bundle, read_bundle
from ..runtime.install.package_format import (
    END,
    INDEX,
    SIGNATURE,
    SUFFIX,
    Index,
    check_index,
    member_header,
    padding,
)
from ..runtime.manifest import MANIFEST, FileEntry
from .progress import bar

COPY_BYTES = 1 << 22


@dataclass(frozen=True)
class Packed:
    """A finished package."""

    path: Path
    index: Index
    signed: bool


def pack_bundle(
    folder: Path,
    target: Path | None = None,
    *,
    key: minisign.SecretKey | None,
    name: str | None = None,
    version: int | None = None,
    force: bool = False,
) -> Packed:
    """Write a bundle's package, completely or not at all; the same bundle, key and version give the same bytes.

    `name` is the folder's own unless given; `version` is the time at which the bundle was made, as one number, so that
    it grows with each export. Without a key the package is not signed. Raises BundleError, ExportError.
    """
    bundle = read_bundle(folder)
    name = folder.resolve().name if name is None else name
    index = make_index(bundle, name, version_of(bundle) if version is None else version)
    target = target or Path(f"{index.name}{SUFFIX}")
    if target.exists() and not force:
        raise ExportError(f"{target}: exists; --force replaces it")
    if target.absolute().parent.resolve() == folder.resolve():
        raise ExportError(f"{target}: would lie in the bundle: name another place with -o")
    signature = b"" if key is None else sign(index, key)
    descriptor, temporary = tempfile.mkstemp(prefix=".skingpt-", dir=target.absolute().parent)
    try:
        with os.fdopen(descriptor, "wb") as file, bar(f"packing {index.name}") as move:
            for part in package_parts(folder, index, signature):
                file.write(part)
                move(min(file.tell(), index.size), index.size)
            os.fchmod(descriptor, 0o644)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(target)
    except BaseException:  # also an interrupt
        Path(temporary).unlink(missing_ok=True)
        raise
    return Packed(target, index, key is not None)


def make_index(bundle: Bundle, name: str, version: int) -> Index:
    """What the package says of itself. Raises ExportError for a name or version that it cannot have."""
    manifest = (bundle.path / MANIFEST).read_bytes()
    files = {MANIFEST: FileEntry(len(manifest), hashlib.sha256(manifest).hexdigest())}
    index = Index(name, version, files | dict(sorted(bundle.manifest.files.items())))
    try:
        check_index(index)
    except BundleError as error:
        raise ExportError(str(error)) from None
    return index


def version_of(bundle: Bundle) -> int:
    """The time at which a bundle was made, as a number: year, month, day, hour, minute, second. Raises ExportError."""
    created = bundle.manifest.provenance.created
    try:
        return int(f"{datetime.fromisoformat(created):%Y%m%d%H%M%S}")
    except ValueError:
        raise ExportError(f"{MANIFEST}: {created!r:.60} is not when the bundle was made: give --version") from None


def sign(index: Index, key: minisign.SecretKey) -> bytes:
    """minisign's signature of an index. What it says beside the bytes is shown by minisign, and signed, too."""
    says = f"{index.name} version {index.version}"
    signature = key.sign(index.to_json(), trusted_comment=says, untrusted_comment=f"signature of {INDEX}")
    return bytes(signature) + b"\n"


def package_parts(folder: Path, index: Index, signature: bytes) -> Iterator[bytes]:
    """All bytes of a package, one part after the other. Raises ExportError for a file that was changed."""
    yield _small(INDEX, index.to_json())
    if signature:
        yield _small(SIGNATURE, signature)
    for name, entry in index.files.items():
        yield member_header(name, entry.size)
        digest = hashlib.sha256()
        with (folder / name).open("rb") as file:
            while block := file.read(COPY_BYTES):
                digest.update(block)
                yield block
        if digest.hexdigest() != entry.sha256:
            raise ExportError(f"{name}: its content has changed (SHA-256 differs): export or copy the bundle again")
        yield padding(entry.size)
    yield END


def _small(name: str, data: bytes) -> bytes:
    return member_header(name, len(data)) + data + padding(len(data))
