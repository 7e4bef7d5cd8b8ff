"""`skingpt serve` as a user meets it: what it refuses and how, how it stops, and what it leaves behind."""

import base64
import http.client
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from service import (
    PHOTO,
    SKINGPT,
    SLOW_STEPS,
    STOPS_LOADING,
    RunningService,
    free_port,
    parse_events,
    running,
    until,
)
from skingpt_edge.engines.errors import InputError
from skingpt_edge.runtime.bundle import default_bundle
from skingpt_edge.runtime.machine import process_family
from skingpt_edge.runtime.serve.logs import FIELDS
from skingpt_edge.runtime.serve.problems import STATUS
from skingpt_edge.runtime.serve.token_file import check_token, get_token
from support import ROOT, run

LONG_ANSWER = json.dumps(
    {"question": "What is this?", "max_new_tokens": 400, "temperature": 2.0, "top_p": 1.0, "seed": 3}
).encode()
TOKEN = "t" * 40


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """Options with which nothing is wrong."""
    return ["--port", str(free_port()), "--token-file", str(tmp_path / "token")]


def refused(*options: str) -> tuple[int, list[str]]:
    """Exit code and lines of `skingpt serve`, which must be those of `--check`."""
    checked, started = (run("skingpt", "serve", *options, *more) for more in (["--check"], []))
    assert checked.stdout == started.stdout == ""
    assert (checked.returncode, checked.stderr) == (started.returncode, started.stderr)
    return started.returncode, started.stderr.splitlines()


@contextmanager
def listening(path: Path | None = None) -> Iterator[int]:
    """Another program's socket; its port."""
    family, address = (socket.AF_UNIX, str(path)) if path else (socket.AF_INET, ("127.0.0.1", 0))
    with socket.socket(family) as taken:
        taken.bind(address)
        taken.listen()
        yield 0 if path else taken.getsockname()[1]


# What it refuses.


def damaged_bundle(folder: Path) -> Path:
    bundle = folder / "bundle"
    shutil.copytree(default_bundle(), bundle)
    weights = max(bundle.iterdir(), key=lambda file: file.stat().st_size)
    with weights.open("r+b") as file:
        file.seek(1000)
        file.write(b"damaged!")
    return bundle


def test_a_bundle_that_is_missing_or_damaged_ends_with_4(tmp_path, arguments):
    code, lines = refused(str(tmp_path / "none"), *arguments)
    assert (code, len(lines)) == (4, 1) and "none" in lines[0]
    code, lines = refused(str(damaged_bundle(tmp_path)), *arguments)
    assert (code, len(lines)) == (4, 1) and "copy the bundle again" in lines[0]


def test_a_port_that_is_taken_ends_with_6(arguments):
    with listening() as port:
        code, lines = refused(*arguments, "--port", str(port))
    assert (code, len(lines)) == (6, 1)
    assert f"port {port} of 127.0.0.1 cannot be opened: another program uses it" in lines[0]


def test_a_socket_path_that_cannot_be_used_is_refused_and_left_as_it_is(tmp_path, arguments):
    options = [*arguments[2:], "--socket"]
    with listening(tmp_path / "taken"):
        code, lines = refused(*options, str(tmp_path / "taken"))
        assert (code, len(lines)) == (6, 1) and "another service is running" in lines[0]
        assert (tmp_path / "taken").is_socket()
    (tmp_path / "file").write_text("mine")
    for name, words in {"file": "is no socket", "x" * 108: "too long", "no/folder": "No such file"}.items():
        code, lines = refused(*options, str(tmp_path / name))
        assert (code, len(lines)) == (3, 1) and words in lines[0]
    assert (tmp_path / "file").read_text() == "mine"


BAD_TOKEN_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "readable by others": (lambda path: (path.write_text(TOKEN), path.chmod(0o640)), "chmod 600"),
    "a folder": (lambda path: path.mkdir(0o700), "is a folder or a device"),
    "a pipe": (lambda path: os.mkfifo(path, 0o600), "is a folder or a device"),
    "a link": (lambda path: (own_file(path.with_name("real"), TOKEN), path.symlink_to("real")), "symbolic link"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "symbolic link"),
    "empty": (lambda path: own_file(path, ""), "holds no token"),
    "too long": (lambda path: own_file(path, "t" * 1001), "longer than 1000"),
    "too short": (lambda path: own_file(path, "secret"), "holds no token"),
    "of two words": (lambda path: own_file(path, TOKEN + " " + TOKEN), "holds no token"),
    "not ASCII": (lambda path: own_file(path, "ü" * 40), "holds no token"),
    "not text": (lambda path: own_file(path, "\udcff" * 40), "holds no token"),
}


