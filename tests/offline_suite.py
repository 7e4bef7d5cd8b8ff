"""Run the tests in a network of their own, and say whether any program tried to reach another machine.

`python tests/offline_suite.py [pytest options]`, as root, with strace and ip. Nothing but the machine itself is in that
network, and every attempt to send something is traced. First one connection is opened on purpose: if the trace does not
show it, the trace shows nothing.

Two files are left out, because they trace programs themselves: test_service_privacy.py and test_no_telemetry.py.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTROL = "192.0.2.1"  # an address of no machine (RFC 5737)
# The browser of the kiosk page's tests asks the kernel whether there is a way to this address of its maker's, by
# connecting a datagram socket. That sends nothing. No option that would leave it out was found.
PROBE = "2001:4860:4860::8888"
CALLS = "connect,sendto,sendmsg,sendmmsg"
SIGNS = ("--seccomp-bpf", "-f", "-qq", "-s", "0", "-e", f"trace={CALLS}")
TRACED = ("test_service_privacy.py", "test_no_telemetry.py")
KNOCK = f"""
import socket
try:
    socket.create_connection(("{CONTROL}", 80), 1)
except OSError:
    pass
"""


def addresses(trace: Iterable[str]) -> Counter[str]:
    """How often each internet address was called or sent to."""
    found: Counter[str] = Counter()
    for line in trace:
        found.update(re.findall(r'inet_addr\("([^"]+)"\)', line))
        found.update(re.findall(r'inet_pton\(AF_INET6, "([^"]+)"', line))
    return found


def main(options: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        trace, knock = Path(folder) / "trace", Path(folder) / "knock.py"
        knock.write_text(KNOCK)
        left_out = [f"--ignore={ROOT / 'tests' / name}" for name in TRACED]
        tests = [sys.executable, "-m", "pytest", *left_out, *options]
        inside = ["sh", "-c", '"$0" "$1"; shift; exec "$@"', sys.executable, str(knock), *tests]
        prepare = 'ip link set lo up && exec "$@"'
        command = ["unshare", "--net", "sh", "-c", prepare, "-", "strace", *SIGNS, "-o", str(trace), *inside]
        offline = {**os.environ, "npm_config_offline": "true"}  # npm takes what it has fetched before
        status = subprocess.run(command, cwd=ROOT, env=offline, check=False).returncode
        with trace.open(errors="replace") as lines:
            found = addresses(lines)
    elsewhere = {address: count for address, count in found.items() if not ip_address(address).is_loopback}
    here = sum(found.values()) - sum(elsewhere.values())
    print(f"{here} calls to this machine; to others: {elsewhere}, of which {CONTROL} was on purpose")
    print(f"{elsewhere.pop(PROBE, 0)} times the tests' browser has looked for a way to {PROBE}, which sends nothing")
    if elsewhere != {CONTROL: 1}:
        print("expected nothing but the one on purpose")
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
