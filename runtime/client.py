"""A client of `skingpt serve`, for Python programs on the same machine. It needs nothing but Python itself.

    client = Client()
    for event in client.stream_report(Path("photo.jpg").read_bytes()):
        if isinstance(event, TextPiece):
            print(event.text, end="", flush=True)

Photos go to this machine only: other addresses are refused. docs/embed.md describes the service.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack
from urllib.parse import quote, urlencode

from ..engines.errors import InputError, ServiceError
from .checked_values import instance
from .serve.settings import PORT
from .serve.token_file import default_token_file, read_token

ADDRESS = f"http://127.0.0.1:{PORT}"


@dataclass(frozen=True)
class ServedConversation:
    """A conversation about a photo. The service remembers it until it is deleted, or not used for a while."""

    id: str
    notes: tuple[Mapping[str, str], ...]
    """On the photo's quality: `code` for programs, `text` for a person."""


@dataclass(frozen=True)
class StageProgress:
    """What is being done, and how far that is."""

    stage: str
    """`image_decode`, `vision_encoder` or `prompt`."""
    done: int
    total: int


@dataclass(frozen=True)
class TextPiece:
    """A piece of an answer, as it is generated."""

    number: int
    """Of the question, from 0."""
    section: str
    """Its heading in a report."""
    text: str


@dataclass(frozen=True)
class ServedAnswer:
    """A whole answer."""

    document: Mapping[str, Any]
    """A `turn` as `report.schema.json` describes it."""

    @property
    def text(self) -> str:
        return str(self.document["text"])


@dataclass(frozen=True)
class ServedReport:
    """A whole report."""

    conversation_id: str
    """To ask more about the photo, and to delete it."""
    document: Mapping[str, Any]
    """A `report` as `report.schema.json` describes it; the image's name in it says nothing."""

    @property
    def text(self) -> str:
        return "\n\n".join(f"{turn['section']}\n{turn['text']}" for turn in self.document["turns"])

    @property
    def notice(self) -> str:
        """To be shown with every report."""
        return str(self.document["notice"])


ServedEvent: TypeAlias = ServedConversation | StageProgress | TextPiece | ServedAnswer | ServedReport


class AnswerOptions(TypedDict, total=False):
    """How answers are generated. What is left out is the bundle's choice."""

    max_new_tokens: int | None
    temperature: float | None
    """0 always takes the likeliest token."""
    top_p: float | None
    seed: int
    """Of sampling; 0 if it is left out."""


