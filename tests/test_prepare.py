"""A picture is put into the prompt before the first question, and nothing but the time of the first token changes."""

import json
import subprocess
import sys
import time

import numpy as np
from service import PHOTO, PICTURES, running, until
from skingpt_edge.benchmarks.tools.prepared_photo import measure
from skingpt_edge.engines.errors import EngineError
from skingpt_edge.runtime.cli import chat
from skingpt_edge.runtime.skingpt import SkinGPT
from test_conversation import SYSTEM_LENGTH, start

QUESTION = "What does this show?"


def test_a_prepared_picture_is_not_computed_again_and_no_logit_differs():
    with SkinGPT.open() as plain, SkinGPT.open() as prepared:
        embeds = plain.embed(PHOTO).embeds
        expected = plain.first_logits(plain.embed(PHOTO), QUESTION)
        conversation = prepared.conversation(prepared.embed(PHOTO))
        conversation.prepare()
        np.testing.assert_array_equal(conversation.first_logits(QUESTION), expected)
        answers = [plain.ask(plain.embed(PHOTO), QUESTION), conversation.ask(QUESTION)]
    assert answers[0].token_ids == answers[1].token_ids
    reused = answers[1].prefill.reused
    assert reused >= len(answers[1].segment_token_ids[0]) + len(embeds)


def test_only_the_question_is_left_to_compute():
    model, converse = start([["red"]])
    conversation = converse(1)
    conversation.prepare()
    assert model.evaluated == SYSTEM_LENGTH + 32
    answer = conversation.ask("what")
    assert answer.prefill.reused == SYSTEM_LENGTH + 32
    assert answer.prefill.evaluated == len(answer.segment_token_ids[1])


def test_another_picture_is_not_taken_for_the_one_that_was_prepared():
    _, converse = start([["red"]])
    converse(1).prepare()
    assert converse(2).ask("what").prefill.reused == SYSTEM_LENGTH


def test_a_conversation_that_has_begun_loses_nothing_to_a_preparation():
    model, converse = start([["red"], ["blue"], ["blue"]])
    conversation = converse(1)
    conversation.ask("one")
    before = model.evaluated
    conversation.prepare()
    assert model.evaluated == before
    assert conversation.ask("two").prefill.reused >= SYSTEM_LENGTH + 32 + 3


def test_a_typed_question_waits_for_the_picture_and_an_error_of_it_is_not_lost(monkeypatch):
    result = subprocess.run(
        [sys.executable, "-m", "skingpt_edge.runtime.cli", "chat", PICTURES[0]],
        input=f"{QUESTION}\n\n", capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    with SkinGPT.open() as model:
        assert model.ask(model.embed(PHOTO), QUESTION).text in result.stdout, result.stderr

    class Slow:
        prepared = False

        def prepare(self) -> None:
            time.sleep(0.3)
            Slow.prepared = True
            raise EngineError("broken")

    chat._preparing(Slow()).join()
    assert Slow.prepared


def test_the_service_prepares_a_photo_that_will_be_asked_about(tmp_path):
    with running(tmp_path) as service:
        first, second = (
            json.loads(service.request("POST", "/v1/conversations", one.read_bytes(), content_type="image/jpeg")[2])[
                "id"
            ]
            for one in PICTURES[:2]
        )
        # Nobody waits for a photo that is prepared, so the queue is empty; the first question comes after it.
        assert "skingpt_requests_now 0.0" in service.request("GET", "/metrics")[2].decode()
        for number, photo in ((first, PICTURES[0]), (second, PICTURES[1])):
            with SkinGPT.open() as model:
                here = model.ask(model.embed(photo.read_bytes()), QUESTION)
            there = ask(service, number)
            assert tuple(there["token_ids"]) == here.token_ids
            assert there["prompt_tokens"]["evaluated"] == len(here.segment_token_ids[1])  # the question alone
        assert service.request("DELETE", f"/v1/conversations/{first}")[0] == 204
        until(lambda: "skingpt_conversations 1.0" in service.request("GET", "/metrics")[2].decode())
        assert ask(service, second)["text"]
        assert service.stop() == 0


def test_what_is_gained_can_be_measured():
    with SkinGPT.open() as model:
        found = measure(model, 1)
    assert found["seconds"].keys() == found["median_seconds"].keys() == {"with", "encoded", "prepared"}
    assert all(len(times) == 1 for times in found["seconds"].values())


def ask(service, number: str) -> dict:
    body = json.dumps({"question": QUESTION}).encode()
    path = f"/v1/conversations/{number}/questions"
    kind = {"content_type": "application/json", "accept": "application/json"}
    status, _, answer = service.request("POST", path, body, **kind)
    assert status == 200, answer
    return json.loads(answer)
