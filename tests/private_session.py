"""A service under strace, asked about pictures, questions and names that hold canaries.

`python private_session.py FOLDER REQUESTS KILLS SECONDS`: in FOLDER are then the trace, `found.json`, and in `kept` all
that the service could write to. It is run in a network of its own, by the tests or by hand.
"""

import base64
import io
import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path
from threading import Timer
from typing import Any

from PIL import Image, PngImagePlugin
from service import PICTURES, RunningService, running
from skingpt_edge.runtime.machine import process_family

NETWORK = "socket,connect,bind,listen,sendto,sendmsg,sendmmsg,io_uring_setup"
FILES = "open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,mknod,mknodat"
STRACE = ["strace", "-D", "-f", "-qq", "-y", "-e", f"trace={NETWORK},{FILES},prctl", "-o"]
CANARIES = {
    name: f"CANARY-{name}-7f3a9c"
    for name in ("description", "comment", "xmp", "text", "question", "file", "header", "path", "query", "user")
}


def pictures() -> dict[str, bytes]:
    """A JPEG and a PNG with canaries in all kinds of metadata, by content type."""
    with Image.open(PICTURES[0]) as opened:
        picture = opened.convert("RGB")
    exif = Image.Exif()
    exif[0x010E] = CANARIES["description"]
    exif.get_ifd(0x8825)[29] = CANARIES["description"]  # GPSDateStamp
    xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{CANARIES['xmp']}</x:xmpmeta>".encode()
    jpeg, png, info = io.BytesIO(), io.BytesIO(), PngImagePlugin.PngInfo()
    picture.save(jpeg, "JPEG", exif=exif, xmp=xmp, comment=CANARIES["comment"])
    info.add_text("Patient", CANARIES["text"])
    info.add_itxt("Comment", CANARIES["comment"])
    picture.save(png, "PNG", exif=exif, pnginfo=info)
    assert CANARIES["xmp"].encode() in jpeg.getvalue() and CANARIES["text"].encode() in png.getvalue()
    return {"image/jpeg": jpeg.getvalue(), "image/png": png.getvalue()}


class Patient:
    """Asks everything that a client can ask, with canaries wherever it can say something."""

    def __init__(self, service: RunningService) -> None:
        self.service = service
        self.answers: set[str] = set()
        """What the model said."""
        self.statuses: list[int] = []
        self._pictures = pictures()

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[dict[str, str], Any]:
        headers = {"x_patient": CANARIES["header"], "user_agent": CANARIES["header"], **headers}
        status, found, answer = self.service.request(method, path, body, **headers)
        self.statuses.append(status)
        return found, json.loads(answer) if answer.startswith(b"{") else answer.decode(errors="replace")

    def visit(self, number: int) -> None:
        """One of five kinds of requests."""
        kind = list(self._pictures)[number % 2]
        picture = self._pictures[kind]
        headers = {"content_type": kind, "content_disposition": f'attachment; filename="{CANARIES["file"]}.jpg"'}
        kinds = [self.report, self.stream, self.conversation, self.chat, self.refused]
        kinds[number % len(kinds)](picture, headers)

    def report(self, picture: bytes, headers: dict[str, str]) -> None:
        _, found = self.request("POST", "/v1/reports", picture, accept="application/json", **headers)
        self.answers |= {turn["text"] for turn in found.get("turns", ())}

    def stream(self, picture: bytes, headers: dict[str, str]) -> None:
        found, _ = self.request("POST", f"/v1/reports?patient={CANARIES['query']}", picture, **headers)
        if "x-conversation-id" in found:
            self.request("DELETE", f"/v1/conversations/{found['x-conversation-id']}")

    def conversation(self, picture: bytes, headers: dict[str, str]) -> None:
        found, _ = self.request("POST", "/v1/conversations", picture, **headers)
        for _ in range(2):
            body = json.dumps({"question": f"Is {CANARIES['question']} worse?", "max_new_tokens": 40}).encode()
            path = f"{found.get('location', '/v1/conversations/none')}/questions"
            _, answer = self.request("POST", path, body, content_type="application/json", accept="application/json")
            self.answers.add(answer.get("text", ""))

    def chat(self, picture: bytes, headers: dict[str, str]) -> None:
        name = json.loads(self.service.request("GET", "/v1/models")[2])["data"][0]["id"]
        url = f"data:{headers['content_type']};base64,{base64.b64encode(picture).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": f"{CANARIES['question']}?"}
        ]  # fmt: skip
        given = {"model": name, "messages": [{"role": "user", "content": content}], "user": CANARIES["user"]}
        _, found = self.request(
            "POST", "/v1/chat/completions", json.dumps(given).encode(), content_type="application/json"
        )
        self.answers |= {choice["message"]["content"] for choice in found.get("choices", ())}

    def refused(self, picture: bytes, headers: dict[str, str]) -> None:
        """Errors, too, must not say anything of what was sent."""
        self.request("GET", f"/{CANARIES['path']}")
        self.request("POST", "/v1/reports", picture[:2000], **headers)
        self.request("POST", "/v1/chat/completions", f'{{"{CANARIES["question"]}"'.encode(), **headers)
        self.request("DELETE", f"/v1/conversations/{CANARIES['path']}")


def core_limits(service: RunningService) -> list[str]:
    """Of every process of the service, the line that limits core dumps."""
    found = [Path(f"/proc/{pid}/limits").read_text() for pid in process_family(service.process.pid)]
    return [re.sub(" +", " ", next(line for line in text.splitlines() if "core" in line)) for text in found]


def visit_and_kill(patient: Patient, number: int, delay: float) -> None:
    """A request during which, most of the time, the worker is killed; until there is another worker."""
    service = patient.service
    killer = Timer(delay, os.kill, [service.worker(), signal.SIGKILL])
    before = starts(service)
    killer.start()
    patient.visit(number)
    killer.join()
    while starts(service) == before:
        time.sleep(0.05)


def starts(service: RunningService) -> int:
    return [line["event"] for line in service.log].count("worker_ready")


def run(folder: Path, requests: int, kills: int, seconds: float) -> dict[str, Any]:
    """Ask, with workers killed meanwhile; then wait, so that the last worker lives long enough to send something."""
    os.environ.pop("ORT_DISABLE_TELEMETRY", None)  # the service has to see to it itself
    kept = folder / "kept"
    for name in ("tmp", "home", "cache"):
        (kept / name).mkdir(parents=True)
    environment = {
        "HOME": str(kept / "home"), "TMPDIR": str(kept / "tmp"), "XDG_CACHE_HOME": str(kept / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    draw = random.Random(0)
    with running(kept, before=[*STRACE, str(folder / "trace")], **environment) as service:
        patient, limits = Patient(service), core_limits(service)
        killed = set(draw.sample(range(1, requests), kills))
        for number in range(requests):
            if number in killed:
                visit_and_kill(patient, number, draw.uniform(0, 0.3))
            else:
                patient.visit(number)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(1)
        for number in range(5):
            patient.visit(number)
        code = service.stop()
    found = {
        "exit": code, "statuses": patient.statuses, "answers": sorted(patient.answers - {""}), "core": limits,
        "events": [line["event"] for line in service.log],
    }  # fmt: skip
    (folder / "found.json").write_text(json.dumps(found))
    return found


if __name__ == "__main__":
    run(Path(sys.argv[1]).absolute(), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