class Client:
    """A service on this machine.

    Each call has a connection of its own, so threads may share a client. Every method raises ServiceError: for what the
    service refuses, for an answer that fails, and if no service is there; `code` says which, and docs/embed.md lists
    them. It raises InputError if the token file cannot be used.

    The streams are generators. One that is closed or dropped before its end cancels its answer, which is then no part
    of the conversation.
    """

    def __init__(
        self,
        address: str = ADDRESS,
        *,
        token: str | None = None,
        token_file: PathLike[str] | str | None = None,
        timeout: float = 120.0,
    ) -> None:
        """`address`: `http://127.0.0.1:PORT`, or `unix:/path/to/socket`.

        Without a token, the one in `token_file` is used, or in the file where the service keeps it unless told
        otherwise. The file is read for each request. `timeout`: seconds without a sign of life; while an answer is
        made, the service gives one every 10 seconds.

        Raises InputError.
        """
        self.address = address
        self._socket, self._port = _read_address(address)
        if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
            raise InputError("the token is empty, or holds letters that no token has")
        self._token = token
        self._token_file = Path(token_file) if token_file is not None else None
        self._timeout = timeout

    def ready(self) -> bool:
        """Whether a question would be answered now. Not so while the model is loaded, or if no service is there."""
        try:
            with self._request("GET", "/readyz", token=False):
                return True
        except ServiceError as error:
            if error.status in (None, 503):
                return False
            raise

    def report(self, photo: bytes, **options: Unpack[AnswerOptions]) -> ServedReport:
        """A report of a JPEG, PNG or WebP file: the bundle's own questions, answered one after the other."""
        *_, report = self.stream_report(photo, **options)
        assert isinstance(report, ServedReport)
        return report

    def stream_report(self, photo: bytes, **options: Unpack[AnswerOptions]) -> Generator[ServedEvent, None, None]:
        """The same as it is made: a ServedConversation, stages and pieces of text, and the ServedReport last."""
        query = urlencode({name: value for name, value in options.items() if value is not None})
        return self._events(f"/v1/reports?{query}", photo, _content_type(photo))

    def conversation(self, photo: bytes) -> ServedConversation:
        """A new conversation about a JPEG, PNG or WebP file, to ask questions of one's own."""
        with self._request("POST", "/v1/conversations", photo, content_type=_content_type(photo)) as response:
            return _conversation(_json(response.read()))

    def ask(self, conversation_id: str, question: str, **options: Unpack[AnswerOptions]) -> ServedAnswer:
        """The answer to a question about a conversation's photo, which knows the questions and answers before it."""
        *_, answer = self.stream(conversation_id, question, **options)
        assert isinstance(answer, ServedAnswer)
        return answer

    def stream(
        self, conversation_id: str, question: str, **options: Unpack[AnswerOptions]
    ) -> Generator[ServedEvent, None, None]:
        """The same as it is made: a ServedConversation, stages and pieces of text, and the ServedAnswer last."""
        body = json.dumps({"question": question, **options}).encode()
        return self._events(f"{_path(conversation_id)}/questions", body, "application/json")

    def forget(self, conversation_id: str) -> None:
        """Delete a conversation: the service wipes the photo, the questions and the answers."""
        with self._request("DELETE", _path(conversation_id)):
            pass

    def _events(self, path: str, body: bytes, content_type: str) -> Generator[ServedEvent, None, None]:
        """The events of a stream; the whole answer or report is given when the stream has come to its end."""
        last: ServedEvent | None = None
        with self._request("POST", path, body, content_type=content_type, accept="text/event-stream") as response:
            number = response.headers.get("x-conversation-id", "")
            for name, data in _server_sent_events(response):
                if name == "error":
                    raise _service_error(data)
                event = _typed(name, data, number)
                if isinstance(event, ServedAnswer | ServedReport):
                    last = event
                elif event:
                    yield event
        if last is None:
            raise self._lost()
        yield last

    @contextmanager
    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        token: bool = True,
        content_type: str | None = None,
        accept: str = "application/json",
    ) -> Iterator[HTTPResponse]:
        """The response to a request, if its status is a good one. Leaving it closes the connection."""
        given = {"Content-Type": content_type, "Authorization": f"Bearer {self._read_token()}" if token else None}
        headers = {"Accept": accept, **{name: value for name, value in given.items() if value}}
        with closing(self._connect()) as connection:
            try:
                # A service that refuses a request may do so, and close, before it has read all of it.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, path, body, headers)
                with closing(connection.getresponse()) as response:
                    if response.status >= 400:
                        raise _refusal(response)
                    yield response
            except TimeoutError:
                said = f"the service at {self.address} gave no sign of life for {self._timeout:g} seconds: ask again"
                raise ServiceError(said, "timed_out") from None
            except (OSError, HTTPException):
                raise self._lost() from None
            except (LookupError, TypeError):  # a field is missing, or of another kind
                raise _strange_reply() from None

    def _connect(self) -> HTTPConnection:
        connection = _UnixConnection(self._socket) if self._socket else HTTPConnection("127.0.0.1", self._port)
        connection.timeout = self._timeout
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            advice = "start it with `skingpt serve`, or give the address that it was started with"
            said = f"no service answers at {self.address} ({error.strerror or error}): {advice}"
            raise ServiceError(said, "unreachable") from None
        return connection

    def _lost(self) -> ServiceError:
        said = f"the service at {self.address} closed the connection before its answer was whole: ask again"
        return ServiceError(said, "connection_lost")

    def _read_token(self) -> str:
        if self._token is not None:
            return self._token
        path = self._token_file or default_token_file()
        if not path.exists():
            raise InputError(f"there is no token file {path}: start `skingpt serve`, which makes it, or name another")
        return read_token(path)


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _read_address(address: str) -> tuple[str | None, int]:
    """The path of a Unix socket, or a port. Raises InputError.

    No name is resolved: what `localhost` is, could be changed.
    """
    if found := re.fullmatch(r"unix:(/[^\0]+)", str(address)):
        return found[1], 0
    found = re.fullmatch(r"http://(?:127\.0\.0\.1|localhost):([0-9]{1,5})/?", str(address))
    if found and 0 < int(found[1]) < 1 << 16:
        return None, int(found[1])
    expected = "http://127.0.0.1:PORT or unix:/path/to/socket"
    raise InputError(f"the address {address!r:.80} is none of a service on this machine: expected {expected}")


def _content_type(photo: bytes) -> str:
    """By the first bytes. Of a file that is none of the three, the service says what it is and what to do.

    Raises InputError for what is no file's bytes.
    """
    instance("photo", photo, bytes)
    if photo[:4] == b"RIFF" and photo[8:12] == b"WEBP":
        return "image/webp"
    return "image/png" if photo[:4] == b"\x89PNG" else "image/jpeg"


def _path(conversation_id: str) -> str:
    return f"/v1/conversations/{quote(conversation_id, safe='')}"


def _server_sent_events(response: HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and data of each event, in the form that the service writes; comments are left out."""
    rest = b""
    while received := response.read1(1 << 16):
        *blocks, rest = (rest + received).split(b"\n\n")
        for block in blocks:
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line)
            if b"event" in fields:
                yield fields[b"event"].decode(), _json(fields.get(b"data", b""))


def _typed(name: str, data: dict[str, Any], conversation_id: str) -> ServedEvent | None:
    """None for an event that this client does not know, which a later service may send."""
    if name == "conversation":
        return _conversation(data)
    if name == "stage":
        return StageProgress(data["stage"], data["done"], data["total"])
    if name == "text":
        return TextPiece(data["number"], data["section"], data["text"])
    if name == "answer":
        return ServedAnswer(data)
    return ServedReport(conversation_id, data) if name == "report" else None


def _conversation(data: dict[str, Any]) -> ServedConversation:
    return ServedConversation(data["id"], tuple(data["image"]["notes"]))


def _json(body: bytes) -> dict[str, Any]:
    """Raises ServiceError."""
    with suppress(ValueError):
        found = json.loads(body)
        if isinstance(found, dict):
            return found
    raise _strange_reply()


def _strange_reply() -> ServiceError:
    said = "what answers at this address is no service of this version: look which program it is"
    return ServiceError(said, "reply_unusable")


def _refusal(response: HTTPResponse) -> ServiceError:
    """The problem document of a response (RFC 9457)."""
    try:
        return _service_error({"status": response.status, **_json(response.read())})
    except ServiceError as error:
        return ServiceError(str(error), error.code, response.status)


def _service_error(problem: dict[str, Any]) -> ServiceError:
    code = str(problem.get("code", "reply_unusable"))
    return ServiceError(str(problem.get("detail", code)), code, problem.get("status"), problem.get("retry_after"))
