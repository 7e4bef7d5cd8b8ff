"""Files that are written whole: their mode, what stands in their way, and what is left when it fails."""

import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from skingpt_edge.runtime.write_whole import write_whole


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_only_the_owner_can_read_it_whatever_the_umask(tmp_path, umask):
    target = tmp_path / "page.html"
    before = os.umask(umask)
    try:
        write_whole(target, b"a page")
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.read_bytes() == b"a page"
    assert list(tmp_path.iterdir()) == [target]


def test_replacing_a_file_that_others_can_read_ends_that(tmp_path):
    target = tmp_path / "page.html"
    target.write_bytes(b"old")
    target.chmod(0o644)
    write_whole(target, b"new")
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"new", 0o600)


def test_it_is_private_from_its_first_moment(tmp_path, monkeypatch):
    seen = []

    def look(descriptor: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))

    monkeypatch.setattr(os, "fchmod", lambda descriptor, _: look(descriptor))
    monkeypatch.setattr(os, "fsync", look)
    before = os.umask(0)
    try:
        write_whole(tmp_path / "page.html", b"a page")
    finally:
        os.umask(before)
    assert seen == [0o600, 0o600]


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in (f".page.html.{os.getpid()}", ".skingpt-first", "page.html"):
        (folder / name).symlink_to(victim)
    names = iter(["first", "second"])  # the first name that it tries has a link
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: names)
    write_whole(folder / "page.html", b"a page")
    assert victim.read_bytes() == b"untouched"
    assert not (folder / "page.html").is_symlink()
    assert (folder / "page.html").read_bytes() == b"a page"
    assert not (folder / ".skingpt-second").exists()


def test_a_pipe_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a device or a pipe"):
        write_whole(tmp_path / "pipe", b"a page")
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)


def test_a_file_with_the_longest_name_can_be_written(tmp_path):
    target = tmp_path / ("a" * 250 + ".html")
    write_whole(target, b"a page")
    assert target.read_bytes() == b"a page"


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_full_disk_leaves_what_was_there_before(tmp_path, old):
    target = tmp_path / "page.html"
    if old:
        target.write_bytes(old)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing on then fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    program = (
        "import sys; from pathlib import Path; from skingpt_edge.runtime.write_whole import write_whole\n"
        "try: write_whole(Path(sys.argv[1]), bytes(1_000_000))\n"
        "except OSError as error: print(error.strerror)"
    )
    command = [sys.executable, "-B", "-c", program, str(target)]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=True)
    assert result.stdout.strip() == "File too large"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([old] if old else [])


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, MemoryError])
def test_nothing_is_left_behind_by_a_failure_at_the_last_moment(tmp_path, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(error):
        write_whole(tmp_path / "page.html", b"a page")
    assert not list(tmp_path.iterdir())
