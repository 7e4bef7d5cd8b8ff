"""The Python client against a running service: the model's own words, typed errors, and answers that are left."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from PIL import Image
from service import PHOTO, PICTURES, RunningService, running, until
from skingpt_edge.runtime import (
    Client,
    InputError,
    ServedAnswer,
    ServedConversation,
    ServedReport,
    ServiceError,
    SkinGPT,
    StageProgress,
    TextPiece,
)
from skingpt_edge.runtime.bundle import default_bundle
from support import encode, run

QUESTION = "How is the border?"


@pytest.fixture(scope="module")
def model():
    with SkinGPT.open() as found:
        yield found


@pytest.fixture(scope="module")
def report(model) -> dict:
    """Of the model in this process."""
    return model.report(model.embed(PHOTO)).to_json()


@pytest.fixture
def client(service) -> Client:
    return client_of(service)


def client_of(service: RunningService) -> Client:
    return Client(service.url, token_file=service.token_file)


def turns(document) -> list[tuple]:
    return [(turn["section"], turn["question"], turn["text"], turn["token_ids"]) for turn in document["turns"]]


def test_a_report_is_that_of_the_model_in_process(client, report):
    found = client.report(PHOTO)
    assert turns(found.document) == turns(report)
    assert found.notice == report["notice"]
    assert found.text.startswith(f"Characteristics and category\n{report['turns'][0]['text']}\n\n")


def test_a_report_streams_typed_events_and_the_whole_report_last(client, report):
    first, *events, last = client.stream_report(PHOTO)
    assert isinstance(first, ServedConversation) and isinstance(last, ServedReport)
    assert first.id == last.conversation_id
    assert {type(event) for event in events} == {StageProgress, TextPiece}
    assert {event.stage for event in events if isinstance(event, StageProgress)} >= {"image_decode", "vision_encoder"}
    for number, turn in enumerate(report["turns"]):
        pieces = [event for event in events if isinstance(event, TextPiece) and event.number == number]
        assert "".join(piece.text for piece in pieces) == turn["text"]
        assert {piece.section for piece in pieces} == {turn["section"]}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP"])
def test_each_kind_of_photo_is_sent_as_what_it_is(client, model, kind):
    with Image.open(io.BytesIO(PHOTO)) as photo:  # one that the model knows: no two tokens are almost equally likely
        data = encode(photo, kind)
    assert turns(client.report(data).document) == turns(model.report(model.embed(data)).to_json())
    assert f"Content-Type: image/{kind.lower()}" in sent_head(lambda other: other.report(data))


def test_the_token_is_sent_where_it_is_needed_alone(client):
    assert f"Authorization: Bearer {'x' * 40}" in sent_head(lambda other: other.forget("1"))
    assert "Authorization" not in sent_head(Client.ready)


def sent_head(call) -> str:
    """What a client sends to a program that closes the connection without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        other = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", token="x" * 40)
        calling = pool.submit(call, other)
        connection, _ = listener.accept()
        with connection:
            head = connection.recv(1 << 16).decode(errors="replace").split("\r\n\r\n")[0]
        error = calling.exception()
        assert error is None or error.code == "connection_lost"
        return head


def test_a_question_knows_what_was_asked_before(client, model):
    here = model.conversation(model.embed(PHOTO))
    there = client.conversation(PHOTO)
    for question in ("What does this show?", QUESTION):
        answer = client.ask(there.id, question)
        assert tuple(answer.document["token_ids"]) == here.ask(question).token_ids
    *events, last = client.stream(there.id, "What should I do?")
    text = here.ask("What should I do?").text
    assert isinstance(last, ServedAnswer) and last.text == text
    assert "".join(event.text for event in events if isinstance(event, TextPiece)) == text


def test_how_an_answer_is_generated_can_be_chosen(client, report):
    number = client.conversation(PHOTO).id
    question = report["turns"][0]["question"]
    answer = client.ask(number, question, max_new_tokens=5)
    assert answer.document["token_ids"] == report["turns"][0]["token_ids"][:5]
    assert answer.document["finish_reason"] == "length"
    short = client.report(PHOTO, max_new_tokens=5).document["turns"]
    assert short[0]["token_ids"] == report["turns"][0]["token_ids"][:5]
    assert {len(turn["token_ids"]) for turn in short} == {5}
    sampled = {client.ask(client.conversation(PHOTO).id, question, temperature=2, seed=seed).text for seed in range(5)}
    assert len(sampled) > 1


