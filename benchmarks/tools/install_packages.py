"""Makes small bundles and their packages, right ones and any others, for the checks of `skingpt install`."""

import hashlib
import json
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import minisign

from ...runtime.bundle import default_bundle
from ...runtime.install.package_format import END, FORMAT, INDEX, SIGNATURE, member_header, padding
from ...runtime.manifest import MANIFEST

NAME = "small"
FILES = {"llm.gguf": 5000, "qformer.onnx": 700, "qformer.onnx.data": 512, "vision_encoder.onnx": 1, "vision.data": 0}
"""Sizes on both sides of a tar's block, and none at all."""


def small_files(seed: int, sizes: dict[str, int] | None = None) -> dict[str, bytes]:
    """The files of a bundle that `read_bundle` takes: the demonstration's manifest about a few random bytes."""
    chance = random.Random(seed)  # noqa: S311 - content, no secrets
    files = {name: chance.randbytes(size) for name, size in (sizes or FILES).items()}
    manifest = json.loads((default_bundle() / MANIFEST).read_text())
    manifest["files"] = {name: entry(data) for name, data in files.items()}
    manifest["name"] = f"small bundle {seed}"
    return {MANIFEST: json.dumps(manifest).encode(), **files}


def entry(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_bundle(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@dataclass(frozen=True)
class Member:
    """One file of a package."""

    name: str
    data: bytes
    header: bytes = b""
    """Empty: as it should be."""

    @property
    def bytes(self) -> bytes:
        header = self.header or member_header(self.name, len(self.data))
        return header + self.data + padding(len(self.data))


@dataclass(frozen=True)
class Parts:
    """A package in its parts, each of which can be replaced before they are put together."""

    index: dict[str, Any]
    files: tuple[Member, ...]
    key: minisign.SecretKey | None
    index_data: bytes = b""
    """Empty: `index` as JSON."""
    signature: bytes | None = None
    """None: what the key makes of the index."""
    end: bytes = END
    before: tuple[Member, ...] = field(default=())
    """In front of all."""

    def with_index(self, **fields: Any) -> "Parts":
        return replace(self, index={**self.index, **fields})

    def with_file(self, number: int, member: Member) -> "Parts":
        return replace(self, files=(*self.files[:number], member, *self.files[number + 1 :]))

    @property
    def package(self) -> bytes:
        data = self.index_data or json.dumps(self.index).encode()
        signature = self.signature
        if signature is None and self.key:
            signature = bytes(self.key.sign(data, trusted_comment="a test")) + b"\n"
        signed = (Member(SIGNATURE, signature),) if signature is not None else ()
        return b"".join(one.bytes for one in (*self.before, Member(INDEX, data), *signed, *self.files)) + self.end


def parts(
    files: dict[str, bytes], key: minisign.SecretKey | None, *, version: int = 1, name: str = NAME, **index: Any
) -> Parts:
    """A package as `skingpt-export pack` makes it."""
    listed = {file: entry(data) for file, data in files.items()}
    described = {"format": FORMAT, "name": name, "version": version, "files": listed, **index}
    return Parts(described, tuple(Member(file, data) for file, data in files.items()), key)


@dataclass(frozen=True)
class Trusted:
    """A folder to install into, with a key that is trusted in it, and one that is not."""

    folder: Path
    key: minisign.SecretKey
    other: minisign.SecretKey

    @property
    def environment(self) -> dict[str, str]:
        """Under which `skingpt install` uses it."""
        return {"SKINGPT_STORE": str(self.store), "XDG_CONFIG_HOME": str(self.folder / "config")}

    @property
    def store(self) -> Path:
        return self.folder / "store"


def make_trusted(folder: Path) -> Trusted:
    """In an empty folder."""
    trusted, other = minisign.KeyPair.generate(), minisign.KeyPair.generate()
    keys = folder / "config" / "skingpt-edge" / "trusted-keys"
    keys.mkdir(parents=True)
    (keys / "trusted.pub").write_bytes(bytes(trusted.public_key) + b"\n")
    for place in (folder / "config", keys.parent, keys, keys / "trusted.pub"):
        place.chmod(0o755)
    return Trusted(folder, trusted.secret_key, other.secret_key)


def snapshot(folder: Path) -> dict[str, bytes]:
    """All that is in a folder: the files' bytes by path, and the folders."""
    found = sorted(folder.rglob("*")) if folder.exists() else []
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"a folder" for path in found}
