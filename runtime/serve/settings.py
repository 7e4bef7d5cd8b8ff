"""What `skingpt serve` was asked for, and the fixed limits of the service."""

import json
import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

PORT = 8077

# Bytes.
MAX_PHOTO = 20_000_000
MAX_CHAT = 28_000_000  # a photo in base64, and text
MAX_JSON = 64_000  # any other JSON
MAX_HEADERS = 16_384
MAX_BODIES = 256_000_000  # all that are being received or wait for a decoder, together
MAX_QUESTION = 4000  # characters
MAX_CHAT_TEXT = 100_000  # characters of a whole conversation; tokenizing them takes 0.1 s, in which no answer goes on
MAX_CONNECTIONS = 1024
MAX_CHOICES = 8
MAX_SESSIONS = 64
MAX_GONE = 64  # requests whose clients have gone, until the model's process has ended them
KIOSK_OFFERS = ("file", "print", "save")
# Seconds.
HEADER_SECONDS = 10  # until the headers of a request are complete
BODY_SECONDS = 60  # until its body is
STALL_SECONDS = 30  # that a client may leave an answer unread
KEEP_ALIVE_SECONDS = 15  # between two requests on one connection
HEARTBEAT_SECONDS = 10  # of an event stream in which nothing happens
BUSY_SECONDS = 1  # that a question waits for an answer before it, whose client may just have gone
READY_SECONDS = 60  # that a request waits for a model that is being loaded
LOAD_SECONDS = 900
STOP_SECONDS = 10

STOP_SIGNALS = {getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)}


@dataclass(frozen=True)
class Settings:
    """How the service is run."""

    bundle: str
    options: dict[str, Any] = field(default_factory=dict)
    """Of the model: `Options` by name."""
    verify: bool = False
    together: bool = True
    """Answers share the model's calls; see `Scheduler`."""
    port: int = PORT
    socket: str | None = None
    """The path of a Unix socket, in place of the port."""
    token_file: str | None = None
    queue: int = 8
    """Requests that wait, beside those that are answered at the same time."""
    idle_seconds: float = 900
    """After which a conversation is wiped."""
    answer_seconds: float = 600
    """The longest time of one answer, its prompt included."""
    hang_seconds: float = 60
    """Without a sign of life after which the model's process is ended."""
    growth_bytes: int = 1_000_000_000
    """By which the model's process may grow before it is started again."""
    report_seconds: float | None = None
    """How long a report takes here, from what `skingpt tune` measured; None if it measured nothing."""
    kiosk_idle_seconds: float = 60
    """Without a touch or a key, after which the kiosk page asks whether anybody is there."""
    kiosk_without: list[str] = field(default_factory=list)
    """What the kiosk page does not offer, of KIOSK_OFFERS."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))

    @property
    def socket_path(self) -> Path | None:
        return Path(self.socket) if self.socket else None
