"""A bundle on disk: its files are exactly the ones its manifest lists, whole and unchanged."""

import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ..engines.base import TensorSpec
from ..engines.errors import BundleError
from ..engines.gguf_header import read_gguf_header
from .install.store import Installed, find_installed, installed_at
from .manifest import MANIFEST, Manifest, read_manifest

MAX_MANIFEST_BYTES = 1_000_000
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

UNSIGNED = "This model was installed from a package without a trusted signature."

Progress = Callable[[str, int, int], None]
"""Called with a file's name, bytes done and bytes in all."""


FileMark = tuple[str, int, int, int, int, int]
"""A file's path, device, inode, size, and times of last change of its content (mtime) and of anything (ctime).

A program can set mtime back, but not ctime. So files with the same mark have the same content, unless somebody
can write to the disk itself or set the clock.
"""
Fingerprint = dict[str, FileMark]
"""By name, of each file of a bundle."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose structure and sizes have been checked."""

    path: Path
    manifest: Manifest
    id: str
    """SHA-256 of `bundle.json`, which holds the SHA-256 of every other file."""
    fingerprint: Fingerprint
    """Taken when the bundle was read."""
    installed: Installed | None = None
    """Where it comes from, if it was installed from a package."""

    @property
    def notice(self) -> str:
        """What is shown with every report: the bundle's own notice, and whether its package was unsigned."""
        if self.installed and not self.installed.signer:
            return f"{self.manifest.notice} {UNSIGNED}"
        return self.manifest.notice

    def file(self, name: str) -> Path:
        return self.path / name

    def check_unchanged(self) -> None:
        """Raises BundleError if a file was changed or replaced since the bundle was read."""
        try:
            now = take_fingerprint(self.path, self.manifest)
        except OSError as error:
            raise BundleError(f"{error.filename or self.path}: cannot be read: {error.strerror}") from None
        for name, found in now.items():
            if found != self.fingerprint[name]:
                raise BundleError(f"{name}: was changed or replaced while it was in use: open the bundle again")


def default_bundle() -> Path:
    """The small bundle that comes with the package, for trying things out."""
    return Path(str(files("skingpt_edge.runtime"))) / "demo" / "bundle"


def find_bundle(given: os.PathLike[str] | str) -> Path:
    """The folder of a bundle that is given by its path or, where there is nothing, by the name it was installed under.

    Raises BundleError if the folder of installed bundles cannot be read.
    """
    path = Path(given)
    return path if os.path.lexists(path) else find_installed(os.fspath(given)) or path


def read_bundle(path: Path) -> Bundle:
    """Read the manifest and check that the listed files, and no others, are there at their sizes.

    Raises BundleError.
    """
    try:
        return _read_bundle(path)
    except OSError as error:
        raise BundleError(f"{error.filename or path}: cannot be read: {error.strerror}") from None


def _read_bundle(path: Path) -> Bundle:
    if not path.is_dir():
        neither = "" if path.parent.parts else ", and no bundle of this name is installed"
        raise BundleError(f"{path}: not a bundle: no such directory{neither}")
    manifest_file = path / MANIFEST
    if not manifest_file.is_file():
        raise BundleError(f"{path}: not a bundle: it has no {MANIFEST}")
    if manifest_file.is_symlink() or manifest_file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{manifest_file}: a link, or larger than {MAX_MANIFEST_BYTES} bytes")
    data = manifest_file.read_bytes()
    try:
        manifest = read_manifest(data.decode())
    except UnicodeDecodeError:
        raise BundleError(f"{MANIFEST}: not UTF-8") from None
    _check_files(path, manifest)
    bundle_id, fingerprint = hashlib.sha256(data).hexdigest(), take_fingerprint(path, manifest)
    installed = installed_at(path)
    if installed and installed.bundle_id != bundle_id:
        raise BundleError(f"{path}: was changed after it was installed: install it again")
    return Bundle(path, manifest, bundle_id, fingerprint, installed)