def test_a_streams_first_event_has_the_notes_on_the_photo(client, service):
    dark = encode(Image.new("RGB", (64, 64), (9, 5, 4)), "JPEG")
    first, *_ = client.stream_report(dark)
    assert "dark" in [note["code"] for note in first.notes]
    assert client.conversation(dark).notes == first.notes
    name, data = service.events("/v1/reports", dark, "image/jpeg")[0]
    assert (name, {*data}, {*data["image"]}) == ("conversation", {"id", "image"}, {"sha256", "notes"})


def test_a_deleted_conversation_is_gone(client):
    number = client.report(PHOTO).conversation_id
    client.forget(number)
    for call in (lambda: client.forget(number), lambda: client.ask(number, QUESTION)):
        with pytest.raises(ServiceError) as found:
            call()
        assert (found.value.code, found.value.status) == ("conversation_unknown", 404)


def test_a_second_question_meanwhile_is_refused_and_the_first_is_answered(client, service):
    number = client.conversation(PHOTO).id
    with stopped_worker(service):
        first = client.stream(number, QUESTION)
        next(first)
        with pytest.raises(ServiceError, match="ask when its answer is whole") as found:
            client.ask(number, "What should I do?")
        assert (found.value.code, found.value.status) == ("conversation_busy", 409)
        body, kinds = b'{"question": "Why?"}', {"content_type": "application/json", "accept": "application/json"}
        assert service.request("POST", f"/v1/conversations/{number}/questions", body, **kinds)[0] == 409
    *_, answer = first
    assert isinstance(answer, ServedAnswer)
    assert QUESTION in client.ask(number, "What should I do?").document["prompt"]


def test_a_question_may_follow_at_once_one_whose_stream_was_closed(client):
    number = client.report(PHOTO).conversation_id
    for _ in range(20):
        stream = client.stream(number, QUESTION)
        next(stream)
        stream.close()
    assert client.ask(number, QUESTION).text


def test_questions_whose_clients_have_gone_take_no_place_in_the_queue(tmp_path):
    with running(tmp_path, "--conversations", "1", "--queue", "0") as service:
        client = client_of(service)
        number = client.conversation(PHOTO).id
        os.kill(service.worker(), signal.SIGSTOP)  # so that none of them ends
        for _ in range(4):
            stream = client.stream(number, QUESTION)
            next(stream)
            stream.close()
        answer = client.stream(number, QUESTION)
        next(answer)  # the question was taken
        os.kill(service.worker(), signal.SIGCONT)
        *_, last = answer
        assert last.text


def test_refusals_have_a_code_a_status_and_a_sentence(client, service):
    stranger = Client(service.url, token="x" * 40)
    for call, code, status in (
        (lambda: client.report(b"GIF89a" + bytes(100)), "image_unusable", 422),
        (lambda: client.report(b""), "image_missing", 400),
        (lambda: client.conversation(bytes(30_000_000)), "body_too_large", 413),
        (lambda: stranger.conversation(bytes(15_000_000)), "token_wrong", 401),  # answered before it is all sent
        (lambda: client.ask("../models", QUESTION), "route_unknown", 404),
        (lambda: client.ask("a? b", QUESTION), "conversation_unknown", 404),
        (lambda: client.ask(client.conversation(PHOTO).id, "?" * 5000), "question_unusable", 400),
    ):
        with pytest.raises(ServiceError) as found:
            call()
        assert (found.value.code, found.value.status) == (code, status)
        assert str(found.value).endswith((".", "PNG"))


def test_a_full_queue_says_when_to_come_again(tmp_path):
    with running(tmp_path, "--conversations", "1", "--queue", "0") as service, stopped_worker(service):
        client = client_of(service)
        waiting = client.stream_report(PHOTO)
        next(waiting)
        until(lambda: service.requests_now() == 1)
        with pytest.raises(ServiceError) as found:
            client.report(PHOTO)
        assert (found.value.code, found.value.status, found.value.retry_after) == ("queue_full", 503, 5)
        waiting.close()


