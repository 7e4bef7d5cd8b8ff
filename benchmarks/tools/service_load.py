"""Load on the service: `python -m skingpt_edge.benchmarks.tools.service_load load BUNDLE -o FILE.json`.

`load` lets 1, 2, 4 and 8 clients ask at the same time, each with new photos, over OpenAI's API and
as a stream. `overhead` asks for the same reports from the service and in-process, in turns. `other` puts the same load
on another server of OpenAI's API, with a text of as many tokens in the photo's place: it has no photos.
"""

import argparse
import base64
import http.client
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...runtime import Options, SkinGPT

CLIENTS = (1, 2, 4, 8)
QUESTION = "Could you describe the skin disease in this image for me?"
WORD = " the"  # one token in every Llama's vocabulary


@dataclass(frozen=True)
class Server:
    """Where requests go."""

    port: int
    token: str
    model: str


@dataclass(frozen=True)
class Answered:
    first: float
    """Seconds to the first text."""
    seconds: float
    tokens: int


def new_photo(number: int) -> bytes:
    """A JPEG of 640 × 480 pixels that no other number gives."""
    noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
    target = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(target, "JPEG", quality=90)
    return target.getvalue()


def about_photo(number: int) -> list[dict[str, Any]]:
    """A message with a new photo."""
    url = f"data:image/jpeg;base64,{base64.b64encode(new_photo(number)).decode()}"
    return [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": url}}]


def about_text(number: int, tokens: int) -> str:
    """A text of about as many tokens, which begins differently for each number, so that nothing is reused."""
    return f"{number}:{WORD * (tokens - 8)} {QUESTION}"


def ask(server: Server, content: object, max_tokens: int) -> Answered:
    """One streamed chat completion. Raises RuntimeError if it is not answered."""
    body = {"model": server.model, "messages": [{"role": "user", "content": content}], "max_tokens": max_tokens,
            "temperature": 0, "stream": True}  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=3600)
    begun, first, tokens = time.perf_counter(), 0.0, 0
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.token}"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {answer.read().decode()[:300]}")
    for line in answer:
        if line.startswith(b"data: {"):
            choices = json.loads(line[6:])["choices"]
            if choices and choices[0]["delta"].get("content"):
                first = first or time.perf_counter() - begun
                tokens += 1
    connection.close()
    return Answered(first, time.perf_counter() - begun, tokens)


def put_load(server: Server, contents: Iterator[object], clients: int, rounds: int, tokens: int) -> dict[str, Any]:
    """`rounds` requests of each client, one after the other; the clients all at once."""
    given = [[next(contents) for _ in range(rounds)] for _ in range(clients)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = [one for many in pool.map(lambda mine: [ask(server, c, tokens) for c in mine], given) for one in many]
    seconds = time.perf_counter() - begun
    firsts = sorted(one.first for one in answers)
    found = {
        "clients": clients,
        "requests": len(answers),
        "requests_per_second": round(len(answers) / seconds, 4),
        "tokens_per_second": round(sum(one.tokens for one in answers) / seconds, 3),
        "first_token_seconds": {"median": round(statistics.median(firsts), 3), "worst": round(firsts[-1], 3)},
    }
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


@contextmanager
def our_service(bundle: Path, *options: str) -> Iterator[Server]:
    """A `skingpt serve` that is ready."""
    with tempfile.TemporaryDirectory() as folder:
        token, port = Path(folder) / "token", free_port()
        program = Path(sys.executable).with_name("skingpt")
        command = [program, "serve", bundle, "--port", port, "--token-file", token, *options]
        with started([str(part) for part in command], port, "/readyz"):
            key = token.read_text().strip()
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
            yield Server(port, key, json.load(connection.getresponse())["data"][0]["id"])
            connection.close()


@contextmanager
def started(command: list[str], port: int, ready: str) -> Iterator[None]:
    """A server that answers this path with 200, stopped at the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not answers(port, ready):
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with exit code {process.returncode}")
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def load(given: argparse.Namespace) -> dict[str, Any]:
    """Our service under load."""
    numbers = count(1)
    with our_service(given.bundle, "--conversations", str(max(CLIENTS))) as server:
        ask(server, about_photo(0), 2)  # the text before the photo is computed once
        photos = (about_photo(next(numbers)) for _ in iter(int, 1))
        return {"load": [put_load(server, photos, clients, given.rounds, given.tokens) for clients in CLIENTS]}


def overhead(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a report from the service over those in-process, in turns; each pair has a photo of its own."""
    ratios, seconds = [], []
    options = Options(conversations=4, huge_pages=True)
    with our_service(given.bundle) as server, SkinGPT.open(given.bundle, options=options) as model:
        config = replace(model.defaults, max_new_tokens=given.tokens)
        for number in range(given.rounds + 1):
            photo = new_photo(10_000 + number)
            pair = [_timed(lambda photo=photo: _report(server, photo, given.tokens)),
                    _timed(lambda photo=photo: model.report(model.embed(photo), config=config))]  # fmt: skip
            if number:  # the first pair computes the text before the photo
                ratios.append(pair[0] / pair[1])
                seconds.append([round(one, 4) for one in pair])
                print(f"{pair[0]:.3f} s from the service, {pair[1]:.3f} s in-process", file=sys.stderr, flush=True)
    return {"overhead": {"ratio_median": round(statistics.median(ratios), 4), "seconds": seconds}}


def _timed(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _report(server: Server, photo: bytes, tokens: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=3600)
    headers = {"Content-Type": "image/jpeg", "Authorization": f"Bearer {server.token}"}
    connection.request("POST", f"/v1/reports?max_new_tokens={tokens}", photo, headers)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200 and b"event: report" in text, text[-500:]
    connection.close()


def other(given: argparse.Namespace) -> dict[str, Any]:
    """Another server under the same load; the command has {port} where its port belongs."""
    port, numbers = free_port(), count(1)
    command = [part.replace("{port}", str(port)) for part in given.command]
    with started(command, port, "/v1/models"):
        server = Server(port, "none", given.model)
        ask(server, about_text(0, given.prompt_tokens), 2)
        texts = (about_text(next(numbers), given.prompt_tokens) for _ in iter(int, 1))
        found = [put_load(server, texts, clients, given.rounds, given.tokens) for clients in CLIENTS]
        return {"command": [Path(part).name for part in given.command], "load": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sub = parser.add_subparsers(required=True)
    for name, function in (("load", load), ("overhead", overhead), ("other", other)):
        one = sub.add_parser(name)
        one.set_defaults(function=function, name=name)
        if name != "other":
            one.add_argument("bundle", type=Path)
        one.add_argument("-o", dest="output", type=Path, required=True, help="JSON; what it holds already stays")
        one.add_argument("--key", required=True, help="under which the figures are put into it")
        one.add_argument("--rounds", type=int, default=4)
        one.add_argument("--tokens", type=int, default=32)
        if name == "other":
            one.add_argument("--model", default="model")
            one.add_argument("--prompt-tokens", type=int, default=100)
            one.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    found = {"processor_cores": os.cpu_count(), **given.function(given), "rounds": given.rounds, "tokens": given.tokens}
    document = json.loads(given.output.read_text()) if given.output.exists() else {}
    document.setdefault(given.key, {})[given.name] = found
    given.output.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
