"""Makes the .deb and the .tar.gz of a staged folder: the same bytes whenever the same folder is given.

SOURCE_DATE_EPOCH is the time of every file in them.
"""

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

NAME = "skingpt-edge"
CONTROL = """\
Package: {name}
Version: {version}
Architecture: amd64
Maintainer: The SkinGPT Edge developers <skingpt-edge@example.invalid>
Installed-Size: {kilobytes}
Depends: libc6 (>= 2.28), libgcc-s1 | libgcc1, libstdc++6 (>= 8), zlib1g
Section: science
Priority: optional
Description: describes photos of skin conditions, offline
 SkinGPT-4 on a clinic's own PC, without a network and without PyTorch: a
 command, a service for other programs, and a page for touch screens. It
 brings its own Python and libraries, and a small demonstration model.
{more} .
 Not for diagnosis.
"""
FOR_GPUS = """\
 .
 This one can use NVIDIA's GPUs, too. Their driver is not part of it.
"""
SCRIPTS = Path(__file__).parent / "deb"
UNIT_PROGRAMS = ("/opt/skingpt-edge/bin/skingpt", "%h/.local/share/skingpt-edge/bin/skingpt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", type=Path)
    parser.add_argument("target", type=Path, help="the folder for both files")
    parser.add_argument("--version", required=True)
    parser.add_argument("--quick-deb", action="store_true", help="a .deb alone, less compressed, to try an upgrade")
    given = parser.parse_args()
    os.umask(0o022)  # what is made here, too, has the same modes everywhere
    given.target.mkdir(parents=True, exist_ok=True)
    time = int(os.environ["SOURCE_DATE_EPOCH"])
    if not given.quick_deb:
        make_tar(given.stage, given.target / f"{NAME}-{given.version}-linux-x86_64.tar.gz", given.version, time)
    make_deb(
        given.stage,
        given.target / f"{NAME}_{given.version}_amd64.deb",
        given.version,
        time,
        0 if given.quick_deb else 6,
    )


def make_tar(stage: Path, target: Path, version: str, time: int) -> None:
    """One folder, which runs wherever it is unpacked."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = time
        return entry

    with (
        target.open("wb") as file,
        gzip.GzipFile("", "wb", 9, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path in [stage, *sorted(stage.rglob("*"))]:
            tar.add(path, f"{NAME}-{version}/{path.relative_to(stage)}", recursive=False, filter=plain)


def make_deb(stage: Path, target: Path, version: str, time: int, level: int) -> None:
    """The same folder as /usr, with the units pointing there."""
    with tempfile.TemporaryDirectory(dir=target.parent) as root:
        usr = Path(root) / "usr"
        shutil.copytree(stage, usr, symlinks=True)
        _point_units_to(usr / "lib/systemd", "/usr/bin/skingpt")
        control = Path(root) / "DEBIAN"
        control.mkdir()
        files = sorted(path for path in usr.rglob("*") if path.is_file() and not path.is_symlink())
        kilobytes = sum(-(-path.stat().st_size // 1024) for path in files)
        more = FOR_GPUS if "+cuda" in version else ""
        (control / "control").write_text(CONTROL.format(name=NAME, version=version, kilobytes=kilobytes, more=more))
        (control / "md5sums").write_text("".join(f"{_md5(path)}  {path.relative_to(root)}\n" for path in files))
        for script in sorted(SCRIPTS.iterdir()):
            shutil.copyfile(script, control / script.name)
            (control / script.name).chmod(0o755)
        for path in [Path(root), control, *Path(root).rglob("*")]:
            os.utime(path, (time, time), follow_symlinks=False)
        Path(root).chmod(0o755)
        # xz is what the dpkg of Debian 11 reads; one thread, because more of them make other bytes.
        options = ["--root-owner-group", "-Zxz", f"-z{level}", "--threads-max=1"]
        if subprocess.run(["dpkg-deb", *options, "--build", root, str(target)], check=False).returncode:
            sys.exit("dpkg-deb failed")


def _point_units_to(units: Path, program: str) -> None:
    for unit in sorted(units.rglob("*.service")):
        text = unit.read_text()
        found = [known for known in UNIT_PROGRAMS if f"ExecStart={known} " in text]
        if len(found) != 1:
            sys.exit(f"{unit.name} starts none of {', '.join(UNIT_PROGRAMS)}")
        unit.write_text(text.replace(found[0], program))


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    main()
