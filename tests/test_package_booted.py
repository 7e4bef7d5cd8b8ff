"""The .deb where systemd runs: its service starts with the machine's own unit, and its scripts see to it."""

import json
import os
import subprocess
import sys

import pytest
from booted_debian import boot, missing
from empty_debian import NoDebian
from test_package import DEB, LINUX, PICTURES, STAGE, VERSION, built, run

SUITE = "bookworm"
NEWER = f"{VERSION}+1"
LIVE = """
ready() {
    curl -sf --retry 120 --retry-connrefused --retry-delay 1 -o /dev/null http://127.0.0.1:8077/readyz
}
state() {
    echo "$1: $(systemctl is-active skingpt-edge) $(systemctl is-enabled skingpt-edge)"
}
number() {
    systemctl show -P MainPID skingpt-edge
}

dpkg -i /root/OLD >&2
state installed
systemctl enable --now skingpt-edge >&2
ready
state enabled
first=$(number)
token=$(cat /var/lib/private/skingpt-edge/token)
curl -sf -H "Authorization: Bearer $token" -H 'Content-Type: image/jpeg' -H 'Accept: application/json' \\
    --data-binary @/root/PICTURE http://127.0.0.1:8077/v1/reports > /root/report.json
cat /root/report.json
echo
[ "$(ps -o uid= -p "$first")" -gt 0 ] && echo 'a user without rights'

dpkg -i /root/NEW >&2
ready
state upgraded
second=$(number)
[ "$first" != "$second" ] && echo 'another process'
[ "$token" = "$(cat /var/lib/private/skingpt-edge/token)" ] && echo 'the same token'
systemctl reload skingpt-edge
sleep 1
state reloaded

dpkg -r skingpt-edge >&2
state removed || true
pgrep -f skingpt || echo 'no process'
[ -e /var/lib/private/skingpt-edge/token ] && echo 'the token is kept'
dpkg -P skingpt-edge >&2
[ -e /var/lib/private/skingpt-edge ] || echo 'nothing is kept'
systemctl --failed --no-legend
"""


@built
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(bool(missing()), reason=f"needs {', '.join(missing())}")
def test_the_scripts_of_the_package_start_restart_and_stop_the_service(tmp_path):
    archive = [sys.executable, str(LINUX / "archive.py"), str(STAGE), str(tmp_path), "--version", NEWER, "--quick-deb"]
    subprocess.run(archive, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "0"})
    newer = tmp_path / f"skingpt-edge_{NEWER}_amd64.deb"
    script = LIVE.replace("OLD", DEB.name).replace("NEW", newer.name).replace("PICTURE", PICTURES[0].name)
    try:
        status, said, errors = boot(tmp_path, SUITE, [DEB, newer, PICTURES[0]], script)
    except NoDebian as error:
        pytest.skip(str(error))
    assert status == 0, f"{said}\n{errors}"
    lines = said.splitlines()
    (report,) = (json.loads(line) for line in lines if line.startswith("{"))
    here = json.loads(run("skingpt", "diagnose", PICTURES[0], "--json").stdout)
    assert [turn["token_ids"] for turn in report["turns"]] == [turn["token_ids"] for turn in here["turns"]]
    assert [line for line in lines if not line.startswith("{")] == [
        "installed: inactive disabled",
        "enabled: active enabled",
        "a user without rights",
        "upgraded: active enabled",
        "another process",
        "the same token",
        "reloaded: active enabled",
        "removed: inactive ",
        "no process",
        "the token is kept",
        "nothing is kept",
    ]
