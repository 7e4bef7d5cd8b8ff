"""Several answers at once: the same words as alone, fairly, and each ended without the others noticing."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from skingpt_edge.engines.base import EmbeddingSegment, TokenSegment
from skingpt_edge.engines.errors import EngineError, InputError
from skingpt_edge.engines.fake import EOS, FIRST_SCRIPTED, FakeLanguageModel
from skingpt_edge.export.templates import SKINGPT4
from skingpt_edge.runtime.conversation import Conversation
from skingpt_edge.runtime.kv_cache import KvCache
from skingpt_edge.runtime.manifest import SpecialTokens
from skingpt_edge.runtime.options import Options
from skingpt_edge.runtime.sampling import GenerationConfig
from skingpt_edge.runtime.scheduler import CHUNK, Scheduler, run_alone
from skingpt_edge.runtime.skingpt import SkinGPT
from skingpt_edge.runtime.vision import ImageEmbedding
from support import GOLDEN, ROOT

PICTURES = sorted((ROOT / "runtime/demo/pictures").glob("*.jpg"))[:4]
SAMPLED = GenerationConfig(max_new_tokens=40, temperature=1.5, top_p=1.0, seed=3)


def start(answers, at_once, together=True):
    model = FakeLanguageModel([[piece.encode() for piece in answer] for answer in answers])
    cache = KvCache(model, at_once)
    scheduler = Scheduler(model, at_once=at_once, together=together)

    def converse(number):
        image = ImageEmbedding(np.full((CHUNK + 8, 4), number, np.float32), f"sha-{number}", "x.jpg")
        return Conversation(model, cache, SKINGPT4, SpecialTokens(0, 1, 2), 4096, image)

    return model, scheduler, converse


def test_each_job_gets_its_own_words():
    _, scheduler, converse = start([["a"] * 5, ["b"] * 9, ["c"] * 2], 3)
    conversations = [converse(i) for i in range(3)]
    heard = [[] for _ in conversations]
    for conversation, pieces in zip(conversations, heard, strict=True):
        scheduler.add(conversation.job("what", on_text=pieces.append))
    scheduler.run()
    assert sorted("".join(pieces) for pieces in heard) == ["aaaaa", "bbbbbbbbb", "cc"]
    assert [conversation.answers[0].text for conversation in conversations] == ["".join(p) for p in heard]


def test_tokens_are_evaluated_together_and_prompts_do_not_hold_up_who_is_reading():
    model, scheduler, converse = start([["a"] * 60, ["b"] * 60], 2)
    scheduler.add(converse(1).job("first"))
    while model.said(1) < 5:
        scheduler.step()
    begun = len(model.calls)
    scheduler.add(converse(2).job("x" * 300))
    scheduler.run()
    calls = model.calls[begun:]
    reader = [i for i, sequences in enumerate(calls) if 1 in sequences]
    assert reader == list(range(len(reader)))  # a token of its own in each call, also beside the other's picture
    assert any(set(sequences) == {1, 2} for sequences in calls)


@pytest.mark.parametrize("together", [True, False])
def test_prompts_are_first_come_first_served_while_an_answer_goes_on(together):
    model, scheduler, converse = start([["a"] * 200, ["b"], ["c"], ["d"]], 4, together)
    scheduler.add(converse(0).job("first"))
    while model.said(1) < 5:
        scheduler.step()
    begun = len(model.calls)
    heard = []
    for number in (1, 2, 3):
        job = converse(number).job("x" * 300, on_text=lambda _, number=number: heard.append((number, len(model.calls))))
        scheduler.add(job)
    scheduler.run()
    assert [number for number, _ in heard] == [1, 2, 3]
    served = [sequence for sequences in model.calls[begun:] for sequence in sequences if sequence != 1]
    assert len(list(itertools.groupby(served))) == 3  # each at a stretch
    # Not only in this order: the first one's answer began when a third of the work was done.
    assert heard[0][1] - begun < (heard[2][1] - begun) * 0.4
    reader = [number for number, sequences in enumerate(model.calls) if 1 in sequences]
    # One after the other, there is also a token of an answer that has just begun.
    assert max(b - a for a, b in itertools.pairwise(reader)) <= (2 if together else 3)


def questions(conversation, texts, log, on_text=lambda _: None):
    """A report's job: one question after the other."""
    for text in texts:
        log.append(text)
        yield from conversation.job(text, on_text=on_text)