def own_file(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text, errors="surrogateescape")


@pytest.mark.parametrize("kind", BAD_TOKEN_FILES)
def test_a_token_file_that_cannot_be_trusted_is_refused(tmp_path, kind):
    make, words = BAD_TOKEN_FILES[kind]
    make(tmp_path / "token")
    for function in (check_token, get_token):
        with pytest.raises(InputError, match=words):
            function(tmp_path / "token")


def test_a_token_file_that_cannot_be_made_is_refused_before_the_start(tmp_path, arguments):
    (tmp_path / "file").write_text("")
    code, lines = refused(*arguments, "--token-file", str(tmp_path / "file/token"))
    assert (code, len(lines)) == (3, 1) and "cannot be written" in lines[0]
    with pytest.raises(InputError, match="cannot be written"):
        get_token(Path("/proc/token"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_token_file_of_another_user_is_refused(tmp_path):
    own_file(tmp_path / "token", TOKEN)
    assert get_token(tmp_path / "token") == (TOKEN, False)
    os.chown(tmp_path / "token", 1234, 1234)
    with pytest.raises(InputError, match="another user"):
        get_token(tmp_path / "token")


@pytest.mark.parametrize(
    "options",
    [
        ["--port", "65536"], ["--port", "-1"], ["--port", "x"], ["--queue", "-1"], ["--idle-minutes", "0"],
        ["--idle-minutes", "nan"], ["--answer-seconds", "inf"], ["--hang-seconds", "1"], ["--growth-mb", "0.5"],
        ["--conversations", "0"], ["--conversations", "65"], ["--context", "1"], ["--threads", "0"],
        ["--port", "8077", "--socket", "x"], ["--host", "0.0.0.0"], [""], ["--token-file", ""],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_option_out_of_range_ends_with_2(arguments, options):
    result = run("skingpt", "serve", *(arguments if options[0] != "--port" else arguments[2:]), *options)
    assert result.returncode == 2
    assert "error: " in result.stderr.splitlines()[-1]


def test_check_says_all_that_is_wrong_at_once_and_the_start_says_the_same(tmp_path, arguments):
    (tmp_path / "token").mkdir()
    with listening() as port:
        options = [str(tmp_path / "none"), *arguments, "--port", str(port), "--threads", "1"]
        code, lines = refused(*options)
        assert [line for line in lines if not line.startswith("error: ")] == []
        assert [words in line for words, line in zip(["port", "token", "none"], lines, strict=True)] == [True] * 3
        assert code == 6  # of the first
        without = "import sys; sys.modules['h11'] = sys.modules['msgspec'] = None;"
        command = f"{without} from skingpt_edge.runtime.cli import main; sys.exit(main(['serve', *sys.argv[1:]]))"
        result = subprocess.run([sys.executable, "-c", command, *options], capture_output=True, text=True, check=False)
        assert result.returncode == 6
        assert result.stderr.splitlines()[1:] == lines
        assert "not installed: h11, msgspec: pip install 'skingpt-edge[serve]'" in result.stderr


def test_check_leaves_nothing_behind(tmp_path, arguments):
    path = tmp_path / "socket"
    for options in (arguments, [*arguments[2:], "--socket", str(path)]):
        result = run("skingpt", "serve", *options, "--check")
        assert (result.returncode, result.stdout, result.stderr) == (0, "nothing is wrong\n", "")
        assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_said_before_the_start(tmp_path, arguments):
    (tmp_path / "meminfo").write_text("MemTotal: 500000 kB\nMemAvailable: 280000 kB\n")
    inside = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("needs user namespaces")
    mounted = [*inside, "sh", "-c", 'mount --bind "$0" /proc/meminfo && exec "$@"', str(tmp_path / "meminfo")]
    for more in (["--check"], []):
        command = [*mounted, SKINGPT, "serve", *arguments, "--conversations", "64", *more]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert result.returncode == 6
        assert "too little memory: 64 conversations at once need" in result.stderr
        assert "0.3 GB are free: lower --conversations" in result.stderr


def test_what_the_worker_says_of_a_failed_load_is_told_in_one_line(tmp_path):
    service = RunningService(tmp_path, "--context", "32768")
    assert service.process.wait(timeout=300) == 3
    errors = [line for line in service.log_file.read_text().splitlines() if not line.startswith("{")]
    assert len(errors) == 1 and errors[0].startswith("error: context is 32768, but this model was trained for")
    assert service.log[-1]["event"] == "stopped"


# How it stops.


class Stream:
    """A stream of events that is being received; closed when it is read to its end."""

    def __init__(self, service: RunningService, path: str, body: bytes, content_type: str) -> None:
        self._connection = service.connect()
        headers = {"Authorization": f"Bearer {service.token}", "Content-Type": content_type}
        self._connection.request("POST", path, body, headers)
        self.response = self._connection.getresponse()

    def until(self, words: str) -> "Stream":
        """Read on until a line has these words."""
        while words not in (line := self.response.readline().decode()):
            assert line, "the stream ended"
        return self

    def rest(self) -> str:
        with closing(self._connection):
            return self.response.read().decode()


def begun_streams(service: RunningService) -> tuple[Stream, Stream]:
    """A native and an OpenAI stream in the middle of their answers."""
    conversation = service.request("POST", "/v1/conversations", PHOTO, content_type="image/jpeg")[1]["location"]
    native = Stream(service, f"{conversation}/questions", LONG_ANSWER, "application/json")
    rambling = chat(service, stream=True, max_tokens=400, temperature=2.0, top_p=1.0, seed=3)
    openai = Stream(service, "/v1/chat/completions", rambling, "application/json")
    return native.until("event: text"), openai.until("data: ")


def chat(service: RunningService, **more) -> bytes:
    model = json.loads(service.request("GET", "/v1/models")[2])["data"][0]["id"]
    url = "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
    return json.dumps({"model": model, "messages": [{"role": "user", "content": content}], **more}).encode()


def family(service: RunningService) -> list[int]:
    return process_family(service.process.pid)


def gone(pids: list[int], seconds: float = 60) -> bool:
    """Whether all these processes have ended; a zombie that nobody waits for has."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(service: RunningService, event: str) -> dict:
    """The first line of the log with this event."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if found := [line for line in service.log if line["event"] == event]:
            return found[0]
        assert service.process.poll() is None, service.log_file.read_text()
        time.sleep(0.02)
    raise AssertionError(f"no {event}: {service.log_file.read_text()}")


@contextmanager
def stopped_in_answers(folder: Path, *options: str) -> Iterator[tuple[RunningService, Stream, Stream]]:
    """A service and `begun_streams`, and the model's process is stopped, so that neither answer ends.

    An answer may be short, and at its end before the process is stopped; then the same is done again.
    """
    (folder / "sitecustomize.py").write_text(SLOW_STEPS)
    with running(folder, *options, PYTHONPATH=str(folder)) as service:
        for _ in range(20):
            streams = begun_streams(service)
            os.kill(service.worker(), signal.SIGSTOP)
            time.sleep(0.3)  # what it had said is read by then
            if service.requests_now() == len(streams):
                break
            os.kill(service.worker(), signal.SIGCONT)
            for stream in streams:
                stream.rest()
        else:
            raise AssertionError("all answers ended before the model's process was stopped")
        yield service, *streams


@pytest.fixture
def interrupts():
    """Signals reach services even where the tests run in the background, or under nohup; see `interruptible`."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_model_is_loaded_ends_all_at_once(tmp_path, number):
    (tmp_path / "sitecustomize.py").write_text(STOPS_LOADING)
    service = RunningService(tmp_path, PYTHONPATH=str(tmp_path))
    worker = wait_for(service, "worker_started")["pid"]
    pids = family(service)
    assert worker in pids
    assert service.stop(number) == 0
    assert gone(pids)
    assert service.log[-1]["event"] == "stopped"
    assert "worker_ready" not in [line["event"] for line in service.log]


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_idle_ends_with_0_and_leaves_no_process_and_no_socket(tmp_path, number):
    path = tmp_path / "socket"
    service = RunningService(tmp_path, "--socket", str(path))
    wait_for(service, "worker_ready")
    pids = family(service)
    assert len(pids) >= 3 and path.is_socket()
    assert service.stop(number) == 0
    assert gone(pids)
    assert not path.exists()


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_the_middle_of_answers_gives_each_its_end(tmp_path, number):
    with (
        stopped_in_answers(tmp_path, "--conversations", "4") as (service, native, openai),
        closing(service.connect()) as waiting,
    ):
        waiting.request(
            "POST", "/v1/chat/completions", chat(service, max_tokens=400),
            {"Authorization": f"Bearer {service.token}", "Content-Type": "application/json"},
        )  # fmt: skip
        until(lambda: service.requests_now() == 3)
        pids = family(service)
        assert service.stop(number) == 0
        assert gone(pids)
        name, data = list(parse_events(native.rest()))[-1]
        assert (name, data["code"], data["status"]) == ("error", "shutting_down", 503)
        assert json.loads(openai.rest().strip().split("\n\n")[-1][6:])["error"]["code"] == "shutting_down"
        answer = waiting.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (503, "shutting_down")


def test_a_body_that_has_not_arrived_is_not_waited_for(tmp_path):
    with running(tmp_path) as service, socket.create_connection(("127.0.0.1", service.port)) as slow:
        head = f"POST /v1/reports HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\nAuthorization: Bearer {service.token}"
        slow.sendall(f"{head}\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\n12345".encode())
        for _ in range(5):  # it is taken in before these are answered
            service.request("GET", "/healthz")
        assert service.stop() == 0
        answer = b"".join(iter(lambda: slow.recv(10000), b"")).decode()
        assert answer.startswith("HTTP/1.1 503 ") and '"code": "shutting_down"' in answer
        assert "uvicorn.error" not in [line["event"] for line in service.log]  # which says that it was cut off


def test_a_second_signal_does_not_wait_for_a_photo_that_is_being_decoded(tmp_path):
    with running(tmp_path) as service:
        decoder = wait_for(service, "decoder_started")["pid"]
        pids = family(service)
        os.kill(decoder, signal.SIGSTOP)
        stream = service.connect()
        headers = {"Authorization": f"Bearer {service.token}", "Content-Type": "image/jpeg"}
        stream.request("POST", "/v1/reports", PHOTO, headers)
        for _ in range(5):  # it is taken in before these are answered
            service.request("GET", "/healthz")
        service.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert service.process.poll() is None  # it waits for ten seconds
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=120) == 0
        assert "uvicorn.error" in [line["event"] for line in service.log]  # the request was cut off
        assert gone(pids)
        stream.close()


def has_begun(pid: int) -> bool:
    """Whether a command sees to signals: to an abort in its own process, and later as the server."""
    caught = re.search(r"SigCgt:\t(\w+)", Path(f"/proc/{pid}/status").read_text())
    is_server = b"skingpt_edge.runtime.serve" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return is_server or bool(int(caught[1], 16) >> (signal.SIGABRT - 1) & 1)


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("number", SIGNALS)
def test_at_whatever_moment_the_signal_comes_no_traceback_and_no_socket_stays(tmp_path, number):
    """Until it listens, the command ends as every command does; from then on with 0.

    From the command's own first moments: before, Python itself shows a traceback.
    """
    early = {signal.SIGTERM: -15, signal.SIGINT: 130, signal.SIGHUP: -1}[number]

    def stop_after(tenth: int) -> None:
        folder = tmp_path / str(tenth)
        folder.mkdir()
        service = RunningService(folder, "--socket", str(folder / "socket"))
        until(lambda: has_begun(service.process.pid))
        time.sleep(tenth / 10)
        pids = family(service)
        assert service.stop(number) in (early, 0)
        assert gone(pids)
        assert not (folder / "socket").exists()
        assert "Traceback" not in service.log_file.read_text()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(stop_after, range(1, 24, 3)))


def test_workers_end_with_a_server_that_is_killed(tmp_path):
    with stopped_in_answers(tmp_path) as (service, *streams):
        pids = family(service)
        service.process.kill()
        service.process.wait()
        assert gone(pids)
        for stream in streams:
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                stream.rest()


def test_after_a_kill_the_same_socket_can_be_used_again(tmp_path):
    path = tmp_path / "socket"
    for _ in range(2):
        service = RunningService(tmp_path, "--socket", str(path))
        wait_for(service, "listening")
        service.process.kill()
        service.process.wait()
        assert path.is_socket()  # left behind


# What others can see of it.


def test_socket_and_token_are_their_owners_alone_whatever_the_umask(tmp_path):
    path = tmp_path / "socket"
    before = os.umask(0)
    try:
        service = RunningService(tmp_path, "--socket", str(path), "--token-file", str(tmp_path / "state/new/token"))
    finally:
        os.umask(before)
    wait_for(service, "worker_ready")
    try:
        modes = [oct(file.stat().st_mode & 0o777) for file in (path, *(tmp_path / "state").rglob("token"))]
        assert modes == ["0o600", "0o600"]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    finally:
        assert service.stop() == 0


def shown_on_a_terminal(*options: str) -> str:
    """All that a service shows on a terminal from its start to a signal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([SKINGPT, "serve", *options], stderr=theirs, stdout=theirs, stdin=theirs) as process:
        os.close(theirs)
        shown = ""
        while "listening" not in shown:
            shown += os.read(ours, 10000).decode()
        process.terminate()
        assert process.wait(timeout=120) == 0
    os.close(ours)
    return shown


def test_a_new_token_is_shown_once_and_on_a_terminal_only(tmp_path, arguments):
    first = shown_on_a_terminal(*arguments)
    token = (tmp_path / "token").read_text().strip()
    assert first.count(token) == 1
    assert token not in shown_on_a_terminal(*arguments)
    (tmp_path / "token").unlink()
    service = RunningService(tmp_path)
    made = wait_for(service, "token_made")
    assert made["place"] == str(tmp_path / "token")
    assert service.stop() == 0
    assert service.token not in service.log_file.read_text()


def test_every_line_of_the_log_is_json_with_allowed_fields(tmp_path):
    with running(tmp_path) as service:
        service.report()
        for method, path in (("GET", "/v1/models"), ("PUT", "/nowhere?secret=1"), ("DELETE", "/v1/conversations/x")):
            service.request(method, path)
        service.request("POST", "/v1/reports", b"no photo", content_type="image/jpeg")
        service.request("POST", "/v1/chat/completions", b"{", content_type="application/json")
        service.request("GET", "/v1/models", token="wrong")
        service.kill_worker()
        service.report()
        assert service.stop() == 0
        lines = service.log_file.read_text().splitlines()
        assert len(lines) > 12
        for line in lines:
            found = json.loads(line)
            assert {"time", "level", "event"} <= found.keys() <= FIELDS
        routes = {line["route"] for line in service.log if line["event"] == "request"}
        assert routes >= {"/v1/reports", "unknown", "/v1/conversations/{id}"}


def test_requests_are_answered_when_nobody_reads_the_log_any_more(tmp_path, arguments):
    process = subprocess.Popen([SKINGPT, "serve", *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr
    while b"worker_ready" not in (line := process.stderr.readline()):
        assert line
    process.stderr.close()
    try:
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", int(arguments[1]), timeout=300)
            token = (tmp_path / "token").read_text().strip()
            connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {token}"})
            assert connection.getresponse().status == 200
            connection.close()
    finally:
        process.terminate()
        assert process.wait(timeout=120) == 0


def test_the_manual_names_every_option_event_and_code():
    manual = (ROOT / "docs/service.md").read_text()
    source = "".join(path.read_text() for path in sorted((ROOT / "runtime/serve").glob("*.py")))
    options = set(re.findall(r"--[a-z-]+", run("skingpt", "serve", "--help").stdout)) - {"--help"}
    events = set(re.findall(r'\blog(?:_error)?\("(\w+)"', source)) | {"decoder_not_started"}
    assert len(options) > 15 and len(events) > 8
    named = set(re.findall(r"`([^`]+)`", manual))
    assert {*options, *events, *STATUS} - named == set()
    tabled = set(re.findall(r"`(\w+)`", manual[manual.index("## What an error code means") :]))
    assert tabled >= STATUS.keys()
