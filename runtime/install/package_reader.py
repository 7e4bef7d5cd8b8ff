"""Reads a package once, from its beginning to its end, and believes nothing that the signed index does not say."""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from ...engines.errors import BundleError
from ..bundle import Progress
from ..manifest import FileEntry
from .durable import new_file, sync_folder
from .package_format import (
    BLOCK,
    END,
    INDEX,
    MAX_INDEX_BYTES,
    MAX_SIGNATURE_BYTES,
    SIGNATURE,
    Index,
    member_header,
    padding,
)

COPY_BYTES = 1 << 22
GONE = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE)


class Package:
    """An open package, of which the signature and the index have been read."""

    def __init__(self, file: FileIO, path: Path) -> None:
        """Raises BundleError if the file does not begin as a package does."""
        self._file, self.path = file, path
        self._done = 0
        self._next_header = b""
        """Of the first file, if it was read to see whether there is a signature."""
        self.index_data = self._small(INDEX, MAX_INDEX_BYTES, "it is not a package made by `skingpt-export pack`")
        """What is signed; not parsed yet, because the signature has not been checked."""
        self.signature: bytes | None = None
        self._next_header = self._read(BLOCK)
        if self._next_header.startswith(SIGNATURE.encode() + b"\0"):
            self.signature = self._small(SIGNATURE, MAX_SIGNATURE_BYTES, "its signature is damaged")

    def error(self, text: str) -> BundleError:
        """An error that names the package."""
        return BundleError(f"{self.path.name}: {text}")

    def copy_files(self, index: Index, folder: Path, progress: Progress | None = None) -> None:
        """Copy all files into a new folder, and check every byte meanwhile; at the end they are on the disk.

        Raises BundleError if the package is not what its index says, or cannot be read; OSError if a file cannot be
        written.
        """
        for name, entry in index.files.items():
            self._expect(member_header(name, entry.size), f"{name}, {entry.size} bytes,")
            self._copy(name, entry, folder / name, progress)
            self._expect(padding(entry.size), f"the end of {name}")
        self._expect(END, "the end of the package")
        if self._some(1):
            raise self.error(f"there is more in it than its index says, from byte {self._done} on")
        sync_folder(folder)

    def _copy(self, name: str, entry: FileEntry, target: Path, progress: Progress | None) -> None:
        digest, done = hashlib.sha256(), 0
        with os.fdopen(new_file(target), "wb", buffering=0) as file:
            while done < entry.size:
                block = self._read(min(COPY_BYTES, entry.size - done))
                digest.update(block)
                _write_all(file, block)
                done += len(block)
                if progress:
                    progress(name, done, entry.size)
            os.fsync(file.fileno())
        if digest.hexdigest() != entry.sha256:
            raise self.error(f"{name} is not what the index says (SHA-256 differs): the package is damaged or forged")

    def _small(self, name: str, most: int, otherwise: str) -> bytes:
        """A small file whose size nothing but its own header says; `otherwise`: what it means if it is not there."""
        header, self._next_header = self._next_header or self._read(BLOCK), b""
        size = re.fullmatch(rb"0*([0-7]{1,11})", header[124:135])
        length = int(size[1], 8) if size else most + 1
        if length > most or header != member_header(name, length):
            raise self.error(otherwise)
        data = self._read(length)
        self._expect(padding(length), f"the end of {name}")
        return data

    def _expect(self, wanted: bytes, what: str) -> None:
        begun = self._done - len(self._next_header)
        found, self._next_header = self._next_header or self._read(len(wanted)), b""
        if found != wanted:
            raise self.error(f"damaged or forged: at byte {begun} there should be {what} as the index says")

    def _read(self, count: int) -> bytes:
        """Exactly so many bytes."""
        parts = []
        while count:
            part = self._some(count)
            if not part:
                raise self.error(f"it ends after {self._done} bytes, too early: copy it again")
            parts.append(part)
            count -= len(part)
            self._done += len(part)
        return b"".join(parts)

    def _some(self, count: int) -> bytes:
        """At most so many bytes; none at the end."""
        try:
            return self._file.read(count) or b""
        except OSError as error:
            gone = "; was the stick or disk removed?" if error.errno in GONE else ""
            raise self.error(f"cannot be read at byte {self._done}: {error.strerror}{gone}") from None


@contextmanager
def open_package(path: Path) -> Iterator[Package]:
    """Open a package and read its signature and index. Raises BundleError."""
    try:
        # Not blocking: a pipe without a writer would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{path}: not a file: give the package, a file that ends in .skingpt")
    with FileIO(descriptor, "rb") as file:
        yield Package(file, path)


def _write_all(file: FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
