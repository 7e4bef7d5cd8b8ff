"""Reads a chat request as OpenAI's clients write it, and says what of it is not supported."""

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from .json_body import convert, field_unknown, read_json
from .problems import Problem
from .settings import MAX_CHAT_TEXT, MAX_CHOICES, MAX_PHOTO

DATA_TYPES = ("data:image/jpeg;base64,", "data:image/jpg;base64,", "data:image/png;base64,", "data:image/webp;base64,")

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logprobs": (False,), "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],), "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "store": (False,), "audio": (), "prediction": (),
    "web_search_options": (), "moderation": (),
}  # fmt: skip
"""Fields that would change the answer, and the values with which they do not; null is always one."""
HARMLESS = {
    "user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls", "reasoning_effort", "verbosity",
}  # fmt: skip
"""Fields that do not change what this model says."""


class ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None


class TextPart(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class ImagePart(msgspec.Struct, tag_field="type", tag="image_url"):
    image_url: ImageUrl | str
    """The string is an older form that clients still send."""


class ChatMessage(msgspec.Struct):
    role: Literal["user", "assistant", "system", "developer", "tool", "function"]
    content: str | list[TextPart | ImagePart] | None = None
    tool_calls: list[Any] | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


Tokens = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
StopString = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class ChatRequest(msgspec.Struct):
    model: str
    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1, max_length=200)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopString | Annotated[list[StopString], msgspec.Meta(max_length=4)] | None = None


@dataclass(frozen=True)
class Chat:
    """What was said about the photo, as our prompt has it."""

    turns: tuple[tuple[str, str], ...]
    """Questions and answers before."""
    question: str


def read_request(body: bytes) -> tuple[ChatRequest, Chat, bytes]:
    """A request without its messages, what they say, and their photo's file.

    Raises Problem for JSON that is none, for a value of a wrong type or size, and for what is not supported.
    """
    given = read_json(body)
    for name, value in given.items():
        _check_field(name, value)
    request = convert(given, ChatRequest)
    chat, photo = _read_messages(request.messages)
    request.messages = []  # they hold the photo a second time, in base64
    return request, chat, photo


def _check_field(name: str, value: Any) -> None:
    if name in ChatRequest.__struct_fields__ or name in HARMLESS:
        return
    if name not in NEUTRAL:
        raise field_unknown(name)
    # In Python, but not in JSON, False is 0.
    same = (value == one and isinstance(value, bool) == isinstance(one, bool) for one in NEUTRAL[name])
    if value is not None and not any(same):
        raise Problem("unsupported", f"{name} is not supported, except with its default.", param=name)


def _read_messages(messages: list[ChatMessage]) -> tuple[Chat, bytes]:
    """The turns and the question, and the photo's file. Raises Problem."""
    photo: bytes | None = None
    texts: list[str] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            raise Problem("unsupported", _role_advice(message.role, where, expected), param=f"{where}.role")
        if message.tool_calls:
            raise Problem("unsupported", f"{where}: tool calls are not supported.", param=f"{where}.tool_calls")
        text, images = _parts(message)
        for url in images:
            data = read_image_url(url, where)
            if number and data != photo:
                raise Problem(
                    "unsupported", f"{where}: one photo for a conversation, in its first message.", param=where
                )
            if photo not in (None, data):
                raise Problem("unsupported", f"{where}: more than one photo.", param=where)
            photo = data
        texts.append(text.strip())  # as a conversation has it
    if len(messages) % 2 == 0:
        raise Problem("unsupported", "The last message must be the user's.", param="messages")
    if sum(map(len, texts)) > MAX_CHAT_TEXT:
        detail = f"All texts together have more than {MAX_CHAT_TEXT:,} characters: leave the oldest turns out."
        raise Problem("question_unusable", detail, param="messages")
    if photo is None:
        raise Problem(
            "image_missing", "The first message must hold the photo, as a data URI in image_url.", param="messages"
        )
    return Chat(tuple(zip(texts[:-1:2], texts[1::2], strict=True)), texts[-1]), photo


def _role_advice(role: str, where: str, expected: str) -> str:
    if role in ("system", "developer"):
        return f"{where}: {role} messages are not supported, because the model's prompt has a fixed beginning."
    return f"{where}: the role must be {expected}: user and assistant take turns, and the user begins."


def _parts(message: ChatMessage) -> tuple[str, list[str]]:
    """A message's text, and the URLs of its images."""
    if not isinstance(message.content, list):
        return message.content or "", []
    texts = [part.text for part in message.content if isinstance(part, TextPart)]
    images = [part.image_url for part in message.content if isinstance(part, ImagePart)]
    return "\n".join(texts), [image if isinstance(image, str) else image.url for image in images]


def read_image_url(url: str, where: str) -> bytes:
    """The bytes of a data URI. No other URL is ever opened. Raises Problem."""
    head = next((head for head in DATA_TYPES if url[: len(head)].lower() == head), None)
    if head is None:
        detail = f"{where}: image_url must be data:image/jpeg;base64,… (or png, webp). No address is fetched."
        raise Problem("image_url_unusable", detail, param=where)
    try:
        data = base64.b64decode(url[len(head) :], validate=True)
    except binascii.Error:
        raise Problem(
            "image_url_unusable", f"{where}: the photo is not valid base64 in one line.", param=where
        ) from None
    if len(data) > MAX_PHOTO:
        raise Problem("body_too_large", f"{where}: the photo is larger than {MAX_PHOTO // 1_000_000} MB.", param=where)
    return data
