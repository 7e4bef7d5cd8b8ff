"""Times what a person does between the file on a stick and the first report.

usage: python tests/first_report.py PACKAGE [SUITE]

PACKAGE is the .deb or the .tar.gz that `make package` made. It is used in a new, empty Debian without a network, with
the commands of docs/install.md. KEPT_DEBIANS names a folder that keeps empty Debians. Needs root and mmdebstrap.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from empty_debian import EmptyDebian

PHOTO = Path(__file__).parents[1] / "runtime/demo/pictures/01-velora-light-skin.jpg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("suite", nargs="?", default="bullseye")
    given = parser.parse_args()
    kept = os.environ.get("KEPT_DEBIANS")
    total = 0.0
    with tempfile.TemporaryDirectory() as folder:
        debian = EmptyDebian(Path(folder), given.suite, Path(kept) if kept else None)
        (debian.root / "media").mkdir(exist_ok=True)
        debian.put(given.package, "media")
        debian.put(PHOTO, "media/photo.jpg")
        print(f"{given.package.name} in an empty Debian, {given.suite}:")
        for command in commands(given.package.name):
            start = perf_counter()
            done = debian.run(f"cd /media; {command}")
            seconds = perf_counter() - start
            if done.returncode:
                sys.exit(f"failed: {command}\n{done.stderr}")
            print(f"{seconds:7.1f} s  {command}")
            total += seconds
    print(f"{total:7.1f} s  in all, and the last command has printed the report")


def commands(name: str) -> list[str]:
    """What is typed. Nobody need type `sudo` here, where root does it."""
    if name.endswith(".deb"):
        return [f"dpkg -i {name}", "skingpt diagnose photo.jpg"]
    return [f"tar -xf {name}", f"{name.removesuffix('-linux-x86_64.tar.gz')}/bin/skingpt diagnose photo.jpg"]


if __name__ == "__main__":
    main()
