"""The process that holds the model, spoken to as the server does. All that it says comes in one order."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from select import select

import pytest
from service import PICTURES
from skingpt_edge.runtime import GenerationConfig, SkinGPT
from skingpt_edge.runtime.bundle import default_bundle
from skingpt_edge.runtime.prepared_photo import PreparedPhoto, prepare_photo
from skingpt_edge.runtime.scheduler import CHUNK
from skingpt_edge.runtime.serve.framing import Message, receive, send

PHOTOS = [prepare_photo(picture.read_bytes(), picture.name, 224) for picture in PICTURES]
QUESTION = "What does this show?"


class Worker:
    """A process that is ready."""

    def __init__(self, **options: object) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(300)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "skingpt_edge.runtime.serve.model_worker"], stdin=theirs.fileno()
            )
        given = {"conversations": 4, **options}
        send(self.channel, "open", bundle=str(default_bundle()), options=given, verify=False, together=True)
        self.about = self.next("ready").header["about"]

    def next(self, *kinds: str) -> Message:
        """The next message of one of these kinds, or the next of all."""
        while message := receive(self.channel):
            if not kinds or message.kind in kinds:
                return message
        raise AssertionError(f"it ended with {self.process.wait()}")

    def until_end(self, number: int) -> list[dict]:
        """All messages until this request's last one, which is among them."""
        found: list[dict] = []
        while not found or not (found[-1].get("id") == number and found[-1]["kind"] in ("end", "error")):
            found.append(self.next().header)
        return found

    def ask(self, number: int, photo: PreparedPhoto, questions: list[str] | None = None, **more: object) -> None:
        asked = [{"section": "Answer", "question": question} for question in questions or [QUESTION]]
        fields = {"turns": [], "questions": asked, "config": {}, "choices": 1, **more}
        send(self.channel, "ask", photo.pixels.tobytes(), id=number, photo=photo.description(), **fields)

    def close(self) -> int:
        self.channel.close()
        return self.process.wait(timeout=60)


@pytest.fixture
def worker() -> Iterator[Worker]:
    found = Worker()
    yield found
    assert found.close() == 0


def endless(tokens: int) -> dict:
    """An answer that goes on for so many tokens."""
    return {"config": {"max_new_tokens": tokens, "temperature": 2.0, "top_p": 1.0, "seed": 3}}


@pytest.fixture(scope="module")
def model() -> Iterator[SkinGPT]:
    with SkinGPT.open() as found:
        yield found


def test_the_photos_have_the_models_size(worker):
    assert worker.about["image_size"] == len(PHOTOS[0].pixels)


def test_a_new_photo_stops_another_answer_for_one_chunk_at_most(worker):
    """Between two pieces of one answer at most a chunk of another's prompt is computed.

    A token that is only the beginning of a character, or of a stop string, gives no piece, hence two chunks at times.
    """
    worker.ask(1, PHOTOS[0], [QUESTION] * 40)
    worker.next("text")
    for number, photo in enumerate(PHOTOS[1:], 2):
        worker.ask(number, photo, [QUESTION + " And tell me more about it." * 12])
        gaps, seen = gaps_and_prompt(worker.until_end(number), number)
        assert max(gaps, default=0) <= 2 * CHUNK
        if seen > 5 * CHUNK:  # else the first answer was between two questions, and nobody had to wait
            break
    else:
        raise AssertionError("no prompt was computed in chunks")


def gaps_and_prompt(events: list[dict], number: int) -> tuple[list[int], int]:
    """Items of a request's prompt between the pieces of answer 1, and how much of the prompt was told in between."""
    gaps, gap, before = [], None, 0
    for event in events:
        if event["id"] == 1 and event["kind"] == "text":
            gaps.append(gap or 0)
            gap = 0
        elif event["id"] == 1 and event["kind"] == "answer":
            gap = None  # its next question waits until the other's prompt is finished
        elif event["id"] == number and event.get("stage") == "prompt":
            if gap is not None:
                gap += event["done"] - (before or event["done"])  # the first one also counts what was reused
            before = event["done"]
    return gaps, before


