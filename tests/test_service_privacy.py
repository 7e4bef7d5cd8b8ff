"""Nothing of a patient leaves the service's memory: a real service under strace, in a network of its own.

Two sessions are watched at the same time. In the second one, ONNX Runtime is imported with its telemetry on, so that
checks are seen to fail. By hand, with 200 requests and 20 killed workers: `SKINGPT_PRIVACY_REQUESTS=200 pytest
tests/test_service_privacy.py`.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from private_session import CANARIES, pictures
from service import PICTURES, RunningService, running, until
from support import encode
from test_no_telemetry import ISOLATED, can_trace

REQUESTS = int(os.environ.get("SKINGPT_PRIVACY_REQUESTS", "15"))
KILLS = max(2, REQUESTS // 10)
SECONDS = 20  # ONNX Runtime's telemetry opens its first connections 9 seconds after it was imported
traced = [pytest.mark.trace, pytest.mark.skipif(not can_trace(), reason="needs strace, ip and user namespaces")]

WRITTEN = {
    "/dev/null",
    "kept/token",
    "kept/cache/skingpt-edge",
    "kept/cache/skingpt-edge/verified",
    "kept/cache/skingpt-edge/verified/*",
    "kept/tmp",  # a file without a name
    "kept/tmp/*",
}
"""All that is ever made or written: the token, a note that the bundle was verified, and for its self-test, before there
is any patient, temporary files."""
PROMPT = {"kept/cache/skingpt-edge/prompts", "kept/cache/skingpt-edge/prompts/*"}
"""The computed beginning of the prompt, where computing it takes long."""


@dataclass(frozen=True)
class Session:
    folder: Path
    trace: str
    found: dict[str, Any]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory) -> dict[str, Session]:
    """A session as users run it, and one whose telemetry is on."""
    leak = tmp_path_factory.mktemp("leak")
    switched_on = "import os\nos.environ.pop('ORT_DISABLE_TELEMETRY', None)\nimport onnxruntime\n"
    (leak / "sitecustomize.py").write_text(switched_on)
    red = {"PYTHONPATH": str(leak)}
    started = {
        "real": start(tmp_path_factory.mktemp("real"), REQUESTS, KILLS),
        "red": start(tmp_path_factory.mktemp("red"), 3, 1, **red),
    }
    found = {}
    for name, (process, folder) in started.items():
        output, _ = process.communicate(timeout=1800)
        assert process.returncode == 0, output
        trace = (folder / "trace").read_text(errors="replace")
        found[name] = Session(folder, trace, json.loads((folder / "found.json").read_text()))
    return found


def start(folder: Path, requests: int, kills: int, **environment: str) -> tuple[subprocess.Popen[str], Path]:
    inside = ["sh", "-c", 'ip link set lo up && exec "$0" "$@"', sys.executable]
    program = Path(__file__).with_name("private_session.py")
    command = [*ISOLATED, *inside, program, folder, requests, kills, SECONDS]
    plain = {"PATH": os.environ["PATH"], **environment}
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=plain
    ), folder


# What the checks look for.


def outside(trace: str) -> list[str]:
    """Network calls to anything but this machine, and any socket of a kind that can do so."""
    calls = [line for line in trace.splitlines() if re.match(r"\d+ +(socket|connect|bind|send\w+|io_uring\w+)\(", line)]
    return [line for line in calls if not allowed(line)]


def allowed(call: str) -> bool:
    families = set(re.findall(r"\b(?:A|P)F_\w+", call))
    addresses = set(re.findall(r'inet_addr\("([^"]+)"\)', call))
    connects = "connect(" in call and families != {"AF_UNIX"}
    return not connects and "io_uring" not in call and families <= {"AF_UNIX", "AF_INET"} and addresses <= {"127.0.0.1"}


def written(session: Session) -> set[str]:
    """What was made, or opened to be written to, by any process; names that differ from run to run as `*`."""
    found = set()
    for line in session.trace.splitlines():
        call = re.match(r"\d+ +(\w+)\((.*)", line)
        if not call or " = -1 " in line:
            continue
        name, given = call.groups()
        if re.match("open|creat$", name) and not re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)", given):
            continue
        if re.match("open|creat$|mkdir|rename|link|symlink|mknod", name):
            paths = re.findall(r'(?:<([^>]+)>, )?"((?:[^"\\]|\\.)*)"', given)
            found |= {os.path.normpath(Path(folder or "/") / path) for folder, path in paths}
    return {general(path, session.folder) for path in found}


def general(path: str, folder: Path) -> str:
    short = path.removeprefix(f"{folder}/")
    return re.sub(r"^(kept/(cache/skingpt-edge/\w+|tmp))/.+", r"\1/*", short)


def secrets_in(folder: Path, secrets: set[bytes]) -> dict[str, set[bytes]]:
    """Files below a folder that hold any of these, or have it in their name."""
    found = {}
    for path in folder.rglob("*"):
        data = os.fsencode(path.name) + (path.read_bytes() if path.is_file() else b"")
        if held := {secret for secret in secrets if secret in data}:
            found[str(path)] = held
    return found


def secrets_of(session: Session) -> set[bytes]:
    """The canaries, what the model said, and pieces of the pictures' files as such and in base64."""
    found = {canary.encode() for canary in CANARIES.values()} | {
        answer[:30].encode() for answer in session.found["answers"]
    }
    for picture in pictures().values():
        found |= {picture[600:632], base64.b64encode(picture)[900:940]}
    return found


# What they find.


