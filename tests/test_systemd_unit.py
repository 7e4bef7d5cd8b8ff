"""The systemd units are valid and strict, the service tells systemd how it is, and it uses nothing that they forbid.

No systemd runs here: what the sandbox forbids is compared with the system calls of a real run, and the parts of it that
the kernel can do for any process are switched on for that run.
"""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import pytest
import service as support
from service import RunningService, running
from skingpt_edge.benchmarks.tools.install_kills import can_trace
from support import ROOT

UNITS = ROOT / "packaging" / "systemd"
NAMES = ["system", "user", "user with namespaces"]
MOST_EXPOSED = {"system": 1.2, "user": 6.3, "user with namespaces": 3.8}
"""The score of `systemd-analyze security`, 0 to 10. It takes a user's service for one of root."""
TOLERATED = {"mbind", "set_mempolicy"}
"""System calls that libraries try and can do without: they are made to fail, as in the unit."""
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1

needs_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")


def unit_folder(folder: Path, name: str) -> Path:
    """A copy of a unit, whose command is one that is there."""
    target = folder / "units"
    shutil.copytree(UNITS / name.partition(" ")[0], target)
    if name == "user":
        shutil.rmtree(target / "skingpt-edge.service.d")
    unit = target / "skingpt-edge.service"
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={support.SKINGPT}", unit.read_text()))
    return unit


def analyze(folder: Path, name: str, *command: str) -> subprocess.CompletedProcess[str]:
    unit = unit_folder(folder, name)
    scope = ["--user"] if name.startswith("user") and command[0] == "verify" else []
    return subprocess.run(
        ["systemd-analyze", *scope, *command, unit], capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder), "SYSTEMD_COLORS": "0"},
    )  # fmt: skip


@needs_analyze
@pytest.mark.parametrize("name", NAMES)
def test_a_unit_is_valid(tmp_path, name):
    result = analyze(tmp_path, name, "verify", "--man=no")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")  # a wrong key is only warned of


@needs_analyze
@pytest.mark.parametrize("name", NAMES)
def test_a_unit_exposes_little(tmp_path, name):
    result = analyze(tmp_path, name, "security", "--offline=yes", "--no-pager")
    score = re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    assert score, result.stdout + result.stderr
    assert float(score[1]) <= MOST_EXPOSED[name], result.stdout


def test_both_units_start_watch_and_stop_alike():
    """What the second unit has twice would otherwise be changed in one of them alone."""
    common = (
        "Type",
        "Timeout",
        "Watchdog",
        "KillMode",
        "Restart",
        "OOM",
        "UMask",
        "Limit",
        "Memory",
        "Tasks",
        "System",
    )
    texts = [(UNITS / name / "skingpt-edge.service").read_text().splitlines() for name in ("system", "user")]
    first, second = ([line for line in text if line.startswith(common)] for text in texts)
    assert first == second and len(first) > 12


# What systemd hears.