def test_an_answer_goes_on_while_a_photo_is_encoded(worker):
    """A photo takes as long as a few tokens, and a busy machine may keep both apart, but not with every photo."""
    worker.ask(1, PHOTOS[0], **endless(1500))
    worker.next("text")
    most = 0
    for number, photo in enumerate(PHOTOS[1:], 2):
        worker.ask(number, photo, **endless(1))
        events = [(event["id"], event["kind"], event.get("stage")) for event in worker.until_end(number)]
        begun, done = (i for i, event in enumerate(events) if event == (number, "stage", "vision_encoder"))
        most = max(most, events[begun:done].count((1, "text", None)))
    assert most > 3, "the answer stood still while photos were encoded"  # some come before the encoding really begins


def test_a_cancel_takes_effect_after_the_token_that_is_being_computed(worker):
    worker.ask(1, PHOTOS[0], [QUESTION] * 20)
    worker.next("text")
    os.kill(worker.process.pid, signal.SIGSTOP)
    while select([worker.channel], [], [], 0.1)[0]:  # what it said before it stopped
        worker.next()
    send(worker.channel, "cancel", id=1)
    os.kill(worker.process.pid, signal.SIGCONT)
    events = worker.until_end(1)
    assert events[-1]["kind"] == "end" and events[-1]["report"] is None
    assert sum(event["kind"] == "text" for event in events) < 60  # of about 400
    worker.ask(2, PHOTOS[0])
    assert worker.until_end(2)[-1]["report"]


def test_a_cancel_before_the_photo_is_encoded_ends_the_request(worker):
    for number, photo in enumerate(PHOTOS):
        worker.ask(number, photo)
        send(worker.channel, "cancel", id=number)
    ended = [worker.next("end", "error").header for _ in PHOTOS]
    assert {event["id"] for event in ended} == set(range(len(PHOTOS)))
    worker.ask(99, PHOTOS[0])
    assert worker.until_end(99)[-1]["report"]


def test_choices_are_the_samples_of_the_model_in_process(worker, model):
    config = {"temperature": 1.0, "seed": 7, "max_new_tokens": 12}
    worker.ask(1, PHOTOS[0], choices=3, config=config)
    there = {e["choice"]: e["answer"]["token_ids"] for e in worker.until_end(1) if e["kind"] == "answer"}
    image = model.embed_photo(PHOTOS[0])
    here = model.samples(image, QUESTION, GenerationConfig(12, 1.0, model.defaults.top_p, 7), 3, together=False)
    assert [there[choice] for choice in range(3)] == [list(answer.token_ids) for answer in here]


def test_a_question_that_does_not_fit_fails_alone(worker):
    worker.ask(1, PHOTOS[0])
    worker.ask(2, PHOTOS[1], ["word " * 5000])
    worker.ask(3, PHOTOS[2], [" "])
    ended = {}
    while len(ended) < 3:
        event = worker.next("end", "error").header
        ended[event["id"]] = event.get("code")
    assert ended == {1: None, 2: "question_unusable", 3: "question_unusable"}


def test_what_is_forgotten_is_computed_again(worker):
    def evaluated() -> tuple[int, bool]:
        worker.ask(1, PHOTOS[0])
        report = worker.until_end(1)[-1]["report"]
        return report["turns"][0]["prompt_tokens"]["evaluated"], report["image"]["cached"]

    first, again = evaluated(), evaluated()
    assert first[1] is False and again[1] is True and again[0] < first[0]
    for _ in range(20):  # a photo that is asked about again before the process got round to it stays
        send(worker.channel, "forget", sha256=PHOTOS[0].sha256)
        send(worker.channel, "ping")
        worker.next("pong")
        if evaluated() == first:
            return
    pytest.fail("the photo is still held")


def test_a_ping_is_answered_while_an_answer_is_generated(worker):
    worker.ask(1, PHOTOS[0], [QUESTION] * 60)
    worker.next("text")
    send(worker.channel, "ping")
    assert worker.next("pong", "end").kind == "pong"
    send(worker.channel, "cancel", id=1)
    worker.until_end(1)


def test_a_bundle_that_cannot_be_loaded_is_said_so():
    channel, theirs = socket.socketpair()
    with channel, theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "skingpt_edge.runtime.serve.model_worker"], stdin=theirs.fileno()
        )
        send(channel, "open", bundle="/nowhere", options={}, verify=False, together=True)
        message = receive(channel)
        assert message and message.kind == "failed" and message.header["code"] == "bundle_unusable"
        assert process.wait(timeout=60) == 1
