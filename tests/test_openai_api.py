"""What the OpenAI routes refuse: each with a code in OpenAI's shape, and without a word of what the client sent."""

import base64
import json

import pytest
from service import PHOTO, PICTURES
from skingpt_edge.runtime.serve.settings import MAX_CHAT, MAX_CHAT_TEXT, MAX_QUESTION

CANARY = "zebrafish"
QUESTION = f"What is this, {CANARY}?"
URI = "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode()
OTHER_URI = "data:image/jpeg;base64," + base64.b64encode(PICTURES[1].read_bytes()).decode()
HEAD = URI.index(",") + 1
NO_PICTURE = "data:image/jpeg;base64," + base64.b64encode(CANARY.encode()).decode()
CHAT = "/v1/chat/completions"


def image(url: object = URI) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def user(*parts: object) -> dict:
    return {
        "role": "user",
        "content": [{"type": "text", "text": part} if type(part) is str else part for part in parts],
    }


FIRST = user(QUESTION, image())
REPLY = {"role": "assistant", "content": f"It is {CANARY}."}


@pytest.fixture(scope="module")
def name(service) -> str:
    """The model's."""
    return json.loads(service.request("GET", "/v1/models")[2])["data"][0]["id"]


def refusal(service, body: bytes, **headers: str) -> tuple[int, dict]:
    """Status and error of a refused request, in which nothing stands that was sent."""
    status, found, answer = service.request("POST", CHAT, body, **{"content_type": "application/json", **headers})
    assert 400 <= status < 500, answer
    assert found["content-type"] == "application/json"
    assert CANARY not in answer.decode() and URI[30:60] not in answer.decode() and len(answer) < 500
    error = json.loads(answer)["error"]
    assert {*error} == {"message", "type", "param", "code"}
    assert error["message"] and error["code"] and error["type"] == "invalid_request_error"
    return status, error


def messages(*given: dict) -> dict:
    return {"messages": list(given)}


