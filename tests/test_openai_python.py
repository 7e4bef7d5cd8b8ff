"""The `openai` package, as other programs use it, with the service."""

import base64
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import openai
import pytest
from openai import OpenAI
from service import PHOTO, RunningService, running, until
from skingpt_edge.runtime import GenerationConfig, SkinGPT
from support import GOLDEN

QUESTION = "What is this?"
SECOND = "Which treatment helps?"
DRAWN = (GOLDEN / "images/00.jpg").read_bytes()
SAMPLED = {"temperature": 2.0, "top_p": 1.0}


@pytest.fixture(scope="module")
def model():
    with SkinGPT.open() as found:
        yield found


@pytest.fixture(scope="module")
def exact(exact_bundle):
    """A model of random weights in float32: a single other token in the prompt changes its answer."""
    with SkinGPT.open(exact_bundle) as found:
        yield found


@pytest.fixture(scope="module")
def exact_service(exact_bundle, tmp_path_factory):
    with running(tmp_path_factory.mktemp("exact"), bundle=exact_bundle) as found:
        yield found


@pytest.fixture(scope="module")
def small_service(exact_bundle, tmp_path_factory):
    """It answers one request at a time, and none may wait."""
    options = ("--conversations", "1", "--queue", "0")
    with running(tmp_path_factory.mktemp("small"), *options, bundle=exact_bundle) as found:
        yield found


def connect(service: RunningService, **options) -> OpenAI:
    return OpenAI(**{"base_url": f"{service.url}/v1", "api_key": service.token, "max_retries": 0, **options})


def first(photo: bytes, question: str = QUESTION) -> dict:
    url = "data:image/jpeg;base64," + base64.b64encode(photo).decode()
    image = {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}
    return {"role": "user", "content": [{"type": "text", "text": question}, image]}


class Chat:
    """A client that sends its whole conversation each time."""

    def __init__(self, service: RunningService, photo: bytes) -> None:
        self.client = connect(service)
        self.name = self.client.models.list().data[0].id
        self._photo = photo
        self.messages: list = []

    def create(self, question: str, **options):
        """A completion, or a stream of one; without `stream` the conversation goes on."""
        asked = {"role": "user", "content": question} if self.messages else first(self._photo, question)
        messages = [*self.messages, asked]
        found = self.client.chat.completions.create(model=self.name, messages=messages, **options)
        if not options.get("stream"):
            self.messages = [*messages, found.choices[0].message]
        return found

    def close(self) -> None:
        self.client.close()


@pytest.fixture
def chat(service):
    found = Chat(service, PHOTO)
    yield found
    found.close()


@pytest.fixture
def exact_chat(exact_service):
    found = Chat(exact_service, DRAWN)
    yield found
    found.close()


@pytest.fixture
def small_chat(small_service):
    small_service.wait_ready()
    found = Chat(small_service, DRAWN)
    yield found
    found.close()


def joined(stream, number: int = 0) -> tuple[str, str | None]:
    """Text and finish reason of one choice of a stream."""
    chosen = [choice for chunk in stream for choice in chunk.choices if choice.index == number]
    reasons = [choice.finish_reason for choice in chosen if choice.finish_reason]
    assert [chosen[-1].finish_reason] == reasons and chosen[0].delta.role == "assistant"
    return "".join(choice.delta.content or "" for choice in chosen), reasons[0]


def test_the_models_are_listed_and_found(chat):
    [found] = chat.client.models.list().data
    assert (found.id, found.object, found.owned_by) == (chat.name, "model", "skingpt-edge")
    assert chat.client.models.retrieve(chat.name) == found
    with pytest.raises(openai.NotFoundError) as error:
        chat.client.models.retrieve("gpt-4o")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


def test_an_answer_is_that_of_the_model_in_process(chat, model):
    here = model.conversation(model.embed(PHOTO)).ask(QUESTION)
    there = chat.create(QUESTION)
    [choice] = there.choices
    assert (choice.index, choice.message.role, choice.message.content) == (0, "assistant", here.text)
    assert choice.finish_reason == "stop" and there.object == "chat.completion" and there.model == chat.name
    assert there.usage.completion_tokens == len(here.token_ids)
    assert there.usage.prompt_tokens == here.prefill.evaluated + here.prefill.reused
    assert there.usage.total_tokens == there.usage.prompt_tokens + there.usage.completion_tokens
    assert there.model_extra["skingpt"]["notice"] == model.bundle.manifest.notice


