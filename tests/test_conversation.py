"""What a conversation does with its context and its cache, on a language model that says what it is told."""

import time
from threading import Event

import numpy as np
import pytest
from skingpt_edge.engines.errors import Cancelled, EngineError, InputError, NumericalError, QuestionError
from skingpt_edge.engines.fake import FakeLanguageModel
from skingpt_edge.export.templates import SKINGPT4
from skingpt_edge.runtime.conversation import Conversation, Turn
from skingpt_edge.runtime.kv_cache import SYSTEM, KvCache
from skingpt_edge.runtime.manifest import SpecialTokens
from skingpt_edge.runtime.sampling import GenerationConfig, Sampler, nucleus
from skingpt_edge.runtime.scheduler import Scheduler
from skingpt_edge.runtime.vision import ImageEmbedding

WORK = 1  # the sequence of the only conversation
SPECIAL = SpecialTokens(unk=0, bos=1, eos=2)
SYSTEM_LENGTH = 1 + len((SKINGPT4.system + "###Human: <Img>").encode())


def picture(number: int) -> ImageEmbedding:
    return ImageEmbedding(np.full((32, 4), number, np.float32), f"sha-{number}", f"{number}.jpg")


def start(answers, n_ctx=4096):
    model = FakeLanguageModel([[piece.encode() for piece in answer] for answer in answers], n_ctx=n_ctx)
    cache = KvCache(model)
    return model, lambda number, turns=(): Conversation(model, cache, SKINGPT4, SPECIAL, n_ctx, picture(number), turns)


def cells(model, conversation):
    """What the cache must hold after the last answer: its prompt and all tokens but the last one."""
    answer = conversation.answers[-1]
    before, after = answer.segment_token_ids
    image = [row.tobytes() for row in conversation.image.embeds]
    return [*before, *image, *after, *answer.token_ids[:-1]]


def test_a_stop_string_ends_the_answer_and_is_streamed_to_nobody():
    _, converse = start([["It", " is", " red", " #", "##", " Human"]])
    conversation = converse(1)
    assert "".join(conversation.stream("What?")) == "It is red"
    answer = conversation.answers[0]
    assert (answer.text, answer.finish_reason, len(answer.token_ids)) == ("It is red", "stop", 5)


@pytest.mark.parametrize(
    ("said", "text", "original"),
    [
        (["Human: x", " Assistant", ": red", " ###"], "Human: x Assistant: red", "red"),
        (["Ass", "istant", ":", " Assistant: red"], "red", "red"),
        (["Assist"], "Assist", "Assist"),
        ([" Assistant:", "###"], "", ""),
        (["Assistants", " help"], "Assistants help", "Assistants help"),
    ],
)
def test_what_is_streamed_is_the_text_also_where_the_model_writes_assistant(said, text, original):
    """The next prompt has what the original has."""
    _, converse = start([said, ["ok"]])
    conversation = converse(1)
    assert "".join(conversation.stream("one")) == text
    assert conversation.answers[0].text == text
    assert conversation.answers[0].original_text.removesuffix("</s>").strip() == original
    assert f"one###Assistant: {original}" in conversation.ask("two").prompt


def test_ignore_stop_goes_on_but_cuts_the_text():
    _, converse = start([["red", "###", "Human", ": x"]])
    answer = converse(1).ask("What?", GenerationConfig(ignore_stop=True))
    assert (answer.text, answer.finish_reason, len(answer.token_ids)) == ("red", "eos", 5)


def test_the_end_of_sequence_token_and_the_limit_end_an_answer():
    _, converse = start([["red"], ["a", "b", "c"]])
    conversation = converse(1)
    assert conversation.ask("1").finish_reason == "eos"
    assert conversation.ask("2", GenerationConfig(max_new_tokens=2)).text == "ab"
    assert conversation.answers[1].finish_reason == "length"


def test_an_answer_ended_by_its_token_keeps_it_in_the_next_prompt_but_not_in_its_text():
    _, converse = start([["red", " "], ["x###"]])
    conversation = converse(1)
    assert "".join(conversation.stream("one")) == "red"
    assert conversation.answers[0].text == "red"
    assert conversation.answers[0].original_text == "red </s>"
    answer = conversation.ask("two")
    assert answer.original_text == "x"
    assert answer.prompt.endswith("###Assistant: red </s>###Human: two###Assistant:")
    assert answer.segment_token_ids[1].count(SPECIAL.eos) == 1


