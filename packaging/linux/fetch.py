"""Gets everything that the package is made of into one folder, each file as its SHA-256 says, and installs the tools.

Sources come from Debian, wheels from the package index that pip is set up for. What is there already is not fetched
again, so that a second build needs no network. Exit code 75 (EX_TEMPFAIL): an archive cannot be reached, or has a
file no more. That says nothing about the package.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).parent
LIST = HERE / "debian-sources.txt"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Wheels for the Python of the package, which need no glibc newer than 2.28.
TARGET = ["--python-version=3.13", "--implementation=cp", "--abi=cp313", "--abi=abi3", "--abi=none"]
PLATFORMS = ("any", "manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_27_x86_64", "manylinux_2_28_x86_64")
WHEELS_ONLY = "--only-binary=:all:"
FOR_PACKAGE = [WHEELS_ONLY, *TARGET, *(f"--platform={platform}" for platform in PLATFORMS)]
GPU = ("cuda", "rtx")

# Suites that may have a file, by the archive of Debian that they are in.
SUITES = {"Debian": ("trixie", "bookworm", "forky", "sid"), "Debian-Security": ("trixie-security",)}


@dataclass(frozen=True)
class Source:
    """A line of debian-sources.txt, or a file of a source package that Debian has."""

    package: str
    file: str
    sha256: str

    @property
    def is_original(self) -> bool:
        """Not Debian's own changes."""
        return ".orig." in self.file


def sources() -> list[Source]:
    lines = LIST.read_text().splitlines()
    return [Source(*line.split()) for line in lines if line and not line.startswith("#")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", type=Path, help="the folder for what is fetched")
    parser.add_argument("tools", type=Path, help="the virtual environment for compiler and other tools")
    parser.add_argument("--gpu", nargs="+", choices=GPU, help="only what a package for GPUs has and needs besides")
    given = parser.parse_args()
    inputs: Path = given.inputs
    inputs.mkdir(parents=True, exist_ok=True)
    if given.gpu:
        _fetch_from_index(given.tools / "bin" / "python", inputs, "cuda-tools", [WHEELS_ONLY])
        for name in given.gpu:
            _fetch_from_index(given.tools / "bin" / "python", inputs, f"{name}-wheels", FOR_PACKAGE)
        return
    missing = [source for source in sources() if _sha256(inputs / source.file) != source.sha256]
    if missing:
        _fetch_from_debian(missing, inputs)
    python = Path(sys.executable)
    _fetch_from_index(python, inputs, "tools", [WHEELS_ONLY])
    _fetch_from_index(python, inputs, "wheels", FOR_PACKAGE)
    python = _install_tools(inputs, given.tools)
    # pip asks a package of sources what it is, and for that needs the tools.
    _fetch_from_index(python, inputs, "sdists", ["--no-binary=:all:", "--no-build-isolation"])


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _fetch_from_debian(missing: list[Source], folder: Path) -> None:
    """apt checks Debian's signatures. It uses settings of its own here, and this machine's stay as they are."""
    with tempfile.TemporaryDirectory() as state:
        apt = _apt_options(Path(state))
        _fetch(["apt-get", *apt, "update", "-qq", "--error-on=any"])
        for source in missing:
            _fetch_source(source, folder, apt)
    for source in missing:
        if (found := _sha256(folder / source.file)) != source.sha256:
            sys.exit(f"{source.file} has SHA-256 {found}, expected {source.sha256}: see {LIST}")


def _fetch_source(source: Source, folder: Path, apt: list[str]) -> None:
    """From the newest version that has the file; Debian's archives do not have all that they list."""
    offered = _offered(source.package, apt)
    part = "--tar-only" if source.is_original else "--diff-only"
    for version in reversed(offered.get(source, [])):
        command = ["apt-get", *apt, "source", "-qq", "--download-only", part, f"{source.package}={version}"]
        if subprocess.run(command, check=False, cwd=folder).returncode == 0:
            return
    there = "".join(f"\n{found.package} {found.file} {found.sha256}" for found in offered)
    _unreachable(f"{source.file}: cannot be had from Debian with the SHA-256 of {LIST.name}. Debian lists:{there}")


def _offered(package: str, apt: list[str]) -> dict[Source, list[str]]:
    """The tar files of a source package in all suites, and the versions that have each."""
    listed = subprocess.run(["apt-cache", *apt, "showsrc", package], check=False, capture_output=True, text=True).stdout
    found = defaultdict(list)
    for entry in listed.split("\n\n"):
        if version := re.search(r"^Version: (\S+)$", entry, re.M):
            for sha256, name in re.findall(r"^ ([0-9a-f]{64}) \d+ (\S+\.tar\.\w+)$", entry, re.M):
                found[Source(package, name, sha256)].append(version[1])
    return found


def _apt_options(state: Path) -> list[str]:
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(SITE)"],
        check=True,
        capture_output=True,
        text=True,
    )
    sites = {
        label: site
        for line in listed.stdout.splitlines()
        for origin, label, site in [line.split("|")]
        if origin == "Debian"
    }
    if "Debian" not in sites:
        _unreachable("apt knows no archive of Debian: run this on Debian, after `apt-get update`")
    lines = [
        f"deb-src [signed-by={KEYRING}] {site} {suite} main\n"
        for label, site in sorted(sites.items())
        for suite in SUITES.get(label, ())
    ]
    (state / "sources.list").write_text("".join(lines))
    for name in ("lists", "cache"):
        (state / name / "partial").mkdir(parents=True)
    settings = {
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": state / "lists",
        "Dir::Cache": state / "cache",
        "APT::Sandbox::User": "root",
    }
    return [f"-o{name}={value}" for name, value in settings.items()]


def _fetch_from_index(python: Path, inputs: Path, name: str, options: list[str]) -> None:
    """What the list of this name says, compared with its hashes."""
    folder, listed = inputs / name, HERE / f"{name}.txt"
    there = {_sha256(path) for path in folder.glob("*")}
    words = [word for line in listed.read_text().splitlines() for word in line.split()]
    if {word.removeprefix("--hash=sha256:") for word in words if word.startswith("--hash=")} <= there:
        return
    pip = [str(python), "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _fetch([*pip, *options, "--require-hashes", f"--requirement={listed}", f"--dest={folder}"])


def _install_tools(inputs: Path, target: Path) -> Path:
    """The Python of a virtual environment that has the tools."""
    python = target / "bin" / "python"
    if not python.exists():
        venv.create(target, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    _run([*pip, f"--find-links={inputs / 'tools'}", "--require-hashes", f"--requirement={HERE / 'tools.txt'}"])
    return python


def _fetch(command: list[str], cwd: Path | None = None) -> None:
    if subprocess.run(command, cwd=cwd, check=False).returncode:
        _unreachable(f"failed: {' '.join(command)}")


def _unreachable(words: str) -> NoReturn:
    print(f"error: {words}", file=sys.stderr)
    sys.exit(os.EX_TEMPFAIL)


def _run(command: list[str]) -> None:
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"failed: {' '.join(command)}")


if __name__ == "__main__":
    main()