def test_a_stream_comes_in_pieces_that_join_to_the_answer(chat):
    whole = chat.create(QUESTION)
    chat.messages.clear()
    chunks = list(chat.create(QUESTION, stream=True))
    assert joined(chunks) == (whole.choices[0].message.content, "stop")
    assert len(chunks) > 5 and len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"} and not any(chunk.usage for chunk in chunks)


def test_the_usage_comes_at_the_end_of_a_stream_if_asked_for(chat):
    chunks = list(chat.create(QUESTION, stream=True, stream_options={"include_usage": True}))
    assert not any(chunk.usage for chunk in chunks[:-1]) and chunks[-1].choices == []
    usage = chat.create(QUESTION).usage
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens, chunks[-1].usage.total_tokens) == (
        usage.prompt_tokens, usage.completion_tokens, usage.total_tokens,
    )  # fmt: skip


def test_a_follow_up_is_that_of_a_conversation_in_process_and_finds_its_kv_again(exact_chat, exact):
    conversation = exact.conversation(exact.embed(DRAWN))
    for number, question in enumerate([QUESTION, f" {SECOND}\n", "And why?"]):
        here = conversation.ask(question, GenerationConfig(max_new_tokens=12))
        there = exact_chat.create(question, max_tokens=12)
        assert there.choices[0].message.content == here.text
        assert (there.choices[0].finish_reason, there.usage.completion_tokens) == ("length", 12)
        assert there.usage.prompt_tokens == here.prefill.evaluated + here.prefill.reused
        if number:
            # As much as the conversation in process: all of its prompt so far, and what was said since.
            assert there.usage.prompt_tokens_details.cached_tokens == here.prefill.reused > 60


def test_of_another_photo_only_the_text_before_it_is_found_again(exact_chat, exact):
    exact_chat._photo = (GOLDEN / "images/01.png").read_bytes()
    here = exact.conversation(exact.embed(exact_chat._photo)).ask(QUESTION)
    there = exact_chat.create(QUESTION)
    assert there.choices[0].message.content == here.text
    assert there.usage.prompt_tokens_details.cached_tokens == len(here.segment_token_ids[0])


def test_a_follow_up_to_a_streamed_answer_is_the_same(exact_chat, exact):
    conversation = exact.conversation(exact.embed(DRAWN))
    limit = GenerationConfig(max_new_tokens=12)
    text, _ = joined(exact_chat.create(QUESTION, stream=True, max_tokens=12))
    exact_chat.messages = [first(DRAWN), {"role": "assistant", "content": text}]
    assert text == conversation.ask(QUESTION, limit).text
    assert joined(exact_chat.create(SECOND, stream=True, max_tokens=12))[0] == conversation.ask(SECOND, limit).text


def test_a_follow_up_to_an_answer_with_a_stop_string_is_the_same(exact_chat, exact):
    """One that the end-of-sequence token ended: the next prompt holds that token, which the text does not."""
    image, config = exact.embed(DRAWN), {"max_new_tokens": 12, **SAMPLED, "stop": ("zz",)}
    for seed in count():
        conversation = exact.conversation(image)
        if conversation.ask(QUESTION, GenerationConfig(seed=seed, **config)).finish_reason == "eos":
            break
    there = exact_chat.create(f"{QUESTION}\n", seed=seed, max_tokens=12, stop="zz", **SAMPLED)
    assert (there.choices[0].message.content, there.choices[0].finish_reason) == (conversation.answers[0].text, "stop")
    limit = GenerationConfig(max_new_tokens=12)
    assert exact_chat.create(SECOND, max_tokens=12).choices[0].message.content == conversation.ask(SECOND, limit).text