def test_a_job_that_waits_does_not_wait_for_all_questions_of_those_before_it():
    _, scheduler, converse = start([["a"] * 3], 2)
    log = []
    scheduler.add(questions(converse(1), [f"a{i}" for i in range(9)], log))
    scheduler.add(questions(converse(2), [f"b{i}" for i in range(9)], log))
    scheduler.step()
    scheduler.add(questions(converse(3), ["c"], log))
    scheduler.add(questions(converse(4), ["d"], log))
    scheduler.run()
    assert log.index("b0") <= 2  # before the third question of the first
    assert log.index("c") < log.index("d")
    assert [text for text in log if text[0] == "b"] == [f"b{i}" for i in range(9)]


def test_a_new_job_comes_before_later_questions_of_reports_with_short_answers():
    _, scheduler, converse = start([["a"]], 4)
    log = []
    for number in (1, 2):
        scheduler.add(questions(converse(number), [f"{number}{i}" for i in range(9)], log))
    while len(log) < 4:
        scheduler.step()
    scheduler.add(questions(converse(3), ["new"], log))
    scheduler.add(questions(converse(4), ["newer"], log))
    scheduler.run()
    # At most the question that is computed, and one of each report that was there before it.
    assert log.index("new") <= 4 + 2
    assert log.index("new") < log.index("newer") <= log.index("new") + 3


@pytest.mark.parametrize("answer", [["a"], []])
def test_nor_does_one_wait_for_reports_whose_answers_are_one_token_or_none(answer):
    _, scheduler, converse = start([answer], 4)
    log = []

    def add_report(number):
        conversation = converse(number)

        def job():
            for question in range(9):
                log.append(f"{number}{question}")
                yield from conversation.job("what", GenerationConfig(max_new_tokens=1))
                scheduler.end_prompt(ticket)

        ticket = scheduler.add(job())

    for number in (1, 2):
        add_report(number)
    while len(log) < 4:
        scheduler.step()
    scheduler.add(questions(converse(3), ["new"], log))
    scheduler.run()
    assert log.index("new") <= 4 + 2
    assert len(log) == 19


def test_while_it_holds_no_prompt_is_begun_and_answers_go_on():
    model, scheduler, converse = start([["a"] * 60, ["b"] * 3, ["c"] * 3], 2)
    scheduler.add(converse(1).job("first"))
    while model.said(1) < 5:
        scheduler.step()
    assert scheduler.between_prompts
    second = scheduler.add(converse(2).job("x" * 300))
    scheduler.step()
    assert not scheduler.between_prompts  # one that was begun goes on to its end
    scheduler.hold = True
    third = scheduler.add(converse(3).job("third"))
    for _ in range(200):
        assert scheduler.step()  # there is still something to do
    assert second.finished and third.segment is None and not third.finished
    scheduler.hold = False
    scheduler.run()
    assert third.result.text == "ccc"


def test_a_reports_next_question_does_not_go_before_a_prompt_that_was_there_when_it_came():
    model, scheduler, converse = start([["a"] * 3, ["b"] * 3], 2)
    heard = []
    scheduler.add(questions(converse(1), ["one", "two"], [], heard.append))
    while model.said(1) < 1:
        scheduler.step()
    scheduler.add(converse(2).job("x" * 600, on_text=heard.append))
    scheduler.run()
    assert "".join(heard).index("b") == 3
    assert sorted("".join(heard)) == list("aaaaaabbb")


def test_a_job_about_the_same_picture_reuses_the_prompt_before_it():
    _, scheduler, converse = start([["a"] * 3], 3)
    conversations = [converse(7) for _ in range(3)]
    for conversation in conversations:
        scheduler.add(conversation.job("what"))
    scheduler.run()
    assert [conversation.answers[0].prefill.evaluated for conversation in conversations][1:] == [1, 1]


def test_one_alone_is_served_alone_when_asked_for():
    model, scheduler, converse = start([["a"] * 5, ["b"] * 5], 2, together=False)
    for i in (1, 2):
        scheduler.add(converse(i).job("what"))
    scheduler.run()
    assert all(len(sequences) == 1 for sequences in model.calls)


def test_more_jobs_than_room_wait_their_turn():
    model, scheduler, converse = start([["a"], ["b"], ["c"], ["d"]], 2)
    conversations = [converse(i) for i in range(4)]
    tickets = [scheduler.add(conversation.job("what")) for conversation in conversations]
    scheduler.run()
    assert all(ticket.finished and ticket.error is None for ticket in tickets)
    assert sorted(conversation.answers[0].text for conversation in conversations) == ["a", "b", "c", "d"]
    assert set(model.cells) <= {0, 1, 2}


