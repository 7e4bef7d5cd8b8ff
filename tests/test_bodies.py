"""Bodies of requests: how much of them the server holds at the same time."""

import asyncio
import base64
import json

import pytest
from skingpt_edge.runtime.serve import bodies
from skingpt_edge.runtime.serve.bodies import Bodies
from skingpt_edge.runtime.serve.json_body import MAX_PARTS
from skingpt_edge.runtime.serve.openai_request import read_request
from skingpt_edge.runtime.serve.problems import Problem
from starlette.requests import Request


def read(held: Bodies, data: bytes) -> bytes:
    """A body that comes in two parts."""
    parts = iter([(data[:10], True), (data[10:], False)])

    async def receive() -> dict[str, object]:
        part, more = next(parts)
        return {"type": "http.request", "body": part, "more_body": more}

    request = Request({"type": "http", "headers": [(b"content-type", b"image/jpeg")]}, receive)
    return asyncio.run(held.read(request, 1000, {"image/jpeg"}))


def test_photos_that_wait_for_a_decoder_leave_less_room_for_bodies(monkeypatch):
    monkeypatch.setattr(bodies, "MAX_BODIES", 100)
    held, photo = Bodies(), bytes(60)
    assert read(held, photo) == photo
    with held.waiting(photo):
        assert read(held, bytes(40)) == bytes(40)
        with pytest.raises(Problem) as refused:
            read(held, bytes(41))
        assert refused.value.code == "memory_full"
    assert read(held, bytes(100)) == bytes(100)


def test_a_chat_request_does_not_keep_its_photo_in_base64():
    url = "data:image/jpeg;base64," + base64.b64encode(b"a photo").decode()
    content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "What is this?"}]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
    request, chat, photo = read_request(body)
    assert (photo, chat.question, chat.turns) == (b"a photo", "What is this?", ())
    assert request.messages == []


def test_json_of_too_many_values_is_refused_before_it_is_parsed():
    body = b'{"model": "m", "metadata": [' + b"{}," * MAX_PARTS + b"{}]}"
    with pytest.raises(Problem) as refused:
        read_request(body)
    assert refused.value.code == "json_unusable" and "brackets and commas" in refused.value.detail