TOOL = {"type": "function", "function": {"name": CANARY, "parameters": {}}}
REFUSED = {
    # What this model cannot do.
    "tools": ({"tools": [TOOL]}, "unsupported", "tools"),
    "a tool choice": ({"tool_choice": TOOL}, "unsupported", "tool_choice"),
    "functions": ({"functions": [{"name": CANARY}]}, "unsupported", "functions"),
    "JSON as the answer": ({"response_format": {"type": "json_object"}}, "unsupported", "response_format"),
    "a schema": ({"response_format": {"type": "json_schema", "json_schema": {"name": CANARY}}}, "unsupported",
                 "response_format"),
    "log probabilities": ({"logprobs": True}, "unsupported", "logprobs"),
    "0 for false": ({"logprobs": 0}, "unsupported", "logprobs"),
    "a penalty": ({"presence_penalty": 0.5}, "unsupported", "presence_penalty"),
    "false for 0": ({"frequency_penalty": False}, "unsupported", "frequency_penalty"),
    "a bias": ({"logit_bias": {"50": 100}}, "unsupported", "logit_bias"),
    "sound": ({"modalities": ["text", "audio"], "audio": {"voice": CANARY}}, "unsupported", None),
    "to be stored": ({"store": True}, "unsupported", "store"),
    # Conversations that the model's prompt has no form for.
    "a system message": (messages({"role": "system", "content": CANARY}, FIRST), "unsupported", "messages[0].role"),
    "a developer message": (messages({"role": "developer", "content": CANARY}, FIRST), "unsupported",
                            "messages[0].role"),
    "an assistant first": (messages(REPLY, FIRST), "unsupported", "messages[0].role"),
    "an assistant last": (messages(FIRST, REPLY), "unsupported", "messages"),
    "two users in a row": (messages(FIRST, user(CANARY)), "unsupported", "messages[1].role"),
    "a tool's message": (messages(FIRST, {"role": "tool", "content": CANARY, "tool_call_id": "1"}), "unsupported",
                         "messages[1].role"),
    "a tool call": (messages(FIRST, {**REPLY, "tool_calls": [TOOL]}, user(CANARY)), "unsupported",
                    "messages[1].tool_calls"),
    "a role that there is not": (messages({"role": CANARY, "content": CANARY}), "value_unusable", "messages[0].role"),
    "no messages": ({"messages": []}, "value_unusable", "messages"),
    "201 messages": (messages(*[FIRST, REPLY] * 100, FIRST), "value_unusable", "messages"),
    "no content": (messages({"role": "user"}), "image_missing", "messages"),
    # Photos.
    "no photo": (messages(user(QUESTION)), "image_missing", "messages"),
    "two photos": (messages(user(QUESTION, image(), image(OTHER_URI))), "unsupported", "messages[0]"),
    "a photo in the second question only": (messages(user(CANARY), REPLY, FIRST), "unsupported", "messages[2]"),
    "another photo in the second question": (messages(FIRST, REPLY, user(CANARY, image(OTHER_URI))), "unsupported",
                                             "messages[2]"),
    "an address": (messages(user(QUESTION, image(f"http://127.0.0.1/{CANARY}.jpg"))), "image_url_unusable",
                   "messages[0]"),
    "a file": (messages(user(QUESTION, image(f"file:///{CANARY}.jpg"))), "image_url_unusable", "messages[0]"),
    "a path": (messages(user(QUESTION, image(f"/{CANARY}.jpg"))), "image_url_unusable", "messages[0]"),
    "an SVG": (messages(user(QUESTION, image("data:image/svg+xml;base64,PHN2Zz4="))), "image_url_unusable",
               "messages[0]"),
    "a GIF": (messages(user(QUESTION, image("data:image/gif;base64,R0lGODlh"))), "image_url_unusable", "messages[0]"),
    "no base64": (messages(user(QUESTION, image(f"data:image/jpeg;base64,{CANARY}!"))), "image_url_unusable",
                  "messages[0]"),
    "half a letter of base64": (messages(user(QUESTION, image(URI[: HEAD + 401]))), "image_url_unusable",
                                "messages[0]"),
    "an empty photo": (messages(user(QUESTION, image("data:image/jpeg;base64,"))), "image_unusable", None),
    "no picture": (messages(user(QUESTION, image(NO_PICTURE))),
                   "image_unusable", None),
    "half a picture": (messages(user(QUESTION, image(URI[: HEAD + 2000]))), "image_unusable", None),
    # Questions.
    "an empty question": (messages(user(image())), "question_unusable", None),
    "a blank question": (messages(user(" \n\t ", image())), "question_unusable", None),
    "a long question": (messages(user(f"{CANARY} " * (MAX_QUESTION // 10 + 1), image())), "question_unusable", None),
    "a long conversation": (messages(FIRST, {**REPLY, "content": "a" * MAX_CHAT_TEXT}, FIRST), "question_unusable",
                            "messages"),
    "an empty question before": (messages(user(image()), REPLY, user(CANARY)), "question_unusable", None),
    "more than the context": (messages(user("a? " * 1300, image())), "question_unusable", "messages"),
    "an answer longer than the context": ({"max_tokens": 100_000}, "question_unusable", "max_tokens"),
    "a completion longer than the context": ({"max_completion_tokens": 100_000}, "question_unusable",
                                             "max_completion_tokens"),
    # Values.
    "no model": ({"model": None}, "value_unusable", "model"),
    "another model": ({"model": CANARY}, "model_not_found", "model"),
    "a temperature below 0": ({"temperature": -1}, "value_unusable", "temperature"),
    "a temperature above 2": ({"temperature": 3}, "value_unusable", "temperature"),
    "a temperature in words": ({"temperature": CANARY}, "value_unusable", "temperature"),
    "top_p 0": ({"top_p": 0}, "value_unusable", "top_p"),
    "top_p above 1": ({"top_p": 1.1}, "value_unusable", "top_p"),
    "n 0": ({"n": 0}, "value_unusable", "n"),
    "n 9": ({"n": 9}, "value_unusable", "n"),
    "n 1.5": ({"n": 1.5}, "value_unusable", "n"),
    "n true": ({"n": True}, "value_unusable", "n"),
    "no tokens": ({"max_tokens": 0}, "value_unusable", "max_tokens"),
    "2^31 tokens": ({"max_tokens": 2**31}, "value_unusable", "max_tokens"),
    "2^31 completion tokens": ({"max_completion_tokens": 2**31}, "value_unusable", "max_completion_tokens"),
    "a seed of 2^63": ({"seed": 2**63}, "value_unusable", "seed"),
    "a seed of 6,000 digits": (b'{"seed": ' + b"1" * 6000 + b"}", "json_unusable", None),
    "five stop strings": ({"stop": list("abcde")}, "value_unusable", "stop"),
    "an empty stop string": ({"stop": ["a", ""]}, "value_unusable", "stop[1]"),
    "a long stop string": ({"stop": CANARY * 20}, "value_unusable", "stop"),
    "a stream in words": ({"stream": CANARY}, "value_unusable", "stream"),
    "an unknown field": ({"tempreature": CANARY}, "field_unknown", "tempreature"),
    "an unknown field without a value": ({"tempreature": None}, "field_unknown", "tempreature"),
    "text as a field's name": ({f"The patient is {CANARY}": 1}, "field_unknown", None),
    "an unknown part": (messages(user(QUESTION, {"type": CANARY})), "value_unusable", "messages[0].content[1].type"),
    "a part that quotes a place": (messages(user({"type": f"a' - at `$.{CANARY}`"})), "value_unusable",
                                   "messages[0].content[0].type"),
    "a part without a type": (messages(user({"text": CANARY})), "value_unusable", "messages[0].content[0]"),
    "a number as text": (messages({"role": "user", "content": 5}), "value_unusable", "messages[0].content"),
    "a file as a part": (messages(user(QUESTION, {"type": "file", "file": {"file_data": CANARY}})), "value_unusable",
                         "messages[0].content[1].type"),
    # No JSON, or none that means one thing.
    "nothing": (b"", "json_unusable", None),
    "a list": (b"[]", "json_unusable", None),
    "half of JSON": (b'{"model": "zebrafish', "json_unusable", None),
    "two bodies": (b"{}{}", "json_unusable", None),
    "a byte order mark": (b"\xef\xbb\xbf{}", "json_unusable", None),
    "UTF-16": ('{"model": "zebrafish"}'.encode("utf-16"), "json_unusable", None),
    "no UTF-8": (b'{"model": "zebrafish\xff"}', "json_unusable", None),
    "no UTF-8 in a name": (b'{"zebrafish\xff": 1}', "json_unusable", None),
    "half a surrogate pair": (b'{"model": "zebrafish\\ud800"}', "json_unusable", None),
    "NUL": (b'{"model": "zebrafish\x00"}', "json_unusable", None),
    "NaN": (b'{"temperature": NaN}', "json_unusable", None),
    "infinity": (b'{"temperature": Infinity}', "json_unusable", None),
    "1e400": (b'{"temperature": 1e400}', "json_unusable", None),
    "a name twice": (b'{"model": "zebrafish", "model": "zebrafish"}', "json_unusable", None),
    "a name twice inside": (b'{"messages": [{"role": "user", "role": "zebrafish"}]}', "json_unusable", None),
    "deep lists": (b"[" * 100_000, "json_unusable", None),
    "deep objects": (b'{"user": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", "json_unusable", None),
}  # fmt: skip
STATUS = {"model_not_found": 404, "image_unusable": 422}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_with_a_code(case, service, name):
    given, code, param = REFUSED[case]
    if isinstance(given, dict):
        given = json.dumps({"model": name, **messages(FIRST), **given}).encode()
    status, error = refusal(service, given)
    assert (status, error["code"]) == (STATUS.get(code, 400), code), error
    assert param is None or error["param"] == param
    if error["code"] == "question_unusable" and "the context holds" in error["message"]:
        named = param if param and param.startswith("max") else "max_completion_tokens"
        assert f"lower {named} or" in error["message"]
    assert "max_new_tokens" not in error["message"]


def test_a_stream_is_refused_before_it_begins(service, name):
    given = {"model": name, **messages(user("a? " * 1300, image())), "stream": True}
    assert refusal(service, json.dumps(given).encode())[1]["code"] == "question_unusable"


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=a", "application/x-www-form-urlencoded"])
def test_another_content_type_is_refused(kind, service):
    assert refusal(service, b"{}", content_type=kind) == (415, refusal(service, b"{}", content_type="")[1])


def test_a_compressed_body_is_refused(service):
    status, error = refusal(service, b"{}", content_encoding="gzip")
    assert (status, error["code"]) == (415, "content_type_wrong")


def test_a_body_too_large_is_refused_before_it_is_read(service):
    connection = service.connect()
    connection.putrequest("POST", CHAT)
    for header in (("Authorization", f"Bearer {service.token}"), ("Content-Type", "application/json")):
        connection.putheader(*header)
    connection.putheader("Content-Length", str(MAX_CHAT + 1))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["error"]["code"]) == (413, "body_too_large")
    connection.close()


def test_without_the_token_the_error_is_openais_too(service):
    status, headers, body = service.request("POST", CHAT, b"{}", token=CANARY)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert json.loads(body)["error"]["code"] == "invalid_api_key" and CANARY not in body.decode()


def test_another_method_is_refused(service):
    status, headers, body = service.request("GET", CHAT)
    assert (status, headers["allow"], json.loads(body)["error"]["code"]) == (405, "POST", "method_not_allowed")


@pytest.mark.parametrize(
    "more",
    [
        {"image_url": "string"},  # the older form
        {"tools": [], "tool_choice": "none", "logprobs": False, "frequency_penalty": 0.0, "logit_bias": {}},
        {"response_format": {"type": "text"}, "store": False, "n": 1.0, "stop": None, "top_p": 1},
        {"user": "a", "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True},
    ],
)
def test_fields_that_change_nothing_are_taken(more, service, name):
    plain = answer(service, {"model": name, **messages(FIRST)})
    given = {"model": name, **messages(FIRST), **more}
    if given.pop("image_url", None):
        given["messages"] = [user(QUESTION, {"type": "image_url", "image_url": URI})]
    assert answer(service, given) == plain != ""


@pytest.mark.parametrize("more", [["flat"], ["flat", "red and"]])
def test_several_text_parts_are_lines_of_one_question(more, service, name):
    parts = answer(service, {"model": name, **messages(user("Is it large?", *more, image()))})
    assert parts == answer(service, {"model": name, **messages(user("\n".join(["Is it large?", *more]), image()))})
    assert parts == answer(service, {"model": name, **messages(user(image(), "Is it large?", *more))})


def test_what_assistants_messages_hold_beside_their_text_is_taken(service, name):
    """Clients send a message back as they got it, nulls included."""
    more = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None, "name": "a"}
    given = messages(FIRST, {**REPLY, **more}, user("Is it large?", image()))
    assert answer(service, {"model": name, **given})


def answer(service, given: dict) -> str:
    status, _, body = service.request("POST", CHAT, json.dumps(given).encode(), content_type="application/json")
    assert status == 200, body
    return json.loads(body)["choices"][0]["message"]["content"]
