"""No connection leaves the machine: a real run under strace, in a network of its own with the loopback up.

ONNX Runtime opens its first connections about 9 seconds after it is imported, so a run is watched for more than
40. The same check on a run without the switch shows that it can fail.
"""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import GOLDEN

SECONDS = 45
ISOLATED = ["unshare", "--user", "--map-root-user", "--net"]
TOOLS = ["strace", "unshare", "ip"]
WITHOUT_SWITCH = (
    "import os, sys, skingpt_edge.runtime.cli as cli;"
    "os.environ.pop('ORT_DISABLE_TELEMETRY', None);"
    "sys.exit(cli.main(sys.argv[1:]))"
)


def can_trace() -> bool:
    if not all(map(shutil.which, TOOLS)):
        return False
    return (
        subprocess.run([*ISOLATED, "strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode
        == 0
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A chat that is left open, as a user runs it and without the switch, both watched at the same time."""
    with_switch = [str(Path(sys.executable).with_name("skingpt"))]
    started = {
        name: start(command, tmp_path_factory.mktemp(name))
        for name, command in {"real": with_switch, "red": [sys.executable, "-c", WITHOUT_SWITCH]}.items()
    }
    time.sleep(SECONDS)
    results = {}
    for name, (process, folder) in started.items():
        assert process.poll() is None, process.communicate()
        output, _ = process.communicate("\n", timeout=300)
        assert process.returncode == 0
        results[name] = (output, (folder / "trace").read_text(errors="replace"), folder / "home")
    return results


def start(command, folder):
    home = folder / "home"
    home.mkdir()
    inside = ["sh", "-c", 'ip link set lo up && exec "$0" "$@"']
    strace = ["strace", "-f", "-qq", "-e", "trace=socket,connect,sendto,sendmsg,bind", "-o", folder / "trace"]
    chat = ["chat", GOLDEN / "images/00.jpg", "--max-new-tokens", "40"]
    process = subprocess.Popen(
        list(map(str, [*ISOLATED, *inside, *strace, *command, *chat])),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={"HOME": str(home), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write("What is this?\n")
    process.stdin.flush()
    return process, folder


def sockets(trace: str) -> list[str]:
    """Calls that open or use a connection to anything but this process's own kind on this machine."""
    return [line for line in trace.splitlines() if re.search(r"\b(socket|connect)\(", line) and "AF_UNIX" not in line]


def telemetry_files(home: Path) -> list[Path]:
    return list((home / ".cache" / "Microsoft").rglob("*"))


pytestmark = [pytest.mark.trace, pytest.mark.skipif(not can_trace(), reason="needs strace, ip and user namespaces")]


def test_a_real_run_opens_no_connection_and_leaves_no_device_id(runs):
    output, trace, home = runs["real"]
    assert "Not for diagnosis" in output
    assert sockets(trace) == []
    assert telemetry_files(home) == []
    written = {path.parts[0] for path in (p.relative_to(home / ".cache") for p in (home / ".cache").iterdir())}
    assert written == {"skingpt-edge"}


def test_the_check_turns_red_without_the_switch(runs):
    output, trace, home = runs["red"]
    assert "Not for diagnosis" in output
    assert sockets(trace) != []
    assert telemetry_files(home) != []