def test_no_service_says_what_to_do(tmp_path):
    for address in (f"unix:{tmp_path}/socket", "http://127.0.0.1:9"):
        client = Client(address, token="x" * 40)
        assert not client.ready()
        with pytest.raises(ServiceError, match="start it with `skingpt serve`") as found:
            client.report(PHOTO)
        assert (found.value.code, found.value.status) == ("unreachable", None)
    with pytest.raises(InputError, match=r"no token file .*: start `skingpt serve`"):
        Client("http://127.0.0.1:9", token_file=tmp_path / "token").report(PHOTO)


@pytest.mark.parametrize(
    "address",
    [
        "http://192.168.1.2:8077", "http://0.0.0.0:8077", "http://[::1]:8077", "http://example.org:8077",
        "https://127.0.0.1:8077", "http://127.0.0.1", "http://127.0.0.1:0", "http://127.0.0.1:65536",
        "http://127.0.0.1:8077@example.org", "http://me@127.0.0.1:8077", "http://127.0.0.1:8077/v1",
        "http://127.0.0.1:8077\n", "http://localhost.example.org:8077", "unix:socket", "unix:", "127.0.0.1:8077", "",
        8077,
    ],
)  # fmt: skip
def test_only_this_machine_is_an_address(address):
    with pytest.raises(InputError, match="service on this machine: expected"):
        Client(address, token="x" * 40)


def test_a_name_is_never_resolved(client, service, monkeypatch):
    asked = []
    resolve = socket.getaddrinfo
    monkeypatch.setattr("socket.getaddrinfo", lambda *given, **more: asked.append(given[0]) or resolve(*given, **more))
    assert Client(service.url.replace("127.0.0.1", "localhost"), token_file=service.token_file).ready()
    assert asked == ["127.0.0.1"]


@pytest.mark.parametrize("token", ["", " ", "a\nHost: b", "é" * 40])
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(token):
    with pytest.raises(InputError, match=r"the token is empty, or holds letters that no token has$"):
        Client(token=token)


def test_over_a_unix_socket_it_is_the_same(tmp_path, report):
    path = tmp_path / "socket"
    service = RunningService(tmp_path, "--socket", str(path))
    try:
        client = Client(f"unix:{path}", token_file=service.token_file)
        until(client.ready)
        found = client.report(PHOTO)
        assert turns(found.document) == turns(report)
        assert client.ask(found.conversation_id, QUESTION).text
        client.forget(found.conversation_id)
        shown = run("skingpt", "diagnose", PICTURES[0], "--json", "--server", f"unix:{path}", *token_of(service))
        assert turns(json.loads(shown.stdout)) == turns(report)
    finally:
        assert service.stop() == 0


@pytest.mark.parametrize("leave", ["close", "drop"])
def test_a_stream_left_early_cancels_its_answer(tmp_path, leave):
    with running(tmp_path) as service:
        client = client_of(service)
        with stopped_worker(service):
            stream = client.stream_report(PHOTO)
            assert isinstance(next(stream), ServedConversation)
            until(lambda: service.requests_now() == 1)
            if leave == "close":
                stream.close()
            else:
                del stream
            until(lambda: service.requests_now() == 0)  # before the model's process goes on
        assert figure(service, "skingpt_tokens_total") == 0
        assert client.report(PHOTO).text
        assert figure(service, "skingpt_tokens_total") > 0


def test_an_answer_that_fails_on_the_way_raises_what_the_service_says(tmp_path):
    with running(tmp_path) as service:
        client, worker = client_of(service), service.worker()
        with stopped_worker(service):
            stream = client.stream_report(PHOTO)
            next(stream)
            until(lambda: service.requests_now() == 1)
            os.kill(worker, signal.SIGKILL)
            with pytest.raises(ServiceError) as found:
                list(stream)
        assert (found.value.code, found.value.status) == ("worker_ended", 503)
        assert client.report(PHOTO).text