@pytest.mark.parametrize("stop", ["red", [" flat", " red"], "\n", " ", "no such words", ["The"]])
def test_an_answer_ends_before_a_stop_string(chat, stop):
    uncut = chat.create(QUESTION).choices[0].message.content
    places = [uncut.find(text) for text in ([stop] if isinstance(stop, str) else stop) if text in uncut]
    chat.messages.clear()
    assert joined(chat.create(QUESTION, stop=stop, stream=True)) == (uncut[: min(places, default=None)].strip(), "stop")
    [choice] = chat.create(QUESTION, stop=stop).choices
    assert (choice.message.content, choice.finish_reason) == (uncut[: min(places, default=None)].strip(), "stop")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_answer_ends_after_as_many_tokens_as_asked_for(chat, field):
    uncut = chat.create(QUESTION).choices[0].message.content
    chat.messages.clear()
    assert joined(chat.create(QUESTION, stream=True, **{field: 3})) == ("The picture shows", "length")
    found = chat.create(QUESTION, **{field: 3})
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("The picture shows", "length")
    assert found.usage.completion_tokens == 3 and uncut.startswith("The picture shows ")


def test_the_same_seed_gives_the_same_answer_and_another_one_another(exact_chat, exact):
    def ask(seed: int | None) -> str:
        exact_chat.messages.clear()
        found = exact_chat.create(QUESTION, seed=seed, max_tokens=12, **SAMPLED)
        return found.choices[0].message.content

    here = exact.conversation(exact.embed(DRAWN))
    assert ask(5) == ask(5) == here.ask(QUESTION, GenerationConfig(seed=5, max_new_tokens=12, **SAMPLED)).text
    assert len({ask(5), ask(6), ask(-1), ask(None), ask(None)}) == 5


def test_several_choices_are_several_answers(exact_chat):
    options = {"n": 3, "seed": 7, "max_tokens": 12, **SAMPLED}
    whole = exact_chat.create(QUESTION, **options)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert whole.usage.completion_tokens == 36
    exact_chat.messages.clear()
    chunks = list(exact_chat.create(QUESTION, stream=True, **options))
    assert [joined(chunks, number) for number in range(3)] == [(text, "length") for text in texts]


@pytest.mark.parametrize("stream", [False, True])
def test_without_sampling_several_choices_are_the_same(chat, stream):
    found = chat.create(QUESTION, n=2, stream=stream)
    texts = [choice.message.content for choice in found.choices] if not stream else None
    if stream:
        chunks = list(found)
        texts = [joined(chunks, number)[0] for number in range(2)]
    assert texts[0] == texts[1] != ""


def test_a_wrong_key_is_an_authentication_error(service):
    with connect(service, api_key="wrong") as client, pytest.raises(openai.AuthenticationError) as error:
        client.models.list()
    assert error.value.code == "invalid_api_key"


def test_what_is_refused_is_a_bad_request_with_code_and_field(chat):
    with pytest.raises(openai.BadRequestError) as error:
        chat.create(QUESTION, temperature=3)
    assert (error.value.code, error.value.param, error.value.type) == (
        "value_unusable", "temperature", "invalid_request_error",
    )  # fmt: skip
    assert error.value.body["message"] == "temperature: Expected `float` <= 2.0."
    with pytest.raises(openai.BadRequestError) as error:
        chat.create(QUESTION, tools=[{"type": "function", "function": {"name": "f"}}], stream=True)
    assert (error.value.code, error.value.param) == ("unsupported", "tools")


def test_another_model_is_not_found(chat):
    with pytest.raises(openai.NotFoundError) as error:
        chat.client.chat.completions.create(model="gpt-4o", messages=[first(PHOTO)])
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    "ask",
    [
        lambda client, model: client.responses.create(model=model, input=QUESTION),
        lambda client, model: client.completions.create(model=model, prompt=QUESTION),
        lambda client, model: client.embeddings.create(model=model, input=QUESTION),
        lambda client, model: client.files.list(),
    ],
    ids=["responses", "completions", "embeddings", "files"],
)
def test_what_there_is_not_of_openais_api_is_not_found_and_says_what_there_is(ask, chat):
    with pytest.raises(openai.NotFoundError) as error:
        ask(chat.client, chat.name)
    assert (error.value.code, error.value.type) == ("route_unknown", "invalid_request_error")
    assert "POST /v1/chat/completions and GET /v1/models" in error.value.body["message"]


