"""What is forgotten of a picture is gone: embeddings and KV cache. What is not forgotten stays as it was."""

import numpy as np
import pytest
from service import PICTURES
from skingpt_edge.engines.fake import FakeLanguageModel
from skingpt_edge.runtime import Options, SkinGPT
from skingpt_edge.runtime.kv_cache import SYSTEM, KvCache
from skingpt_edge.runtime.kv_lease import Lease
from skingpt_edge.runtime.scheduler import run_alone
from skingpt_edge.runtime.serve.framing import send
from skingpt_edge.runtime.vision import ImageEmbedding
from test_model_worker import PHOTOS, QUESTION, Worker

FOLLOW_UP = "What is the treatment?"


@pytest.fixture
def model():
    with SkinGPT.open(options=Options(conversations=3, prompt_snapshot=False)) as found:
        yield found


@pytest.fixture
def asked(model):
    """Two pictures, and a conversation about each that has begun at the same time."""
    images = [model.embed(picture.read_bytes()) for picture in PICTURES[:2]]
    conversations = [model.conversation(image) for image in images]
    scheduler = model.scheduler()
    for conversation in conversations:
        scheduler.add(conversation.job(QUESTION, model.defaults))
    scheduler.run()
    return images, conversations


def states(model: SkinGPT) -> bytes:
    """All that llama.cpp says it holds, of every sequence."""
    return b"".join(model._model.snapshot(sequence) for sequence in model._cache._held)