class TestWatched:
    """The real session, and the one that leaks."""

    pytestmark = traced

    def test_the_session_went_as_planned(self, sessions):
        for name, requests, kills in (("real", REQUESTS, KILLS), ("red", 3, 1)):
            found = sessions[name].found
            assert found["exit"] == 0
            assert len(found["statuses"]) > requests
            assert set(found["statuses"]) <= {200, 201, 204, 400, 404, 415, 422, 500, 503}
            assert found["events"].count("worker_restarts") == kills
        assert len(sessions["real"].found["answers"]) >= 4
        assert sessions["real"].found["statuses"].count(200) > REQUESTS / 3

    def test_nothing_is_sent_to_another_machine(self, sessions):
        assert outside(sessions["real"].trace) == []
        assert len(re.findall(r"\bbind\(.*AF_INET.*127\.0\.0\.1", sessions["real"].trace)) == 2  # check, and start

    def test_the_check_turns_red_with_telemetry(self, sessions):
        assert outside(sessions["red"].trace) != []

    def test_the_written_files_are_a_fixed_list(self, sessions):
        assert written(sessions["real"]) - PROMPT == WRITTEN
        assert not written(sessions["red"]) - PROMPT <= WRITTEN  # telemetry's

    def test_no_file_holds_anything_of_a_patient(self, sessions):
        real = sessions["real"]
        secrets = secrets_of(real)
        assert len(secrets) >= len(CANARIES) + 4 + 4
        assert secrets_in(real.folder / "kept", secrets) == {}
        assert {path.name for path in (real.folder / "kept").iterdir()} == {"cache", "home", "log", "tmp", "token"}
        assert list((real.folder / "kept/tmp").iterdir()) == list((real.folder / "kept/home").iterdir()) == []

    def test_the_search_finds_what_is_there(self, sessions, tmp_path):
        for number, secret in enumerate(secrets_of(sessions["real"])):
            (tmp_path / str(number)).write_bytes(os.urandom(1000) + secret + os.urandom(1000))
        assert len(secrets_in(tmp_path, secrets_of(sessions["real"]))) == number + 1

    def test_no_process_leaves_a_core_dump(self, sessions):
        real = sessions["real"]
        assert len(real.found["core"]) == 3
        assert {line.strip() for line in real.found["core"]} == {"Max core file size 0 0 bytes"}
        dumpable = re.findall(r"(?m)^(\d+) +prctl\(PR_SET_DUMPABLE, SUID_DUMP_DISABLE", real.trace)
        workers = real.found["events"].count("worker_started") + real.found["events"].count("decoder_started")
        assert len(set(dumpable)) == 1 + workers


def reads_environment(pid: int, before: list[str]) -> bool:
    """Whether another process of this user can look into a process."""
    program = f"open('/proc/{pid}/environ', 'rb').read(1)"
    return subprocess.run([*before, sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_other_programs_of_the_same_user_cannot_read_its_memory(tmp_path):
    # Root's capabilities let it read everything: all take part without them.
    before = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if not before or (shutil.which("setpriv") and subprocess.run([*before, "true"], check=False).returncode == 0):
        with subprocess.Popen([*before, "sleep", "180"]) as plain:
            until(lambda: reads_environment(plain.pid, before))  # setpriv has given its place to the program
            plain.kill()
        with running(tmp_path, before=before) as service:
            pids = [line["pid"] for line in service.log if line["event"] in ("decoder_started", "worker_ready")]
            for pid in (service.process.pid, *pids):
                assert not reads_environment(pid, before)
            assert service.stop() == 0
    else:
        pytest.skip("needs setpriv")


# Wiped when it is asked for, and after a while.


def ask(service: RunningService, conversation: str) -> int:
    """The status of a follow-up."""
    body = json.dumps({"question": "What is this?", "max_new_tokens": 8}).encode()
    kind = {"content_type": "application/json", "accept": "application/json"}
    return service.request("POST", f"/v1/conversations/{conversation}/questions", body, **kind)[0]


def report(service: RunningService, photo: bytes) -> tuple[str, bool]:
    """The conversation of a new report, and whether the photo's embeddings were still there."""
    kind = {"content_type": "image/png", "accept": "application/json"}
    status, headers, body = service.request("POST", "/v1/reports", photo, **kind)
    assert status == 200, body
    return headers["x-conversation-id"], json.loads(body)["image"]["cached"]


def own_photo(number: int) -> bytes:
    """One that no other test has sent."""
    with Image.open(PICTURES[number]) as picture:
        return encode(picture.rotate(180), "PNG")


def test_a_deleted_conversation_is_gone_and_its_photo_is_encoded_anew(service):
    photo = own_photo(1)
    first, second = report(service, photo), report(service, photo)
    assert (first[1], second[1]) == (False, True)
    assert service.request("DELETE", f"/v1/conversations/{first[0]}")[0] == 204
    assert [ask(service, conversation) for conversation, _ in (first, second)] == [404, 200]
    assert service.request("DELETE", f"/v1/conversations/{first[0]}")[0] == 404
    time.sleep(1)
    third = report(service, photo)
    assert third[1]  # another conversation still had it
    for conversation, _ in (second, third):
        assert service.request("DELETE", f"/v1/conversations/{conversation}")[0] == 204
    time.sleep(1)  # it is wiped when nothing is being generated
    assert not report(service, photo)[1]


def test_a_conversation_that_nobody_goes_on_with_is_wiped(tmp_path):
    with running(tmp_path, "--idle-minutes", "0.05") as service:
        photo = own_photo(2)
        conversation, _ = report(service, photo)
        end = time.monotonic() + 60
        while "skingpt_conversations 0.0" not in service.request("GET", "/metrics")[2].decode():
            assert time.monotonic() < end
            time.sleep(0.2)
        assert ask(service, conversation) == 404
        time.sleep(1)
        assert not report(service, photo)[1]
        assert service.stop() == 0
