"""The service as a program on the same machine meets it: the same answers as in-process, whatever happens meanwhile."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from service import PHOTO, PICTURES, parse_events, running, until
from skingpt_edge.runtime import SkinGPT

LIBRARIES = ("llama", "ggml", "onnxruntime", "PIL", "turbojpeg", "simplejpeg", "numpy")


@pytest.fixture(scope="module")
def model():
    with SkinGPT.open() as found:
        yield found


def turns(report: dict) -> list[tuple]:
    return [(turn["question"], turn["text"], tuple(turn["token_ids"])) for turn in report["turns"]]


def ask(service, conversation: str, question: str, **more) -> dict:
    body = json.dumps({"question": question, **more}).encode()
    path = f"/v1/conversations/{conversation}/questions"
    status, _, answer = service.request("POST", path, body, content_type="application/json", accept="application/json")
    assert status == 200, answer
    return json.loads(answer)


def test_a_report_is_that_of_the_model_in_process(service, model):
    for picture in PICTURES[:3]:
        data = picture.read_bytes()
        here, there = model.report(model.embed(data)).to_json(), service.report(data)
        assert turns(there) == turns(here)
        assert there["image"]["sha256"] == here["image"]["sha256"]
        assert there["image"]["notes"] == here["image"]["notes"]
        assert {*there["timings_ms"]} == {*here["timings_ms"]}
        assert there["notice"] == model.bundle.manifest.notice


def test_a_reports_answers_are_as_long_as_the_query_says(service, model):
    headers = {"content_type": "image/jpeg", "accept": "application/json"}
    path = "/v1/reports?max_new_tokens=5&temperature=1&seed=3"
    status, _, body = service.request("POST", path, PHOTO, **headers)
    here = model.report(model.embed(PHOTO), config=replace(model.defaults, max_new_tokens=5, temperature=1.0, seed=3))
    assert (status, turns(json.loads(body))) == (200, turns(here.to_json()))
    for query in ("max_new_tokens=0", "temperature=hot", "colour=red", "seed=-1"):
        status, _, body = service.request("POST", f"/v1/reports?{query}", PHOTO, **headers)
        assert status == 400 and "hot" not in body.decode() and "red" not in body.decode()


def test_a_reports_events_come_in_order(service):
    events = service.events("/v1/reports", PHOTO, "image/jpeg")
    names = [name for name, _ in events]
    assert names[0] == "conversation" and names[-1] == "report" and set(names[1:-1]) == {"stage", "text"}
    stages = [data["stage"] for name, data in events if name == "stage"]
    assert stages[:3] == ["image_decode", "vision_encoder", "vision_encoder"] and "prompt" in stages
    assert all(0 <= data["done"] <= data["total"] for name, data in events if name == "stage")
    report = events[-1][1]
    for number, turn in enumerate(report["turns"]):
        pieces = [data["text"] for name, data in events if name == "text" and data["number"] == number]
        assert "".join(pieces) == turn["text"]


def test_a_conversation_knows_what_was_asked_before(service, model):
    _, _, body = service.request("POST", "/v1/conversations", PHOTO, content_type="image/jpeg")
    number = json.loads(body)["id"]
    here = model.conversation(model.embed(PHOTO))
    for question in ("What does this show?", "Is it large?", "What should I do?"):
        there = ask(service, number, question)
        assert tuple(there["token_ids"]) == here.ask(question).token_ids
    assert there["prompt_tokens"]["reused"] > there["prompt_tokens"]["evaluated"]


def test_a_conversation_outlives_the_models_process(tmp_path, model):
    here = model.conversation(model.embed(PHOTO))
    with running(tmp_path) as service:
        _, _, body = service.request("POST", "/v1/conversations", PHOTO, content_type="image/jpeg")
        number = json.loads(body)["id"]
        assert (
            tuple(ask(service, number, "What does this show?")["token_ids"])
            == here.ask("What does this show?").token_ids
        )
        before = service.worker()
        os.kill(before, signal.SIGKILL)
        until(lambda: [line["event"] for line in service.log].count("worker_started") == 2)
        assert tuple(ask(service, number, "Is it large?")["token_ids"]) == here.ask("Is it large?").token_ids
        assert service.worker() != before


def test_clients_at_the_same_time_get_their_own_answers(service, model):
    data = [picture.read_bytes() for picture in PICTURES]
    expected = [turns(model.report(model.embed(one)).to_json()) for one in data]
    with ThreadPoolExecutor(4) as pool:
        found = [turns(report) for report in pool.map(service.report, data)]
    assert found == expected


def test_the_server_has_no_model_and_no_decoder_in_it(service):
    assert service.report()
    maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    assert not [name for name in LIBRARIES if name in maps]
    worker = Path(f"/proc/{service.worker()}/maps").read_text()
    assert [name for name in LIBRARIES if name in worker]  # they would be found


def test_a_hung_process_is_replaced_and_its_request_ends_with_a_code(tmp_path):
    with running(tmp_path, "--hang-seconds", "8") as service:
        hung = service.worker()
        os.kill(hung, signal.SIGSTOP)
        status, _, body = service.request(
            "POST", "/v1/reports", PHOTO, content_type="image/jpeg", accept="application/json"
        )
        assert (status, json.loads(body)["code"]) == (503, "worker_hung")
        assert service.report()["turns"]
        assert service.worker() != hung


def test_a_process_that_ends_again_and_again_is_started_less_often_and_shows_in_health(tmp_path):
    with running(tmp_path) as service:

        def waited() -> list[float]:
            return [line["seconds"] for line in service.log if line["event"] == "worker_restarts"]

        for number in range(5):
            os.kill(service.wait_ready().worker(), signal.SIGKILL)
            until(lambda number=number: len(waited()) > number)
        status, _, body = service.request("GET", "/healthz")
        assert (status, json.loads(body)["status"]) == (503, "unhealthy")
        assert waited() == [0, 0, 0.5, 1, 2]
        assert service.wait_ready().report()
        assert service.request("GET", "/healthz")[0] == 200


def test_a_process_that_has_grown_is_replaced_between_requests(tmp_path):
    with running(tmp_path, "--growth-mb", "1") as service:
        first = service.worker()
        with ThreadPoolExecutor(2) as pool:
            assert all(report["turns"] for report in pool.map(service.report, [PHOTO] * 4))
        until(lambda: service.worker() != first)
        assert service.report()["turns"]
        assert service.stop() == 0  # a request's line comes after its answer
    assert {line["code"] for line in service.log if line["event"] == "worker_restarts"} == {"grown"}
    asked = [line for line in service.log if line["event"] == "request" and line["route"] == "/v1/reports"]
    assert [line["status"] for line in asked] == [200] * 5
    ended = [line for line in service.log if line["event"] == "worker_ended"]
    assert all(line["exit"] == -signal.SIGKILL for line in ended)


def test_too_many_requests_are_told_to_come_again(tmp_path):
    with running(tmp_path, "--conversations", "1", "--queue", "1") as service:
        os.kill(service.worker(), signal.SIGSTOP)
        with ThreadPoolExecutor(4) as pool:
            tried = [
                pool.submit(
                    service.request, "POST", "/v1/reports", PHOTO, content_type="image/jpeg", accept="application/json"
                )
                for _ in range(4)
            ]
            until(lambda: sum(one.done() for one in tried) >= 2)
            os.kill(service.worker(), signal.SIGCONT)
            answers = [one.result() for one in tried]
    refused = [(headers, json.loads(body)) for status, headers, body in answers if status == 503]
    assert [status for status, _, _ in answers].count(200) == 2
    assert [body["code"] for _, body in refused] == ["queue_full"] * 2
    assert all(int(headers["retry-after"]) > 0 for headers, _ in refused)


def test_an_answer_has_a_time_limit(tmp_path):
    """The demonstration model may be at the end of its report before it is stopped; then the same is done again."""
    with running(tmp_path, "--answer-seconds", "4", "--conversations", "1") as service:
        for _ in range(20):
            connection = service.connect()
            headers = {"Authorization": f"Bearer {service.token}", "Content-Type": "image/jpeg", "Connection": "close"}
            connection.request("POST", "/v1/reports", PHOTO, headers)
            answer = connection.getresponse()
            text = ""
            while "event: text" not in text:
                line = answer.readline().decode()
                assert line, text
                text += line
            os.kill(service.worker(), signal.SIGSTOP)
            text += answer.read().decode()
            connection.close()
            os.kill(service.worker(), signal.SIGCONT)
            name, data = list(parse_events(text))[-1]
            if name != "report":
                break
        assert (name, data.get("code")) == ("error", "answer_too_slow")
        assert service.report()["turns"]
