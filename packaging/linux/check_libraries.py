"""Checks that every program and library in a folder runs with glibc 2.28 and what is as old as that.

What an ELF file needs of another stands in it: the names of libraries, and the newest version of each one's symbols.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

# manylinux_2_28: glibc of 2018, and what came with the compilers of that year.
NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 25), "CXXABI": (1, 3, 11), "GCC": (8, 0, 0)}
# These may be taken from the system; all others must lie in the folder.
SYSTEM = {
    "ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1",
    "libstdc++.so.6", "libutil.so.1", "libz.so.1",
}  # fmt: skip


@dataclass(frozen=True)
class Needs:
    """What one file needs of others."""

    libraries: tuple[str, ...]
    versions: tuple[str, ...]
    """Of symbols, as in `GLIBC_2.14`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    files = list(elf_files(folder))
    wrong = list(faults(folder, files))
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    newest = max((version for path in files for version in needs(path).versions if _is(version, "GLIBC")), key=_number)
    print(f"{len(files)} programs and libraries; the newest symbol of glibc is {newest}")
    sys.exit(bool(wrong) or not files)


def elf_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def faults(folder: Path, files: list[Path]) -> Iterator[str]:
    """What is wrong with each of the files, in words."""
    own = {path.name for path in folder.rglob("*.so*")}
    for path in files:
        found = needs(path)
        for name in found.libraries:
            if name not in SYSTEM | own:
                yield f"{path.relative_to(folder)} needs {name}, which is not in the package"
        for version in found.versions:
            for family, newest in NEWEST.items():
                if _is(version, family) and _number(version) > newest:
                    yield f"{path.relative_to(folder)} needs {version}, newer than {'.'.join(map(str, newest))}"


def needs(path: Path) -> Needs:
    """Raises ELFError for a file that is none."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        libraries, versions = [], []
        for section in elf.iter_sections():
            if isinstance(section, DynamicSection):
                libraries += [tag.needed for tag in section.iter_tags("DT_NEEDED")]
            elif isinstance(section, GNUVerNeedSection):
                versions += [symbol.name for _, symbols in section.iter_versions() for symbol in symbols]
    return Needs(tuple(libraries), tuple(versions))


def _is(version: str, family: str) -> bool:
    return version.startswith(f"{family}_") and version.rpartition("_")[2][0].isdigit()


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.rpartition("_")[2].split(".")))


if __name__ == "__main__":
    main()