def pieces(data: bytes, *, not_in: bytes) -> list[bytes]:
    """48 bytes each, from all over the data, that others do not have."""
    found = [data[start : start + 48] for start in range(0, len(data) - 48, len(data) // 500)]
    return [piece for piece in found if len(set(piece)) > 20 and piece not in not_in]


def test_of_a_forgotten_picture_nothing_is_reused_and_of_others_all(model, asked):
    images, (first, second) = asked
    system = model._cache.length(SYSTEM)
    model.forget(images[0])
    assert model._cache.length(SYSTEM) == system > 0
    before = second.answers[0].prefill
    assert second.ask(FOLLOW_UP, model.defaults).prefill.reused >= before.reused + before.evaluated
    lost = model.conversation(images[0]).ask(QUESTION, model.defaults)
    assert lost.prefill.reused == system  # not one item of the picture
    assert lost.token_ids == first.answers[0].token_ids


def test_others_answer_as_if_nothing_had_been_forgotten(model, asked):
    images, conversations = asked
    model.forget(images[0])
    forgotten = [conversations[1].ask(question, model.defaults).token_ids for question in (FOLLOW_UP, QUESTION)]
    with SkinGPT.open(options=Options(prompt_snapshot=False)) as other:
        again = other.conversation(other.embed(PICTURES[1].read_bytes()))
        again.ask(QUESTION, other.defaults)
        assert forgotten == [again.ask(question, other.defaults).token_ids for question in (FOLLOW_UP, QUESTION)]


def test_a_forgotten_picture_is_encoded_anew_and_others_are_not(model, asked):
    images, _ = asked
    model.forget(images[0])
    assert [model.embed(picture.read_bytes()).cached for picture in PICTURES[:2]] == [False, True]


def test_no_sequence_of_llama_cpp_holds_it_any_more(model, asked):
    images, _ = asked
    both = states(model)
    model.forget(images[0])
    rest = states(model)
    of_the_first = pieces(both, not_in=rest)
    assert len(of_the_first) > 50
    assert not any(piece in rest for piece in of_the_first)
    of_the_second = pieces(rest, not_in=model._model.snapshot(SYSTEM))
    # One may reach over the end of llama.cpp's list of cells, whose numbers are others now.
    assert len(of_the_second) > 50 and sum(piece not in both for piece in of_the_second) <= 1


def test_all_can_be_forgotten_at_once(model, asked):
    images, _ = asked
    model.forget(*images)
    assert [len(held) > 0 for held in model._cache._held.values()] == [True, False, False, False]
    assert model._images._kept == {}


def test_the_cache_forgets_with_any_engine():
    model = FakeLanguageModel([[b"a"], [b"b"]])
    cache = KvCache(model, conversations=2)
    images = [ImageEmbedding(np.full((8, 4), number, np.float32), str(number), "photo") for number in (1, 2)]
    leases = [Lease(model, cache) for _ in images]
    for lease, image in zip(leases, images, strict=True):
        run_alone(model, lease.prefill([1, 5], image, [6]))
    for lease in leases:
        lease.release()
    rows = [{row.tobytes() for row in image.embeds} for image in images]
    assert all(any(row in cells for cells in model.cells.values()) for row in rows[0] | rows[1])
    cache.forget([images[0]])
    cells = [cell for held in model.cells.values() for cell in held]
    assert not rows[0] & set(filter(bytes.__instancecheck__, cells)) and rows[1] <= set(cells)
    assert [cache.length(sequence) for sequence in (SYSTEM, 1, 2)] == [2, 0, 2 + len(images[1].embeds) + 1]


# The process of the service that holds the model.


@pytest.fixture
def worker():
    found = Worker()
    yield found
    found.close()


def settle(worker: Worker) -> None:
    """Until all that was sent before is done."""
    for _ in range(2):
        send(worker.channel, "ping")
        worker.next("pong")


def is_held(worker: Worker) -> bool:
    """Whether the first photo need not be encoded."""
    worker.ask(99, PHOTOS[0])
    return bool(worker.until_end(99)[-1]["report"]["image"]["cached"])


@pytest.mark.parametrize("first", ["cancel", "forget"])
def test_a_photo_that_is_deleted_while_it_is_encoded_is_forgotten_too(worker, first):
    worker.ask(1, PHOTOS[0])
    assert worker.next("stage").header["stage"] == "vision_encoder"
    for kind in (first, "forget" if first == "cancel" else "cancel"):
        send(worker.channel, kind, **({"id": 1} if kind == "cancel" else {"sha256": PHOTOS[0].sha256}))
    worker.until_end(1)
    settle(worker)
    assert not is_held(worker)


def test_a_photo_whose_client_left_while_it_was_encoded_can_still_be_forgotten(worker):
    worker.ask(1, PHOTOS[0])
    worker.next("stage")
    send(worker.channel, "cancel", id=1)
    worker.until_end(1)
    send(worker.channel, "forget", sha256=PHOTOS[0].sha256)
    settle(worker)
    assert not is_held(worker)


def test_while_others_are_answered_a_photo_is_forgotten_all_the_same(worker):
    """And the answers that go on meanwhile are those that they would have been."""

    def answers(events):
        return [event["answer"]["token_ids"] for event in events if event["kind"] == "answer" and event["id"] < 9]

    worker.ask(1, PHOTOS[1], [QUESTION] * 40)
    expected = answers(worker.until_end(1))
    assert not is_held(worker) and is_held(worker)
    worker.ask(2, PHOTOS[1], [QUESTION] * 40)
    worker.next("text")
    send(worker.channel, "forget", sha256=PHOTOS[0].sha256)
    settle(worker)
    for _ in range(3):  # so many steps of the answer, of which two may be one: it forgets between two of them
        worker.next("text")
    worker.ask(99, PHOTOS[0])
    events = worker.until_end(99)
    assert not any(event.get("id") == 2 and event["kind"] == "end" for event in events)  # it still goes on
    assert not events[-1]["report"]["image"]["cached"]
    events += worker.until_end(2)
    assert events[-1]["report"]["turns"][-1]["token_ids"] == expected[-1]
    assert answers(events) == expected[-len(answers(events)) :]


def test_a_photo_that_is_asked_about_again_at_once_is_not_lost(worker):
    worker.ask(1, PHOTOS[0], [QUESTION] * 3)
    worker.next("text")
    worker.ask(2, PHOTOS[0])
    send(worker.channel, "forget", sha256=PHOTOS[0].sha256)
    assert worker.until_end(2)[-1]["kind"] == "end"