def test_a_follow_up_evaluates_what_is_new_and_the_cache_holds_the_whole_prompt():
    model, converse = start([["red"], ["blue"]])
    conversation = converse(1)
    for question in ("one", "two", "three"):
        before = model.evaluated
        answer = conversation.ask(question)
        assert model.cells[WORK] == cells(model, conversation)
        prompt = sum(map(len, answer.segment_token_ids)) + 32
        assert answer.prefill.evaluated + answer.prefill.reused == prompt
        generated = len(answer.token_ids) - 1
        assert answer.prefill.evaluated == model.evaluated - before - generated
    # The answer comes back as text, so its own tokens are computed again; everything before it is not.
    last = conversation.answers[1]
    assert answer.prefill.reused >= sum(map(len, last.segment_token_ids)) + 32 - 1


def test_the_system_prompt_is_evaluated_once_and_forked_for_each_picture():
    model, converse = start([["red"]])
    counts = [converse(number).ask("what").prefill for number in (1, 2, 3)]
    assert [count.reused for count in counts] == [0, SYSTEM_LENGTH, SYSTEM_LENGTH]
    assert len(model.cells[SYSTEM]) == SYSTEM_LENGTH


def test_an_answer_overtaken_by_another_is_an_error_not_other_words():
    model, converse = start([["a", "b", "c", "d"], ["e", "f"]])
    first, second = converse(1), converse(2)
    stream = first.stream("one")
    assert next(stream) == "a"
    second.ask("two")
    evaluated = model.evaluated
    with pytest.raises(EngineError, match="another answer was begun"):
        next(stream)
    assert model.evaluated == evaluated  # nothing of it got among the other's cells
    assert model.cells[WORK] == cells(model, second)
    assert first.ask("one again").text
    assert model.cells[WORK] == cells(model, first)


def test_a_stream_left_unfinished_leaves_nothing_behind():
    model, converse = start([["a", "b", "c"], ["d"]])
    conversation = converse(1)
    stream = conversation.stream("one")
    next(stream)
    stream.close()
    assert conversation.answers == []
    conversation.ask("two")
    assert model.cells[WORK] == cells(model, conversation)
    assert "one" not in conversation.answers[0].prompt


@pytest.mark.parametrize("sequence", [SYSTEM, WORK])
def test_an_evaluation_that_fails_halfway_leaves_no_wrong_words(sequence):
    model, converse = start([["red"]])
    conversation = converse(1)
    plain = model.evaluate

    def fail(segments):
        [segment] = segments
        if segment.sequence == sequence:
            plain([segment.part(0, 2)])
            raise EngineError("out of luck")
        return plain(segments)

    model.evaluate = fail
    with pytest.raises(EngineError, match="out of luck"):
        conversation.ask("one")
    model.evaluate = plain
    conversation.ask("two")
    assert model.cells[WORK] == cells(model, conversation)


def test_when_the_context_is_full_old_turns_go_but_never_system_or_picture():
    room = SYSTEM_LENGTH + 32 + 150
    model, converse = start([["x" * 30]], n_ctx=room)
    conversation = converse(1)
    config = GenerationConfig(max_new_tokens=10)
    dropped = [conversation.ask(f"question {i} of several", config).dropped_turns for i in range(5)]
    assert dropped[:2] == [0, 0]
    assert dropped[-1] > 0
    answer = conversation.answers[-1]
    assert answer.prompt.startswith(SKINGPT4.system + "###Human: <Img><ImageHere></Img> question ")
    assert "question 0" not in answer.prompt
    assert model.cells[WORK] == cells(model, conversation)
    assert len(model.cells[WORK]) <= room


@pytest.mark.parametrize("length", [0, 1, 7, 60])
def test_of_a_long_conversation_the_fewest_turns_go_after_few_tries(length):
    """Its text is not tokenized once for each turn, in which time no other answer would go on."""
    turns = [Turn(f"question {number}", "a" * (number % 13)) for number in range(length)]
    model, converse = start([], n_ctx=SYSTEM_LENGTH + 700)
    tokenize, tries = model.tokenize, []
    model.tokenize = lambda text, *, bos: (bos and tries.append(text)) or tokenize(text, bos=bos)
    conversation = converse(1, turns)
    _, segments, dropped = conversation._fit("what?", 10)
    assert len(tries) <= 2 + length.bit_length()
    sizes = [sum(map(len, converse(1, turns[gone:])._fit("what?", 1 - 10**6)[1])) + 42 for gone in range(length + 1)]
    assert dropped == next(gone for gone, size in enumerate(sizes) if size <= SYSTEM_LENGTH + 700)
    assert sum(map(len, segments)) + 42 == sizes[dropped]
    assert (dropped > 0) == (length == 60)