def test_a_service_that_is_killed_on_the_way_is_no_whole_answer(tmp_path):
    with running(tmp_path) as service:
        client = client_of(service)
        with stopped_worker(service):
            stream = client.stream_report(PHOTO)
            next(stream)
            service.process.kill()
            with pytest.raises(ServiceError) as found:
                list(stream)
        assert (found.value.code, found.value.status) == ("connection_lost", None)
        assert not client.ready()


@pytest.mark.parametrize(
    ("call", "answer", "code"),
    [
        (lambda client: client.conversation(PHOTO), b'{"status": "ok"}', "reply_unusable"),
        (lambda client: client.conversation(PHOTO), b"<html>", "reply_unusable"),
        (lambda client: client.report(PHOTO), b"", "connection_lost"),
        (lambda client: client.report(PHOTO), b'event: text\ndata: {"number": 0}\n\n', "reply_unusable"),
    ],
)
def test_another_program_at_the_address_is_told_from_the_service(call, answer, code):
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        calling = pool.submit(call, Client(f"http://127.0.0.1:{listener.getsockname()[1]}", token="x" * 40))
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as received:
            while received.readline().strip():
                pass
            received.read(len(PHOTO))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
        error = calling.exception()
    assert isinstance(error, ServiceError) and error.code == code


def test_a_service_without_a_sign_of_life_is_not_waited_for_without_end(tmp_path):
    with running(tmp_path) as service:
        client = Client(service.url, token_file=service.token_file, timeout=0.2)
        os.kill(service.process.pid, signal.SIGSTOP)
        with pytest.raises(ServiceError, match=r"no sign of life for 0\.2 seconds") as found:
            client.report(PHOTO)
        os.kill(service.process.pid, signal.SIGCONT)
        assert found.value.code == "timed_out"


def test_the_client_needs_nothing_but_python(service):
    code = f"""
import sys
from skingpt_edge.runtime import Client
client = Client({service.url!r}, token_file={str(service.token_file)!r})
report = client.report(open({str(PICTURES[0])!r}, "rb").read())
client.forget(report.conversation_id)
print(*sorted({{name.split(".")[0] for name in sys.modules}} - sys.stdlib_module_names))
"""
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in found.stdout.split() if not name.startswith(("__editable__", "_skingpt", "_virtualenv"))}
    assert "skingpt_edge" in loaded
    assert not loaded & {"numpy", "PIL", "simplejpeg", "starlette", "uvicorn", "h11", "msgspec", "prometheus_client"}


# `skingpt diagnose --server`


def token_of(service) -> list[str]:
    return ["--token-file", str(service.token_file)]


def test_diagnose_of_a_service_gives_the_json_of_a_run_in_process(service):
    here = run("skingpt", "diagnose", *PICTURES[:3], "--json")
    there = run("skingpt", "diagnose", *PICTURES[:3], "--json", "--server", service.url, *token_of(service))
    assert there.returncode == 0, there.stderr
    documents = [list(map(json.loads, found.stdout.splitlines())) for found in (here, there)]
    assert len(documents[0]) == 3
    for one, other in zip(*documents, strict=True):
        assert turns(one) == turns(other)
        for field in ("name", "sha256", "notes"):  # but not `cached`: the service may have seen the photo before
            assert one["image"][field] == other["image"][field]
        assert {*one} == {*other}
    assert here.stderr == there.stderr


def test_diagnose_of_a_service_generates_as_it_is_told(service):
    command = ("skingpt", "diagnose", PICTURES[0], "--json", "--max-new-tokens", "6")
    sampled = ("--temperature", "1.5", "--top-p", "0.9", "--seed", "3")
    for options in ((), sampled):
        here = run(*command, *options)
        there = run(*command, *options, "--server", service.url, *token_of(service))
        one, other = json.loads(here.stdout), json.loads(there.stdout)
        assert turns(one) == turns(other)
        assert (one["generation"], one["seed"]) == (other["generation"], other["seed"])