def test_cancel_ends_one_and_its_place_is_free_again():
    _, scheduler, converse = start([["a"] * 50, ["b"] * 9, ["c"]], 2)
    first, second, third = converse(1), converse(2), converse(3)
    ticket = scheduler.add(first.job("one"))
    scheduler.add(second.job("two"))
    for _ in range(20):
        scheduler.step()
    scheduler.cancel(ticket)
    scheduler.add(third.job("three"))
    scheduler.run()
    assert first.answers == []
    assert second.answers[0].text == "b" * 9
    assert third.answers[0].text == "c"


def test_an_evaluation_that_fails_ends_only_the_job_it_was_for():
    model, scheduler, converse = start([["a"] * 9, ["b"] * 9], 2)
    first, second = converse(1), converse(2)
    tickets = [scheduler.add(first.job("one")), scheduler.add(second.job("two"))]
    plain = model.evaluate

    def fail(segments):
        if any(segment.sequence == 2 for segment in segments) and model.said(2) == 3:
            raise EngineError("out of luck")
        return plain(segments)

    model.evaluate = fail
    scheduler.run()
    failed, went_on = sorted(tickets, key=lambda ticket: ticket.error is None)
    assert str(failed.error) == "out of luck"
    assert went_on.error is None
    assert went_on.result.text in ("a" * 9, "b" * 9)
    assert sorted(len(conversation.answers) for conversation in (first, second)) == [0, 1]


@pytest.fixture(scope="module")
def exact(exact_bundle):
    with SkinGPT.open(exact_bundle, options=Options(conversations=4, threads=2)) as model:
        yield model


def test_other_answers_beside_it_change_no_token_of_the_golden_answers(exact):
    """In float32, where the original's tokens are recorded."""
    config = GenerationConfig(max_new_tokens=40, ignore_stop=True)
    images = [exact.embed(path.read_bytes()) for path in sorted((GOLDEN / "images").glob("0[0-2].*"))]
    questions = ["What is this?", "Describe the lesion.", "Could it be an infection, and of what kind?"]
    alone = [exact.ask(image, question, config).token_ids for image in images for question in questions]
    scheduler = exact.scheduler()
    conversations = [(exact.conversation(image), question) for image in images for question in questions]
    tickets = [scheduler.add(conversation.job(question, config)) for conversation, question in conversations]
    scheduler.run()
    assert not [ticket.error for ticket in tickets if ticket.error]
    assert [conversation.answers[0].token_ids for conversation, _ in conversations] == alone


@pytest.fixture(scope="module")
def demo():
    with SkinGPT.open(options=Options(conversations=4, cells=4096)) as model:
        yield model


def test_the_same_seed_and_count_give_the_same_samples(demo):
    image = demo.embed(PICTURES[0].read_bytes())

    def draw(count, **changes):
        return [answer.token_ids for answer in demo.samples(image, "What is this?", replace(SAMPLED, **changes), count)]

    first = draw(6)
    assert draw(6) == first
    assert len(set(first)) > 1
    assert draw(6, seed=4) != first


def test_samples_compute_the_prompt_once(demo):
    image = demo.embed(PICTURES[1].read_bytes())
    answers = demo.samples(image, "What is this?", SAMPLED, 6)
    assert [answer.prefill.evaluated for answer in answers] == [1] * 6


def test_a_rebuilt_conversation_samples_on_where_it_was(demo):
    image = demo.embed(PICTURES[2].read_bytes())
    conversation = demo.conversation(image)
    first, second = conversation.ask("What is this?", SAMPLED), conversation.ask("Why?", SAMPLED)
    again = demo.conversation(image, [first.turn]).ask("Why?", SAMPLED)
    assert again.token_ids == second.token_ids
    assert again.prompt == second.prompt
    other = demo.conversation(image, [first.turn]).ask("Why?", replace(SAMPLED, seed=4))
    assert other.token_ids != second.token_ids


def test_samples_need_chance(demo):
    image = demo.embed(PICTURES[0].read_bytes())
    with pytest.raises(InputError, match="temperature"):
        demo.samples(image, "What is this?", GenerationConfig(), 3)
    with pytest.raises(InputError, match="samples is 0"):
        demo.samples(image, "What is this?", SAMPLED, 0)


def test_one_after_the_other_is_bit_identical_to_running_alone(demo):
    """The reproducible mode, in a precision whose kernels differ with the number of rows."""
    images = [demo.embed(path.read_bytes()) for path in PICTURES]
    config = GenerationConfig(max_new_tokens=60, temperature=1.0, seed=1)
    alone = []
    for image in images:
        with SkinGPT.open() as fresh:
            alone.append(fresh.ask(image, "What is this?", config).token_ids)
    scheduler = demo.scheduler(together=False)
    conversations = [demo.conversation(image) for image in images]
    for conversation in conversations:
        scheduler.add(conversation.job("What is this?", config))
    scheduler.run()
    assert [conversation.answers[0].token_ids for conversation in conversations] == alone


