"""docs/embed.md: its examples run as they stand there, and its table lists every error code."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from service import PHOTO, RunningService, parse_events, running, until
from skingpt_edge.runtime import SkinGPT
from skingpt_edge.runtime.client import Client
from skingpt_edge.runtime.serve.problems import OPENAI_CODES, STATUS
from support import ROOT

PAGE = (ROOT / "docs/embed.md").read_text()
QUESTION = "How is the border?"
PROXIES = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "HTTP", "https", "HTTPS", "all", "ALL")}
"""Nobody listens there."""


def example(language: str, holds: str = "") -> str:
    """The page's only example in a language that holds these words."""
    (code,) = [code for code in re.findall(rf"```{language}\n(.*?)```", PAGE, re.S) if holds in code]
    return code


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A home directory with the photo, and the token in its usual place."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "photo.jpg").write_bytes(PHOTO)
    return folder


@pytest.fixture(scope="module")
def kiosk(home) -> Iterator[RunningService]:
    state = home / ".local/state/skingpt-edge"
    state.mkdir(parents=True)
    with running(state) as found:
        yield found


class Words:
    """What the model says in this process."""

    def __init__(self, model: SkinGPT) -> None:
        image = model.embed(PHOTO)
        report = model.report(image)
        self.notice = report.notice
        self.sections = [(section.title, section.answer.text) for section in report.sections]
        turns = [section.answer.turn for section in report.sections]
        self.follow_up = model.conversation(image, turns).ask(QUESTION).text
        conversation = model.conversation(image)
        self.chat = [conversation.ask(question).text for question in ("What does this show?", QUESTION)]

    def in_text(self, text: str) -> bool:
        """Whether a program's output has the report's sections in order, and then the answer to the question."""
        parts = [part for section in self.sections for part in section] + [self.follow_up]
        return re.search(".*?".join(map(re.escape, parts)), text, re.S) is not None


@pytest.fixture(scope="module")
def words() -> Words:
    with SkinGPT.open() as model:
        return Words(model)


