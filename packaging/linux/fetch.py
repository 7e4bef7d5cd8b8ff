"""Gets everything that the package is made of into one folder, each file as its SHA-256 says, and installs the tools.

Sources come from Debian, wheels from the package index that pip is set up for. What is there already is not fetched
again, so that a second build needs no network.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Wheels for the Python of the package, which need no glibc newer than 2.28.
TARGET = ["--python-version=3.13", "--implementation=cp", "--abi=cp313", "--abi=abi3", "--abi=none"]
PLATFORMS = ("any", "manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_27_x86_64", "manylinux_2_28_x86_64")
WHEELS_ONLY = "--only-binary=:all:"


@dataclass(frozen=True)
class Source:
    """A line of debian-sources.txt."""

    suite: str
    package: str
    version: str
    file: str
    sha256: str


def sources() -> list[Source]:
    lines = (HERE / "debian-sources.txt").read_text().splitlines()
    return [Source(*line.split()) for line in lines if line and not line.startswith("#")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", type=Path, help="the folder for what is fetched")
    parser.add_argument("tools", type=Path, help="the virtual environment for compiler and other tools")
    given = parser.parse_args()
    inputs: Path = given.inputs
    inputs.mkdir(parents=True, exist_ok=True)
    missing = [source for source in sources() if _sha256(inputs / source.file) != source.sha256]
    if missing:
        _fetch_from_debian(missing, inputs)
    python = Path(sys.executable)
    _fetch_from_index(python, inputs, "tools", [WHEELS_ONLY])
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    _fetch_from_index(python, inputs, "wheels", [WHEELS_ONLY, *TARGET, *platforms])
    python = _install_tools(inputs, given.tools)
    # pip asks a package of sources what it is, and for that needs the tools.
    _fetch_from_index(python, inputs, "sdists", ["--no-binary=:all:", "--no-build-isolation"])


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _fetch_from_debian(missing: list[Source], folder: Path) -> None:
    """apt checks Debian's signatures. It uses settings of its own here, and this machine's stay as they are."""
    with tempfile.TemporaryDirectory() as state:
        apt = _apt_options(Path(state), sorted({source.suite for source in missing}))
        _run(["apt-get", *apt, "update", "-qq"])
        for name, version in sorted({(source.package, source.version) for source in missing}):
            for part in ("--tar-only", "--diff-only"):
                if any(
                    source.package == name and (".orig." in source.file) == (part == "--tar-only") for source in missing
                ):
                    _run(["apt-get", *apt, "source", "-qq", "--download-only", part, f"{name}={version}"], cwd=folder)
    for source in missing:
        if (found := _sha256(folder / source.file)) != source.sha256:
            sys.exit(f"{source.file} has SHA-256 {found}, expected {source.sha256}: see {HERE}/debian-sources.txt")


def _apt_options(state: Path, suites: list[str]) -> list[str]:
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(SITE)"],
        check=True,
        capture_output=True,
        text=True,
    )
    sites = sorted({line.split()[-1] for line in listed.stdout.splitlines() if line.startswith("Debian Debian ")})
    if not sites:
        sys.exit("apt knows no archive of Debian: run this on Debian, after `apt-get update`")
    lines = [f"deb-src [signed-by={KEYRING}] {sites[0]} {suite} main\n" for suite in suites]
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
    _run([*pip, *options, "--require-hashes", f"--requirement={listed}", f"--dest={folder}"])


def _install_tools(inputs: Path, target: Path) -> Path:
    """The Python of a virtual environment that has the tools."""
    python = target / "bin" / "python"
    if not python.exists():
        venv.create(target, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    _run([*pip, f"--find-links={inputs / 'tools'}", "--require-hashes", f"--requirement={HERE / 'tools.txt'}"])
    return python


def _run(command: list[str], cwd: Path | None = None) -> None:
    if subprocess.run(command, cwd=cwd, check=False).returncode:
        sys.exit(f"failed: {' '.join(command)}")


if __name__ == "__main__":
    main()