def test_the_same_picture_is_encoded_once(demo, monkeypatch):
    encoded = []
    plain = demo.vision.embed_photo
    monkeypatch.setattr(demo.vision, "embed_photo", lambda photo, name: encoded.append(name) or plain(photo, name))
    data = PICTURES[3].read_bytes()
    demo._images.clear()
    first, again = demo.embed(data, "a.jpg"), demo.embed(data, "b.jpg")
    assert encoded == ["a.jpg"]
    assert (first.cached, again.cached, again.name) == (False, True, "b.jpg")
    assert (first.embeds == again.embeds).all()
    assert sum(again.seconds.values()) == 0


@pytest.mark.parametrize(("kept", "encoded"), [(0, 4), (1, 4), (2, 2)])
def test_the_image_cache_is_bounded_and_can_be_off(kept, encoded):
    with SkinGPT.open(options=Options(image_cache=kept)) as model:
        images = [model.embed(path.read_bytes()) for path in (*PICTURES[:2], *PICTURES[:2])]
    assert sum(not image.cached for image in images) == encoded


SEGMENTS = [TokenSegment(1, 0, (1, 2)), EmbeddingSegment(1, 0, np.zeros((2, 4), np.float32))]


@pytest.mark.parametrize("segment", SEGMENTS, ids=["tokens", "embeddings"])
def test_a_job_ended_by_an_error_says_so_in_its_ticket(segment):
    def job():
        yield segment
        raise ValueError("mine")

    scheduler = Scheduler(FakeLanguageModel([[b"a"]]))
    ticket = scheduler.add(job())
    scheduler.run()
    assert ticket.finished
    assert str(ticket.error) == "mine"
    assert ticket.result is None


def test_a_job_is_sent_the_logits_after_each_segment_and_its_result_is_kept():
    model = FakeLanguageModel([[b"a"]])

    def job():
        chosen = []
        for segment in SEGMENTS:
            logits = yield replace(segment, position=2 * len(chosen))
            chosen.append(int(logits.argmax()))
        return chosen

    assert run_alone(model, job()) == [EOS, FIRST_SCRIPTED]


def test_the_text_before_the_picture_is_computed_once_for_all():
    with SkinGPT.open(options=Options(conversations=4, prompt_snapshot=False)) as model:
        conversations = [model.conversation(model.embed(path.read_bytes())) for path in PICTURES]
        scheduler = model.scheduler()
        for conversation in conversations:
            scheduler.add(conversation.job("What is this?", GenerationConfig(2)))
        scheduler.run()
        answers = [conversation.answers[0] for conversation in conversations]
    system = len(answers[0].segment_token_ids[0])
    assert [answer.prefill.reused for answer in answers] == [system] * 4


def test_one_that_finds_another_at_that_text_does_not_wait_and_its_copy_is_counted():
    """Without `SkinGPT.scheduler`, which computes it first, and with schedulers of their own, as streams have."""
    model, scheduler, converse = start([["a"] * 3, ["b"] * 3], 2)
    conversations = [converse(1), converse(2)]
    scheduler.add(conversations[0].job("what"))
    scheduler.step()
    other = Scheduler(model)
    other.add(conversations[1].job("what"))
    other.step()
    scheduler.run()
    other.run()
    assert sorted(conversation.answers[0].text for conversation in conversations) == ["aaa", "bbb"]
    cache = conversations[0]._cache
    private = [sequence for sequence in (1, 2) if cache._from_system[sequence] == 0]
    assert len(private) == 1
    model.n_ctx = len(model.cells[0]) + len(model.cells[1]) + len(model.cells[2]) + 20
    third = converse(3)  # needs what finished conversations take, the private copy above all
    scheduler.add(third.job("x" * 60, GenerationConfig(2)))
    scheduler.run()
    assert third.answers[0].text == "aa"


def test_one_cancelled_in_the_text_before_the_picture_leaves_it_for_the_next():
    model, scheduler, converse = start([["a"]], 1)
    ticket = scheduler.add(converse(1).job("one"))
    scheduler.step()
    assert 0 < len(model.cells[0]) < 170  # a part of that text
    scheduler.cancel(ticket)
    second = converse(2)
    scheduler.add(second.job("two"))
    scheduler.run()
    assert second.answers[0].text == "a"
    assert len(model.cells[0]) == len(second.answers[0].segment_token_ids[0])