def run_at_home(kiosk: RunningService, home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program as the kiosk's user, who left no conversation behind before."""
    kept = {name: value for name, value in os.environ.items() if name not in ("XDG_STATE_HOME", "STATE_DIRECTORY")}
    found = subprocess.run(
        command, capture_output=True, text=True, cwd=home, check=False, timeout=600,
        env={**kept, **PROXIES, "HOME": str(home)},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert conversations(kiosk) == 0
    return found


def conversations(kiosk: RunningService) -> int:
    text = kiosk.request("GET", "/metrics")[2].decode()
    return int(float(re.search(r"^skingpt_conversations (\S+)$", text, re.M)[1]))


def here(code: str, kiosk: RunningService) -> str:
    """An example with this service's port."""
    assert code.count("8077") == 1
    return code.replace("8077", str(kiosk.port))


def needed(program: str) -> str:
    path = shutil.which(program)
    if not path:
        pytest.skip(f"needs {program}")
    return path


def test_the_curl_example(kiosk, home, words):
    needed("curl")
    found = run_at_home(kiosk, home, "sh", "-eu", "-c", here(example("sh", "8077"), kiosk))
    events = list(parse_events(found.stderr))
    for number, (_, text) in enumerate(words.sections):
        assert "".join(data["text"] for name, data in events if name == "text" and data["number"] == number) == text
    assert events[-1][0] == "report"
    assert json.loads(found.stdout)["text"] == words.follow_up


def test_the_python_example(kiosk, home, words):
    code = here(example("python", "skingpt_edge"), kiosk)
    found = run_at_home(kiosk, home, sys.executable, "-W", "error", "-c", code)
    assert words.in_text(found.stdout)
    assert words.notice in found.stdout


def test_the_openai_example(kiosk, home, words):
    code = here(example("python", "openai"), kiosk)
    found = run_at_home(kiosk, home, sys.executable, "-W", "error", "-c", code)
    assert found.stdout.splitlines() == words.chat


def test_the_javascript_example(kiosk, home, words):
    node = needed("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(re.match(r"v(\d+)", version)[1]) < 20:
        pytest.skip(f"needs Node 20, found {version}")
    (home / "kiosk.mjs").write_text(here(example("js"), kiosk))
    found = run_at_home(kiosk, home, node, "kiosk.mjs")
    assert words.in_text(found.stdout)
    assert words.notice in found.stdout


@pytest.fixture(scope="module")
def compiled(kiosk, home) -> Path:
    """The C example as a program."""
    compiler = needed("cc")
    for header in ("curl/curl.h", "cjson/cJSON.h"):
        command = [compiler, "-E", "-include", header, "-x", "c", "/dev/null"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip(f"needs {header}")
    (home / "kiosk.c").write_text(here(example("c"), kiosk))
    (line,) = re.findall(r"^    cc (.*)$", PAGE, re.M)
    warnings = ["-Wall", "-Wextra", "-Werror", "-std=c99", "-O1"]
    subprocess.run([compiler, *warnings, *line.split()], cwd=home, check=True)
    return home / "kiosk"


def test_the_c_example(kiosk, home, words, compiled):
    found = run_at_home(kiosk, home, str(compiled))
    assert words.in_text(found.stdout)


@pytest.mark.parametrize("language", ["js", "c"])
def test_an_example_tells_why_a_photo_is_refused(request, kiosk, tmp_path, language):
    if language == "c":
        command = [str(request.getfixturevalue("compiled"))]
    else:
        (tmp_path / "kiosk.mjs").write_text(here(example("js"), kiosk))
        command = [needed("node"), "kiosk.mjs"]
    home = Path(kiosk.folder).parents[2]
    (tmp_path / "photo.jpg").write_bytes(PHOTO[:9000])
    found = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, check=False, env={**os.environ, "HOME": str(home)}
    )
    assert found.returncode == 1
    assert "image_unusable: the photo: damaged" in found.stderr


def test_the_example_of_a_unix_socket(tmp_path):
    needed("curl")
    path = tmp_path / "skingpt.sock"
    service = RunningService(tmp_path, "--socket", str(path))
    try:
        client = Client(f"unix:{path}", token_file=service.token_file)
        until(client.ready)
        command = ["sh", "-eu", "-c", example("sh", "--unix-socket")]
        environment = {**os.environ, **PROXIES, "XDG_RUNTIME_DIR": str(tmp_path)}
        found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert json.loads(found.stdout)["ready"] is True
    finally:
        service.stop()


def test_the_table_lists_every_error_code_with_its_status():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\S.*) \|$", PAGE.partition("### Error codes")[2], re.M)
    assert len(rows) == len({code for code, _, _ in rows})
    assert {code: int(status) for code, status, _ in rows} == STATUS


def test_every_code_that_the_page_names_exists():
    text = PAGE.partition("## Errors")[2]
    of_the_client = {"unreachable", "connection_lost", "timed_out", "reply_unusable"}
    source = (ROOT / "runtime/client.py").read_text()
    assert all(f'"{code}"' in source and f"`{code}`" in PAGE for code in of_the_client)
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text))
    assert named <= {*STATUS, *OPENAI_CODES.values(), "request_id", "retry_after"}
    assert {*OPENAI_CODES.values()} <= named


def test_the_table_lists_the_events_that_come(kiosk):
    named = re.findall(r"^\| `(\w+)` \|", PAGE.partition("## Events")[2].partition("## Errors")[0], re.M)
    report = kiosk.events("/v1/reports", PHOTO, "image/jpeg")
    path = f"/v1/conversations/{report[0][1]['id']}"
    answer = kiosk.events(f"{path}/questions", json.dumps({"question": QUESTION}).encode(), "application/json")
    several = kiosk.events(f"{path}/consistency", b'{"choices": 2}', "application/json")
    kiosk.request("DELETE", path)
    assert {*named} == {name for name, _ in report + answer + several} | {"error"}
    stages = {data["stage"] for name, data in report if name == "stage"}
    assert all(f"`{stage}`" in PAGE for stage in stages)