def test_a_question_that_does_not_fit_says_how_long_it_is():
    _, converse = start([["x"]], n_ctx=SYSTEM_LENGTH + 100)
    with pytest.raises(QuestionError, match=r"needs \d+ tokens .* the context holds"):
        converse(1).ask("y" * 200, GenerationConfig(max_new_tokens=10))


def test_an_empty_question_is_refused():
    _, converse = start([["x"]])
    with pytest.raises(QuestionError, match="empty"):
        converse(1).ask("  ")


def test_bytes_that_are_no_utf8_become_replacement_characters():
    model = FakeLanguageModel([[b"a\xe2", b"\x82", b"b", b"\xf0\x9f"]])
    conversation = Conversation(model, KvCache(model), SKINGPT4, SPECIAL, 4096, picture(1))
    assert "".join(conversation.stream("what")) == "a\ufffd\ufffdb\ufffd\ufffd"
    assert conversation.answers[0].text == "a\ufffd\ufffdb\ufffd\ufffd"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_never_become_text(value):
    model, converse = start([["x"]])
    plain = model.evaluate
    model.evaluate = lambda segments: np.where(plain(segments) > 0, np.float32(value), np.float32(0))
    with pytest.raises(NumericalError, match="logits"):
        converse(1).ask("what")


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 12.0])
@pytest.mark.parametrize("top_p", [1e-9, 0.1, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("size", [1, 100, 256, 257, 5000])
def test_the_nucleus_is_that_of_a_whole_sort(spread, top_p, size):
    logits = np.round(spread * np.random.default_rng(size).standard_normal(size), 1)  # many are equal
    probabilities = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-probabilities, kind="stable")
    whole = order[: int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1]
    assert nucleus(probabilities, top_p).tolist() == whole.tolist()


def test_sampling_repeats_with_its_seed_and_keeps_to_top_p():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))

    def draws(seed, top_p):
        sampler = Sampler(GenerationConfig(temperature=1.0, top_p=top_p, seed=seed))
        return [sampler.choose(logits) for _ in range(300)]

    assert draws(7, 0.9) == draws(7, 0.9)
    assert draws(7, 0.9) != draws(8, 0.9)
    assert set(draws(1, 0.79)) == {0, 1}
    assert set(draws(1, 0.85)) == {0, 1, 2}
    assert set(draws(1, 1.0)) == {0, 1, 2, 3}
    assert Sampler(GenerationConfig()).choose(logits) == 0


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"seed": -1}],
)
def test_settings_out_of_range_are_named(options):
    (name,) = options
    with pytest.raises(InputError, match=name):
        GenerationConfig(**options)


