"""A Debian with next to nothing in it, no network and its own processes, to install the package into."""

import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

# dpkg's own books: what was done, not what is there.
BOOKS = ("var/log/", "var/lib/dpkg/", "var/cache/debconf/")
HELD = ("proc/", "sys/", "dev/", "tmp/")


class NoDebian(Exception):
    """It could not be made."""


class EmptyDebian:
    """A folder with the packages that Debian cannot be without, seen as a machine of its own."""

    def __init__(self, folder: Path, suite: str, kept: Path | None = None) -> None:
        """Makes it with mmdebstrap, or from `kept`, a folder of what mmdebstrap made before. Raises NoDebian."""
        self.root = folder / suite
        archive = (kept or folder) / f"{suite}.tar"
        if not archive.exists():
            made = subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", suite, str(archive)], check=False)
            if made.returncode:
                archive.unlink(missing_ok=True)
                raise NoDebian(f"mmdebstrap could not fetch {suite}: can its archive be reached?")
        self.root.mkdir()
        subprocess.run(["tar", "-C", str(self.root), "--numeric-owner", "-xf", str(archive)], check=True)

    def run(self, script: str, *, user: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script as this user; it fails where a command of it fails."""
        return self._run(
            ["chroot", f"--userspec={user}:{user}", str(self.root), "/bin/sh", "-euc", script], environment
        )

    def run_beside(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script with this machine's programs, beside those of the other. $ROOT is its folder."""
        return self._run(["/bin/sh", "-euc", script], {"ROOT": str(self.root), **environment})

    def _run(self, command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        mounted = f'mount -t proc proc "{self.root}/proc" && exec "$@"'
        whole = ["unshare", "--net", "--mount", "--pid", "--fork", "sh", "-c", mounted, "sh", *command]
        variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **environment}
        return subprocess.run(whole, capture_output=True, text=True, check=False, env=variables, timeout=900)

    def put(self, path: Path, target: str) -> None:
        shutil.copy(path, self.root / target)

    def files(self) -> dict[str, tuple[object, ...]]:
        """Everything that is there by its path: kind and rights, owner, and the content's hash or a link's target."""
        found = {}
        for folder, folders, names in os.walk(self.root):
            for path in (Path(folder) / name for name in [*folders, *names]):
                name = str(path.relative_to(self.root))
                if not f"{name}/".startswith((*BOOKS, *HELD)):
                    found[name] = self._facts(path)
        return found

    def packages(self) -> set[str]:
        """What dpkg knows of each package."""
        return set((self.root / "var/lib/dpkg/status").read_text().split("\n\n"))

    @staticmethod
    def _facts(path: Path) -> tuple[object, ...]:
        facts = path.lstat()
        content = None
        if path.is_symlink():
            content = str(path.readlink())
        elif stat.S_ISREG(facts.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        return (facts.st_mode, facts.st_uid, facts.st_gid, content)
