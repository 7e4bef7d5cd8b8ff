"""What a package looks like: a bundle as one file, `NAME.skingpt`, a plain tar of which the index fixes every byte.

    skingpt-index.json           name, version, and the size and SHA-256 of each file of the bundle
    skingpt-index.json.minisig   minisign's signature of the index; an unsigned package has none
    bundle.json, …               the bundle's files, in the order of the index
    1024 zero bytes              the end

A reader computes the header that must come next, and compares. So there is nothing in a package that could be a link, a
device, another path, a file twice or a file too many: it would be a different byte.
"""

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from ...engines.errors import BundleError
from ..bundle import MAX_MANIFEST_BYTES, PLAIN_NAME
from ..manifest import MANIFEST, FileEntry

FORMAT = "skingpt-package/1"
SUFFIX = ".skingpt"
INDEX = "skingpt-index.json"
SIGNATURE = f"{INDEX}.minisig"
BLOCK = 512
END = bytes(2 * BLOCK)
MAX_INDEX_BYTES, MAX_SIGNATURE_BYTES = 1_000_000, 16_384
MAX_FILES = 100
MAX_FILE_BYTES = 1 << 40
MAX_FILE_NAME = 100  # letters, in a tar's header
MAX_VERSION = 10**18
NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
"""Of an installed bundle: the same on every file system, and no path."""
SHA256 = re.compile(r"[0-9a-f]{64}")
OCTAL_LIMIT = 8**11  # from this size on a header's eleven octal digits do not do


@dataclass(frozen=True)
class Index:
    """What a package says of itself; this is what is signed."""

    name: str
    """Under which the bundle is installed."""
    version: int
    """Grows with each package of this name."""
    files: dict[str, FileEntry]
    """In their order in the package."""

    @property
    def bundle_id(self) -> str:
        """SHA-256 of `bundle.json`, which holds the SHA-256 of every other file."""
        return self.files[MANIFEST].sha256

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    def to_json(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode() + b"\n"


def read_index(data: bytes) -> Index:
    """Parse and check an index. Raises BundleError saying what is wrong."""
    try:
        found = json.loads(data.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise BundleError(f"{INDEX}: not valid JSON") from None
    _check_fields(found, INDEX, ("format", "name", "version", "files"))
    if found["format"] != FORMAT:
        raise BundleError(f"{INDEX}: format is {found['format']!r:.60}; this runtime installs {FORMAT}")
    files = found["files"]
    if not isinstance(files, dict) or not 1 <= len(files) <= MAX_FILES:
        raise BundleError(f"{INDEX}: files must be an object with 1 to {MAX_FILES} files")
    index = Index(found["name"], found["version"], {name: _file(name, entry) for name, entry in files.items()})
    check_index(index)
    return index


def check_index(index: Index) -> None:
    """Raises BundleError for a name, version or file that no package can have."""
    if not isinstance(index.name, str) or not NAME.fullmatch(index.name):
        raise BundleError(
            f"{index.name!r:.80} cannot be a package's name: up to 63 of a-z, 0-9, dot, hyphen and underscore, "
            "beginning and ending with a letter or digit"
        )
    if type(index.version) is not int or not 1 <= index.version < MAX_VERSION:
        raise BundleError(f"{index.version!r:.60} cannot be a package's version: a whole number from 1 to 10^18 - 1")
    for name in index.files:
        if not PLAIN_NAME.fullmatch(name) or len(name) > MAX_FILE_NAME or name in (INDEX, SIGNATURE):
            raise BundleError(f"{name!r:.120} cannot be a file of a package: not a plain name of up to 100 letters")
    if len({name.lower() for name in index.files}) != len(index.files):
        raise BundleError("two files of the package have names that differ by capital letters only")
    if MANIFEST not in index.files or index.files[MANIFEST].size > MAX_MANIFEST_BYTES:
        raise BundleError(f"the package has no {MANIFEST}, or one of more than {MAX_MANIFEST_BYTES} bytes")


def _file(name: str, entry: Any) -> FileEntry:
    _check_fields(entry, f"{INDEX}: {name!r:.120}", ("size", "sha256"))
    size, sha256 = entry["size"], entry["sha256"]
    if type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
        raise BundleError(f"{INDEX}: {name!r:.120}: size is {size!r:.60}, expected 0 to {MAX_FILE_BYTES}")
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise BundleError(f"{INDEX}: {name!r:.120}: sha256 is not 64 hexadecimal digits")
    return FileEntry(size, sha256)


def _check_fields(found: Any, where: str, names: tuple[str, ...]) -> None:
    if not isinstance(found, dict) or set(found) != set(names):
        raise BundleError(f"{where}: expected an object with {', '.join(names)} and nothing else")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def member_header(name: str, size: int) -> bytes:
    """The 512 bytes before a file in a tar (POSIX ustar): owner and times are 0, the mode is 0644.

    Sizes from 8 GiB on are written in binary, as GNU tar and others read them.
    """
    number = b"%011o\0" % size if size < OCTAL_LIMIT else b"\x80" + size.to_bytes(11, "big")
    start = name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + number + b"%011o\0" % 0
    rest = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
    checksum = b"%06o\0 " % (sum(start) + sum(b" " * 8) + sum(rest))  # the sum's own place counts as spaces
    return start + checksum + rest


def padding(size: int) -> bytes:
    """The zero bytes after a file of this size."""
    return bytes(-size % BLOCK)