def test_a_prompt_is_evaluated_in_chunks_of_a_batch():
    model, converse = start([["red"]])
    question = "x" * (3 * model.n_batch)
    answer = converse(1).ask(question)
    prompt = sum(map(len, answer.segment_token_ids)) + 32
    assert model.evaluated == prompt + len(answer.token_ids) - 1
    before, after = map(len, answer.segment_token_ids)
    chunks = [-(-length // model.n_batch) for length in (before, 32 + after)]  # picture and question together
    assert len(model.calls) == sum(chunks) + len(answer.token_ids) - 1


def test_a_cancel_takes_effect_within_one_chunk_and_leaves_nothing_wrong():
    model, converse = start([["red"]])
    conversation, cancel = converse(1), Event()
    plain, seen = model.evaluate, []

    def cancelled_from_elsewhere(segments):
        seen.append(len(segments[0]))
        if len(seen) == 3:
            cancel.set()
        return plain(segments)

    model.evaluate = cancelled_from_elsewhere
    with pytest.raises(Cancelled):
        conversation.ask("x" * (10 * model.n_batch), cancel=cancel)
    assert len(seen) == 3
    model.evaluate = plain
    assert conversation.answers == []
    assert conversation.ask("two").text == "red"
    assert model.cells[WORK] == cells(model, conversation)


def test_a_stream_closed_or_cancelled_at_its_last_piece_leaves_no_answer():
    _, converse = start([["a", "b"]])
    conversation = converse(1)
    stream = conversation.stream("one", GenerationConfig(max_new_tokens=2))
    assert [next(stream), next(stream)] == ["a", "b"]  # the job has ended by now
    stream.close()
    assert conversation.answers == []


def test_a_cancel_after_the_last_token_keeps_the_answer():
    _, converse = start([["a", "b"]])
    conversation, cancel = converse(1), Event()
    for piece in conversation.stream("one", GenerationConfig(max_new_tokens=2), cancel=cancel):
        if piece == "b":
            cancel.set()
    assert conversation.answers[0].text == "ab"


def test_a_cancel_from_within_the_text_ends_the_job_after_the_step():
    model, converse = start([["a"] * 20])
    conversation, scheduler = converse(1), Scheduler(model)
    ticket = scheduler.add(conversation.job("one", on_text=lambda _: scheduler.cancel(ticket)))
    scheduler.run()
    assert ticket.finished
    assert (ticket.result, ticket.error, conversation.answers) == (None, None, [])


def test_the_time_of_a_slow_reader_is_not_the_models():
    _, converse = start([["a", "b", "c"]])
    conversation = converse(1)
    for _ in conversation.stream("one"):
        time.sleep(0.5)
    assert conversation.answers[0].decode_seconds < 0.5


def test_chunks_of_a_cancelled_prompt_do_not_fill_the_cache():
    model, converse = start([["red"]], n_ctx=SYSTEM_LENGTH + 32 + 300)
    short = GenerationConfig(max_new_tokens=10)
    for number in range(20):
        cancel = Event()
        plain = model.evaluate

        def stop(segments, plain=plain, cancel=cancel):
            cancel.set()
            return plain(segments)

        model.evaluate = stop
        with pytest.raises(Cancelled):
            converse(number).ask("x" * 200, short, cancel=cancel)
        model.evaluate = plain
        assert model.cells.get(WORK, []) == [] or len(model.cells[WORK]) <= SYSTEM_LENGTH + 32
    assert converse(1).ask("y" * 200, short).text == "red"


@pytest.mark.parametrize("form", ["tokens", "text"])
def test_a_conversation_is_rebuilt_from_its_turns_and_finds_its_cache_again(form):
    model, converse = start([["red"], ["blue"], ["green"]])
    first = converse(1)
    answers = [first.ask("one"), first.ask("two")]
    turns = [Turn(a.question, a.token_ids if form == "tokens" else a.original_text) for a in answers]
    again = converse(1, turns)
    answer = again.ask("three")
    assert answer.prompt == expected_prompt(["one", "two", "three"], [a.original_text for a in answers])
    assert answer.text == "green"
    assert again.answers == [answer]
    # All of the last prompt but its end is found in the cache.
    assert answer.prefill.reused >= sum(map(len, answers[1].segment_token_ids)) + 32 - 1
    assert model.cells[WORK] == cells(model, again)


def expected_prompt(questions, answers):
    text = SKINGPT4.system + SKINGPT4.first.replace("{question}", questions[0])
    for answer, question in zip(answers, questions[1:], strict=True):
        text += SKINGPT4.answer.replace("{answer}", answer) + SKINGPT4.next.replace("{question}", question)
    return text


def test_a_turns_tokens_are_decoded_as_the_original_decodes_them():
    _, converse = start([["red"], ["x"]])
    conversation = converse(1)
    ended = conversation.ask("one")
    assert ended.original_text.endswith("red</s>")
    answer = converse(1, [ended.turn]).ask("two")
    assert answer.segment_token_ids[1].count(SPECIAL.eos) == 1


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (Turn(" ", "red"), "turn 1: the question is empty"),
        (Turn("what", "caf\udcff"), "turn 1: the answer is not valid text"),
        (Turn("what", (5, 999_999)), "turn 1: token 999999, but the vocabulary has"),
        (Turn("what", (-1,)), "turn 1: token -1"),
    ],
)
def test_a_turn_that_cannot_be_one_is_refused(turn, message):
    _, converse = start([["red"]])
    with pytest.raises(QuestionError, match=message):
        converse(1, [turn])
