"""The `openai` package of npm, as programs in JavaScript use it, with the service."""

import json
import os
import shutil
import subprocess

import pytest
from service import PHOTO, PICTURES, running
from skingpt_edge.runtime import SkinGPT
from support import ROOT

VERSION = "7.57.0"
SCRIPT = ROOT / "tests/js/openai_client.mjs"
QUESTION, SECOND = "What is this?", "Which treatment helps?"


@pytest.fixture(scope="module")
def talkative(exact_bundle, tmp_path_factory):
    """A model of random weights, which does not come to an end by itself."""
    with running(tmp_path_factory.mktemp("talkative"), "--conversations", "1", bundle=exact_bundle) as found:
        yield found


@pytest.fixture(scope="module")
def found(service, talkative, tmp_path_factory) -> dict:
    """What the script saw."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("npm")
    install = [npm, "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", f"openai@{VERSION}"]
    try:
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install openai@{VERSION} in 5 minutes")
    if done.returncode:
        pytest.skip(f"npm could not install openai@{VERSION}: {done.stderr.strip().splitlines()[:1]}")
    shutil.copy(SCRIPT, folder)  # a module is looked for beside the script
    given = {"BASE_URL": f"{service.url}/v1", "TOKEN": service.token, "PHOTO": str(PICTURES[0])}
    given |= {"LONG_URL": f"{talkative.url}/v1", "LONG_TOKEN": talkative.token, "QUESTION": QUESTION, "SECOND": SECOND}
    command = [node, SCRIPT.name]
    ran = subprocess.run(
        command, cwd=folder, env={**os.environ, **given}, capture_output=True, text=True, timeout=900, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def answers() -> tuple[str, str]:
    """The model's in process, to both questions."""
    with SkinGPT.open() as model:
        conversation = model.conversation(model.embed(PHOTO))
        return conversation.ask(QUESTION).text, conversation.ask(SECOND).text


def test_an_answer_is_that_of_the_model_in_process(found, answers):
    [choice] = found["whole"]["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (answers[0], "stop")
    assert found["whole"]["model"] == found["model"]


def test_a_stream_joins_to_the_same(found, answers):
    stream = found["streamed"]
    assert (stream["text"], stream["finish"]) == (answers[0], "stop") and stream["chunks"] > 5
    assert stream["usage"]["completion_tokens"] == found["whole"]["usage"]["completion_tokens"]


def test_a_follow_up_is_the_same_and_finds_its_kv_again(found, answers):
    assert found["followUp"]["choices"][0]["message"]["content"] == answers[1]
    before, now = found["whole"]["usage"], found["followUp"]["usage"]
    assert before["total_tokens"] - 2 <= now["prompt_tokens_details"]["cached_tokens"] < now["prompt_tokens"]


def test_choices_and_ends(found, answers):
    assert found["several"] == [answers[0]] * 2
    cut = answers[0].partition(" red")[0]
    assert (found["stopped"]["message"]["content"], found["stopped"]["finish_reason"]) == (cut, "stop")
    assert (found["stoppedStream"]["text"], found["stoppedStream"]["finish"]) == (cut, "stop")
    assert (found["length"]["message"]["content"], found["length"]["finish_reason"]) == ("The picture shows", "length")


def test_errors_are_the_packages_own_classes(found):
    def error(kind, status, code, param):
        return {"kind": kind, "status": status, "code": code, "param": param, "expected": True}

    assert found["refused"] == error("BadRequestError", 400, "value_unusable", "temperature")
    assert found["unknown"] == error("NotFoundError", 404, "model_not_found", "model")
    assert found["denied"] == error("AuthenticationError", 401, "invalid_api_key", None)


def test_an_aborted_stream_is_cancelled(found):
    aborted = found["aborted"]
    assert (aborted["during"], aborted["after"], aborted["next"]) == (1, 0, 3)
    assert aborted["chunks"] < aborted["tokens"] / 2