def _check_files(path: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        if not PLAIN_NAME.fullmatch(name) or name == MANIFEST:
            raise BundleError(f"{MANIFEST}: {name[:100]!r} is not a plain file name")
        try:
            found = (path / name).lstat()
        except FileNotFoundError:
            raise BundleError(f"{name}: listed in {MANIFEST} but missing from {path}") from None
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{name}: a link or special file; a bundle holds plain files only")
        if found.st_size != entry.size:
            raise BundleError(f"{name}: {found.st_size} bytes, expected {entry.size}: copy the bundle again")
    if extra := sorted({item.name for item in path.iterdir()} - {MANIFEST, *manifest.files}):
        raise BundleError(f"{extra[0]}: in the bundle but not listed in {MANIFEST}")


def take_fingerprint(path: Path, manifest: Manifest) -> Fingerprint:
    """Raises OSError."""
    result: Fingerprint = {}
    for name in sorted(manifest.files):
        file = (path / name).resolve()
        result[name] = _mark(file, file.stat())
    return result


def _mark(path: Path, found: os.stat_result) -> FileMark:
    return str(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def check_hashes(bundle: Bundle, progress: Progress | None = None) -> None:
    """Read every file and compare its SHA-256. Raises BundleError."""
    for name, entry in bundle.manifest.files.items():
        try:
            found = hash_file(bundle.file(name), progress, bundle.fingerprint[name])
        except OSError as error:
            raise BundleError(f"{name}: cannot be read: {error.strerror}") from None
        if found != entry.sha256:
            raise BundleError(f"{name}: its content has changed (SHA-256 differs): copy the bundle again")


def hash_file(path: Path, progress: Progress | None = None, expected: FileMark | None = None) -> str:
    """SHA-256 of a file in hexadecimal. Raises OSError, BundleError if it is not the `expected` file."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        if expected and _mark(path.resolve(), os.fstat(file.fileno())) != expected:
            raise BundleError(f"{path.name}: was changed or replaced while it was in use: open the bundle again")
        size = os.fstat(file.fileno()).st_size
        while block := file.read(1 << 22):
            digest.update(block)
            done += len(block)
            if progress:
                progress(path.name, done, size)
    return digest.hexdigest()


def check_language_model(bundle: Bundle) -> None:
    """Compare the GGUF file's own header with the manifest. Raises BundleError."""
    manifest = bundle.manifest
    header = read_gguf_header(bundle.file(manifest.llm.file))
    if header.n_ctx_train < manifest.llm.context:
        raise BundleError(
            f"{manifest.llm.file}: trained for at most {header.n_ctx_train} tokens, "
            f"but {MANIFEST} wants a context of {manifest.llm.context}"
        )
    expected = (manifest.shapes.image_embeds[-1], manifest.shapes.vocabulary)
    if (header.n_embd, header.n_vocab) != expected:
        raise BundleError(
            f"{manifest.llm.file}: width {header.n_embd} and {header.n_vocab} pieces, "
            f"but {MANIFEST} says width {expected[0]} and {expected[1]} pieces"
        )
    if header.file_type != manifest.llm.type:
        raise BundleError(f"{manifest.llm.file}: its type is {header.file_type}, {MANIFEST} says {manifest.llm.type}")
    special = manifest.llm.special_tokens
    for name, token in (("bos", special.bos), ("eos", special.eos), ("unknown", special.unk)):
        if (found := header.special_tokens.get(name, token)) != token:
            raise BundleError(f"{manifest.llm.file}: its {name} token is {found}, {MANIFEST} says {token}")


def check_graph(name: str, specs: tuple[TensorSpec, ...], expected: dict[str, tuple[int, ...]]) -> None:
    """Compare a graph's inputs or outputs as its file declares them with the manifest's shapes.

    `expected` leaves out the batch dimension. Raises BundleError.
    """
    found = {spec.name: spec.shape[1:] for spec in specs}
    if found != expected:
        raise BundleError(f"{name}: its tensors are {found}, but {MANIFEST} needs {expected}")