class Systemd:
    """In systemd's place: a socket, and all that came."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self._came: Queue[str] = Queue()

    def __enter__(self) -> "Systemd":
        Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self) -> None:
        with suppress(OSError):  # closed meanwhile
            while data := self._socket.recv(1000):
                self._came.put(data.decode())

    def hears(self, last: str, seconds: float = 60) -> list[str]:
        """All messages up to one with `last`. Raises Empty."""
        found = [""]
        while last not in found[-1]:
            found.append(self._came.get(timeout=seconds))
        return found[1:]


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_of_the_start_of_life_and_of_the_end(tmp_path, abstract):
    address = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    with Systemd(address) as systemd, running(tmp_path, NOTIFY_SOCKET=address) as service:
        start = systemd.hears("READY=1")
        assert all(line.startswith("EXTEND_TIMEOUT_USEC=") for line in start[:-1])
        assert start[-2:-1] == ["EXTEND_TIMEOUT_USEC=30000000"]
        assert start[-1] == "READY=1\nSTATUS=Ready"
        assert systemd.hears("WATCHDOG=1") == systemd.hears("WATCHDOG=1") == ["WATCHDOG=1"]
        assert service.stop() == 0
        assert set(systemd.hears("STOPPING=1")) <= {"WATCHDOG=1", "STOPPING=1"}


def test_a_bundle_that_is_checked_for_the_first_time_gets_more_time(tmp_path):
    address = str(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": address, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with Systemd(address) as systemd, running(tmp_path, **environment) as service:
        start = systemd.hears("READY=1")
        assert start.index("EXTEND_TIMEOUT_USEC=60000000") < start.index("EXTEND_TIMEOUT_USEC=900000000")
        assert service.stop() == 0


def test_a_service_that_is_stopped_while_it_loads_never_says_that_it_is_ready(tmp_path):
    with Systemd(str(tmp_path / "notify")) as systemd:
        (tmp_path / "sitecustomize.py").write_text(support.STOPS_LOADING)
        service = RunningService(tmp_path, NOTIFY_SOCKET=systemd.address, PYTHONPATH=str(tmp_path))
        support.until(lambda: "worker_started" in [line["event"] for line in service.log])
        systemd.hears("EXTEND_TIMEOUT")
        assert service.stop() == 0
        assert set(systemd.hears("STOPPING=1")[:-1]) <= {"EXTEND_TIMEOUT_USEC=30000000"}
        with pytest.raises(Empty):
            systemd.hears("READY=1", seconds=0.2)


def test_a_loop_that_hangs_gives_no_sign_of_life(tmp_path):
    with Systemd(str(tmp_path / "notify")) as systemd, running(tmp_path, NOTIFY_SOCKET=systemd.address) as service:
        systemd.hears("WATCHDOG=1")
        service.process.send_signal(signal.SIGSTOP)
        with pytest.raises(Empty):
            systemd.hears("WATCHDOG=1", seconds=7)  # it comes every 5
        service.process.send_signal(signal.SIGCONT)
        systemd.hears("WATCHDOG=1")
        assert service.stop() == 0


def test_requests_are_answered_while_systemd_takes_nothing(tmp_path):
    """A socket has room for a few messages only."""
    systemd = Systemd(str(tmp_path / "notify"))
    with running(tmp_path, NOTIFY_SOCKET=systemd.address) as service:
        service.report()
        with systemd:
            systemd.hears("READY=1")  # sent again until it was taken
        assert service.stop() == 0


# What the sandbox forbids.


def allowed_calls() -> set[str]:
    """The system calls that the unit allows."""
    allowed: set[str] = set()
    for groups in re.findall(r"(?m)^SystemCallFilter=(.*)$", (UNITS / "system/skingpt-edge.service").read_text()):
        calls = set().union(*(calls_of(group) for group in groups.lstrip("~").split()))
        allowed = allowed - calls if groups.startswith("~") else allowed | calls
    return allowed | calls_of("@default")


def calls_of(group: str) -> set[str]:
    if not group.startswith("@"):
        return {group}
    shown = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True)
    names = [line.strip() for line in shown.stdout.splitlines()[1:] if line.strip() and "#" not in line]
    return set().union(*(calls_of(name) for name in names))


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> str:
    """Every system call of a service that starts, answers, loses a worker, and stops, without what the unit forbids."""
    if not (can_trace() and shutil.which("systemd-analyze")):
        pytest.skip("needs strace and systemd-analyze, and may not be traced itself")
    if ctypes.CDLL(None).prctl(66, 0, 0, 0, 0) < 0:  # PR_GET_MDWE
        pytest.skip("needs Linux 6.3: it refuses writable and executable memory")
    folder = tmp_path_factory.mktemp("sandbox")
    forbid = "import ctypes, os, sys; p = ctypes.CDLL(None).prctl; "
    forbid += f"p(38, 1, 0, 0, 0); p({PR_SET_MDWE}, {REFUSE_EXEC_GAIN}, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    strace = ["strace", "-D", "-f", "-qq", "-o", str(folder / "trace")]
    for call in TOLERATED:
        strace += ["-e", f"inject={call}:error=EPERM"]
    before = [sys.executable, "-c", forbid, shutil.which("strace") or "", *strace[1:]]
    with running(folder, before=before, XDG_CACHE_HOME=str(folder / "cache")) as service:
        service.report()
        service.kill_worker()
        service.report()
        assert service.stop() == 0
    return (folder / "trace").read_text(errors="replace")


def test_the_service_needs_no_system_call_that_the_unit_forbids(trace):
    used = set(re.findall(r"(?m)^\d+ +(\w+)\(", trace))
    assert used >= {"execve", "socket", "accept4", "clone3"}
    allowed = allowed_calls()
    assert used - allowed <= TOLERATED
    assert not allowed & {"reboot", "ptrace", "setuid", "mount", *TOLERATED}


def test_it_works_without_writable_and_executable_memory(trace):
    asked = re.findall(r"(?:mmap|mprotect)\(.*PROT_WRITE\|PROT_EXEC.* = .*", trace)
    assert [line for line in asked if "EACCES" not in line] == []  # and it answered all the same


def test_it_needs_no_address_family_that_the_unit_forbids(trace):
    text = (UNITS / "system/skingpt-edge.service").read_text()
    allowed = set(re.findall(r"AF_\w+", re.findall(r"(?m)^RestrictAddressFamilies=(.*)$", text)[0]))
    used = set(re.findall(r"\bsocket\((AF_\w+)", trace)) | set(re.findall(r"\bsocketpair\((AF_\w+)", trace))
    assert used == allowed == {"AF_UNIX", "AF_INET"}


def test_nothing_is_started_but_python(trace):
    started = set(re.findall(r'\bexecve\("([^"]+)".* = 0', trace))
    pythons = {"python", "python3", f"python3.{sys.version_info.minor}"}
    assert {Path(path).name for path in started} <= {"skingpt", *pythons}
