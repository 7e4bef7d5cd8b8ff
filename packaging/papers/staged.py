"""What is in a staged folder: Python distributions, and native code that no metadata names."""

import argparse
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from packaging.utils import canonicalize_name, parse_wheel_filename

TABLE = Path(__file__).with_name("parts.toml")
ELF = b"\x7fELF"


class PaperError(Exception):
    """Something in the staged folder is not accounted for. Says what, and what to do."""


@dataclass(frozen=True)
class Part:
    """A row of parts.toml; it explains the fields."""

    name: str
    license: str
    purl: str
    mark: str = ""
    files: Sequence[str] = ()
    sources: Sequence[str] = ()
    version: Sequence[str] = ()
    version_of: str = ""
    texts: Sequence[str] = ()
    covered_by: Sequence[str] = ()
    notice: str = ""


@dataclass(frozen=True)
class FoundPart:
    """One version of a part, in the binaries of one owner."""

    part: Part
    version: str
    """Empty where nothing tells it."""
    owner: str
    """The distribution that brings these binaries; empty: they belong to none."""
    places: tuple[str, ...]
    """Paths in the staged folder."""


@dataclass(frozen=True)
class Table:
    """parts.toml."""

    licenses: dict[str, str]
    texts: dict[str, dict[str, str]]
    parts: tuple[Part, ...]


def read_table() -> Table:
    document: dict[str, Any] = tomllib.loads(TABLE.read_text())
    return Table(document["licenses"], document["texts"], tuple(Part(**row) for row in document["part"]))


@dataclass(frozen=True)
class Staged:
    """A staged folder, the folders with the sources of what was compiled for it, and one of wheels."""

    folder: Path
    sources: tuple[Path, ...] = ()
    wheels: Path | None = None
    """Tells the files of a distribution whose RECORD is not in the package."""
    table: Table = field(default_factory=read_table)

    @cached_property
    def site_packages(self) -> Path:
        """Raises PaperError if there is none, or more than one."""
        found = sorted(self.folder.rglob("site-packages"))
        if len(found) != 1:
            raise PaperError(f"{self.folder}: expected one folder site-packages in it, found {len(found)}")
        return found[0]

    @property
    def python_version(self) -> str:
        """Of the Python that runs it: the folder is …/python3.13/site-packages."""
        return self.site_packages.parent.name.removeprefix("python")

    @cached_property
    def distributions(self) -> dict[str, Distribution]:
        """By normalised name, in its order."""
        found = {canonicalize_name(one.name): one for one in distributions(path=[str(self.site_packages)])}
        if "skingpt-edge" not in found:
            raise PaperError(f"{self.site_packages}: skingpt-edge is not installed in it")
        return dict(sorted(found.items()))

    @cached_property
    def _owners(self) -> dict[Path, str]:
        """The distribution of each file."""
        return {path: name for name in self.distributions for path in self.files_of(name)}

    def files_of(self, name: str) -> Iterator[Path]:
        """The files of a distribution that are there; some may have been left out of the package.

        Raises PaperError if there is neither a RECORD nor a wheel.
        """
        for place in self._listed(name):
            path = self.site_packages / place
            if path.is_file():
                yield path.resolve()

    def _listed(self, name: str) -> list[str]:
        one = self.distributions[name]
        if one.files is not None:
            return [str(entry) for entry in one.files]
        for wheel in sorted(self.wheels.glob("*.whl")) if self.wheels else ():
            if parse_wheel_filename(wheel.name)[0] == name:
                return ZipFile(wheel).namelist()
        raise PaperError(f"{name} {one.version}: has no RECORD: give --wheels the folder with its wheel")

    def metadata_folder(self, name: str) -> Path:
        """The folder `NAME-VERSION.dist-info`."""
        one = self.distributions[name]
        names = (path for path in self.site_packages.glob("*.dist-info") if Distribution.at(path).name == one.name)
        return next(names)

    def parts(self) -> list[FoundPart]:
        """All native parts, by name, owner and version.

        Raises PaperError for a binary that belongs to no distribution and to no part.
        """
        found: dict[tuple[str, str, str], tuple[Part, list[str]]] = {}
        for path in self._binaries():
            owner, place = self._owners.get(path.resolve(), ""), str(path.relative_to(self.folder))
            named = [(part, self._version(part)) for part in self.table.parts if _is_one(place, part.files)]
            if not owner and not named:
                raise PaperError(f"{place}: belongs to no distribution and no part of {TABLE.name}: add it there")
            for part, version in [*named, *self._marked(path.read_bytes(), owner)]:
                found.setdefault((part.name, owner, version), (part, []))[1].append(place)
        return [
            FoundPart(part, version, owner, tuple(places))
            for (_, owner, version), (part, places) in sorted(found.items(), key=lambda item: item[0])
        ]

    def _binaries(self) -> Iterator[Path]:
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    if file.read(len(ELF)) == ELF:
                        yield path

    def _marked(self, content: bytes, owner: str) -> Iterator[tuple[Part, str]]:
        """Parts by what they say of themselves. Of code that a wheel brings, our sources do not tell the version."""
        for part in self.table.parts:
            for groups in {found.groups() for found in re.finditer(part.mark.encode(), content)} if part.mark else ():
                yield part, groups[0].decode() if groups else "" if owner else self._version(part)

    def _version(self, part: Part) -> str:
        if part.version_of:
            one = self.distributions.get(part.version_of)
            return one.version if one else ""
        source = self.source(part)
        if not source or not part.version:
            return ""
        name, pattern = part.version
        found = re.search(pattern, (source / name).read_text())
        if not found:
            raise PaperError(f"{part.name}: {source / name} does not tell its version: correct {TABLE.name}")
        return found[1]

    def source(self, part: Part) -> Path | None:
        """The folder with a part's sources. Raises PaperError if several could be it."""
        found = sorted(
            path for folder in self.sources for name in part.sources for path in folder.glob(name) if path.is_dir()
        )
        if len(found) > 1:
            names = ", ".join(map(str, found))
            raise PaperError(f"{part.name}: several folders of sources, {names}: leave the one that was compiled")
        return found[0] if found else None


def _is_one(place: str, patterns: Sequence[str]) -> bool:
    return any(Path("/", place).match(pattern.removeprefix("**/")) for pattern in patterns)


def make_parser(description: str) -> argparse.ArgumentParser:
    """With the arguments of the scripts that look at a staged folder."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("staged", type=Path, metavar="STAGED", help="the folder that becomes the package")
    parser.add_argument(
        "--sources", type=Path, action="append", default=[], metavar="FOLDER",
        help="with the unpacked sources of native parts, a folder each; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--wheels", type=Path, metavar="FOLDER", help="with the wheels that were installed, if their RECORDs are gone"
    )
    return parser


def open_staged(given: argparse.Namespace) -> Staged:
    """What the arguments of `make_parser` name."""
    return Staged(given.staged.absolute(), tuple(given.sources), given.wheels)


def license_of(one: Distribution, table: Table) -> str:
    """An SPDX expression where the metadata or our table have one; otherwise the metadata's own words, or empty."""
    old = (one.metadata["License"] or "").strip().split("\n")[0]
    expression: str | None = one.metadata["License-Expression"]
    return expression or table.licenses.get(canonicalize_name(one.name)) or old