def test_diagnose_of_a_service_shows_the_text_of_a_run_in_process(service, tmp_path):
    dark = tmp_path / "dark.png"
    dark.write_bytes(encode(Image.new("RGB", (64, 64), (9, 5, 4)), "PNG"))
    here = run("skingpt", "diagnose", PICTURES[1], dark)
    there = run("skingpt", "diagnose", PICTURES[1], dark, "--server", service.url, *token_of(service))
    assert there.returncode == 0, there.stderr

    def without_figures(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("[")]

    assert "Note: The picture is very dark" in here.stdout
    assert without_figures(there.stdout) == without_figures(here.stdout)
    (figures,) = {line.split(" ")[0] for line in there.stdout.splitlines() if line.startswith("[")}
    assert figures == "[image"


def test_the_heading_of_an_empty_answer_is_shown(tmp_path):
    """The first, second and last answer begin with a stop string of this bundle."""
    bundle = tmp_path / "bundle"
    shutil.copytree(default_bundle(), bundle)
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["template"]["stop"] += ["The ", "For "]
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    here = run("skingpt", "diagnose", PICTURES[0], "--bundle", bundle)
    with running(tmp_path, bundle=bundle) as service:
        there = run("skingpt", "diagnose", PICTURES[0], "--server", service.url, *token_of(service))
        texts = [turn["text"] for turn in service.report()["turns"]]
    assert [bool(text) for text in texts] == [False, False, True, False]
    headings = [question["section"] for question in manifest["questions"]]
    for found in (here, there):
        assert [line for line in found.stdout.splitlines() if line in headings] == headings, found.stderr
    assert [line for line in there.stdout.splitlines() if line[:1] != "["] == [
        line for line in here.stdout.splitlines() if line[:1] != "["
    ]


def test_a_picture_that_a_service_refuses_keeps_no_other_from_its_report(service, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(PHOTO[:9000])
    command = ("skingpt", "diagnose", broken, PICTURES[0], tmp_path / "none.jpg", "--json")
    here, there = run(*command), run(*command, "--server", service.url, *token_of(service))
    assert there.returncode == here.returncode == 3
    assert there.stderr == here.stderr
    first, second, third = map(json.loads, there.stdout.splitlines())
    expected = list(map(json.loads, here.stdout.splitlines()))
    assert [first, third] == [expected[0], expected[2]]
    assert turns(second) == turns(expected[1])


def test_diagnose_without_the_service_ends_with_a_sentence(tmp_path):
    (tmp_path / "token").write_text("x" * 40)
    (tmp_path / "token").chmod(0o600)
    command = ("skingpt", "diagnose", PICTURES[0], "--server", "http://127.0.0.1:9", "--token-file")
    found = run(*command, tmp_path / "token")
    assert (found.returncode, found.stdout) == (6, "")
    assert "error: no service answers at http://127.0.0.1:9" in found.stderr and "skingpt serve" in found.stderr
    found = run(*command, tmp_path / "none")
    assert found.returncode == 3
    assert "error: there is no token file" in found.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--server", "--html", "report.html"], "--html and --server do not go together"),
        (["--server", "--samples", "3"], "--samples and --server do not go together"),
        (["--server", "--questions", "questions.txt"], "--questions and --server do not go together"),
        (["--server", "--bundle", "BUNDLE"], "--bundle and --server do not go together"),
        (["--server", "--threads", "1"], "--threads and --server do not go together"),
        (["--server", "--ignore-stop"], "--ignore-stop and --server do not go together"),
        (["--server", "--no-tuning"], "--no-tuning and --server do not go together"),
        (["--server", "http://clinic:8077"], "--server: the address 'http://clinic:8077' is none of a service on this"),
        (["--server", str(PICTURES[1])], "Pictures stand before it"),
        (["--token-file", "token"], "--token-file needs --server"),
    ],
)
def test_what_a_service_cannot_follow_is_wrong_usage(options, said):
    found = run("skingpt", "diagnose", PICTURES[0], *options)
    assert found.returncode == 2
    assert said in found.stderr


# What tests share.


@contextmanager
def stopped_worker(service: RunningService):
    """The model's process does nothing meanwhile."""
    worker = service.worker()
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


def figure(service: RunningService, name: str) -> float:
    """One of the service's metrics."""
    text = service.request("GET", "/metrics")[2].decode()
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])