def test_a_photo_that_is_none_is_unprocessable(chat):
    with pytest.raises(openai.UnprocessableEntityError) as error:
        chat.client.chat.completions.create(model=chat.name, messages=[first(b"no photo")])
    assert error.value.code == "image_unusable"


def test_the_clients_own_stream_helper_gets_the_answer(chat):
    with chat.client.chat.completions.stream(model=chat.name, messages=[first(PHOTO)]) as stream:
        kinds = {event.type for event in stream}
        found = stream.get_final_completion()
    assert {"content.delta", "content.done"} <= kinds
    assert found.choices[0].message.content == chat.create(QUESTION).choices[0].message.content


LONG = {"n": 8, "seed": 3, "max_tokens": 1900, **SAMPLED}
"""A thousand tokens and more, one after the other."""


def gauge(service: RunningService) -> float:
    lines = service.request("GET", "/metrics")[2].decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("skingpt_requests_now "))


@pytest.fixture(scope="module")
def long_seconds(small_service) -> float:
    """How long the long answer takes if nobody stops it."""
    chat, begun = Chat(small_service, DRAWN), time.monotonic()
    assert chat.create(QUESTION, **LONG).usage.completion_tokens > 500
    chat.close()
    return time.monotonic() - begun


def until_idle(service: RunningService, seconds: float) -> None:
    end = time.monotonic() + seconds
    while gauge(service):
        assert time.monotonic() < end, "the request goes on"
        time.sleep(0.01)


def test_a_stream_that_is_closed_holds_nobody_up(small_service, small_chat, long_seconds):
    stream = small_chat.create(QUESTION, stream=True, **LONG)
    assert next(stream).choices and gauge(small_service) == 1
    stream.close()
    until_idle(small_service, long_seconds / 2)
    assert small_chat.create(QUESTION, max_tokens=3).usage.completion_tokens == 3


def test_a_client_that_gives_up_waiting_holds_nobody_up(small_service, small_chat, long_seconds):
    with pytest.raises(openai.APITimeoutError):
        small_chat.create(QUESTION, timeout=min(1, long_seconds / 4), **LONG)
    until_idle(small_service, long_seconds / 2)
    assert small_chat.create(QUESTION, max_tokens=3).usage.completion_tokens == 3


def test_a_full_queue_is_a_status_error_that_says_when_to_come_back(small_service, small_chat):
    with small_chat.create(QUESTION, stream=True, **LONG) as stream:
        next(stream)
        with pytest.raises(openai.InternalServerError) as error:
            small_chat.create(QUESTION)
    assert isinstance(error.value, openai.APIStatusError)
    assert (error.value.status_code, error.value.code, error.value.type) == (503, "queue_full", "server_error")
    assert error.value.response.headers["retry-after"] == "5"
    until_idle(small_service, 120)


def test_the_death_of_the_models_process_is_an_error_in_the_stream(small_service, small_chat):
    before = small_chat.create(QUESTION, max_tokens=12).choices[0].message.content
    small_chat.messages.clear()
    stream = small_chat.create(QUESTION, stream=True, **LONG)
    next(stream)
    os.kill(small_service.worker(), signal.SIGKILL)
    with pytest.raises(openai.APIError, match="has ended: ask again") as error:
        list(stream)
    assert error.value.code == "worker_ended" and not isinstance(error.value, openai.APIConnectionError)
    assert small_chat.create(QUESTION, max_tokens=12).choices[0].message.content == before


def test_the_death_of_the_models_process_is_a_status_error_without_a_stream(small_service, small_chat):
    with small_chat.create(QUESTION, stream=True, **LONG) as stream:
        next(stream)
    until_idle(small_service, 120)
    os.kill(small_service.worker(), signal.SIGSTOP)  # so that it is certainly being asked when it dies
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(small_chat.create, QUESTION)
        until(lambda: gauge(small_service))
        os.kill(small_service.worker(), signal.SIGKILL)
        with pytest.raises(openai.APIStatusError) as error:
            asked.result()
    assert (error.value.status_code, error.value.code) == (503, "worker_ended")
