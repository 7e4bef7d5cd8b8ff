"""Faults inside the model's process: its requests end with a code, and the next one is answered."""

import json
import os
import signal

import pytest
from service import PHOTO, PICTURES, parse_events, running, until

FAULTS = """
import os, sys, time

if "skingpt_edge.runtime.serve.model_worker" in sys.orig_argv:
    from skingpt_edge.runtime.serve import framing
    from skingpt_edge.runtime.skingpt import SkinGPT

    encode, send = SkinGPT._encode, framing.send

    def is_due(fault):
        # Once: the file is gone then.
        path = os.path.join(os.environ["FAULTS"], fault)
        if os.path.exists(path):
            os.unlink(path)
            return True

    def faulty_encode(*arguments):
        if is_due("encodes for ever"):
            time.sleep(1000)
        if is_due("cannot encode"):
            raise RuntimeError("CANARY")
        return encode(*arguments)

    def faulty_send(channel, kind, payload=b"", **fields):
        if kind == "stage" and is_due("names no request"):
            del fields["id"]
        if kind == "pong" and is_due("sends a text for a number"):
            fields["memory"] = "a lot"
        send(channel, kind, payload, **fields)

    SkinGPT._encode, framing.send = faulty_encode, faulty_send
"""


@pytest.fixture
def faulty(tmp_path):
    """A service, and a way to let its model's process fail once."""
    (tmp_path / "sitecustomize.py").write_text(FAULTS)
    with running(tmp_path, "--hang-seconds", "8", PYTHONPATH=str(tmp_path), FAULTS=str(tmp_path)) as service:
        yield service, lambda fault: (tmp_path / fault).touch()


def report(service, photo: bytes = PHOTO) -> tuple[int, dict]:
    headers = {"content_type": "image/jpeg", "accept": "application/json"}
    status, _, body = service.request("POST", "/v1/reports", photo, **headers)
    return status, json.loads(body)


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("encodes for ever", "worker_hung", "hung"),
        ("names no request", "worker_ended", "ended"),
        ("cannot encode", "internal_error", None),
    ],
)
def test_a_fault_costs_one_request(faulty, fault, code, reason):
    service, let = faulty
    let(fault)
    status, body = report(service)
    assert (status, body["code"]) == (500 if reason is None else 503, code)
    assert report(service, PICTURES[1].read_bytes())[0] == 200
    assert [line["code"] for line in service.log if line["event"] == "worker_restarts"] == ([reason] if reason else [])
    assert "CANARY" not in service.log_file.read_text()


def test_a_wrong_value_ends_the_process_and_not_the_watching_of_it(faulty):
    service, let = faulty
    before = service.worker()
    let("sends a text for a number")
    until(lambda: service.worker() != before)
    assert report(service)[0] == 200
    assert "worker_unintelligible" in [line["event"] for line in service.log]


def test_the_log_has_the_end_of_a_stream_that_had_begun(tmp_path):
    """Whose own status was sent long before: killed in the middle, and left by its client."""
    with running(tmp_path) as service:
        for photo, end in ((PICTURES[0], "kill"), (PICTURES[1], "leave")):
            worker = service.wait_ready().worker()
            os.kill(worker, signal.SIGSTOP)  # so that the answer does not come to its end before
            connection = service.connect()
            headers = {"Authorization": f"Bearer {service.token}", "Content-Type": "image/jpeg"}
            connection.request("POST", "/v1/reports", photo.read_bytes(), headers)
            answer = connection.getresponse()
            assert answer.readline() == b"event: conversation\n"
            until(lambda: service.requests_now() == 1)
            if end == "kill":
                os.kill(worker, signal.SIGKILL)
                assert list(parse_events(answer.read().decode()))[-1][1]["code"] == "worker_ended"
            connection.close()
            answer.close()
            until(lambda: service.requests_now() == 0)
        os.kill(worker, signal.SIGCONT)
        assert service.stop() == 0
        ends = [(line["status"], line.get("code")) for line in service.log if line.get("route") == "/v1/reports"]
        assert ends == [(503, "worker_ended"), (499, None)]
