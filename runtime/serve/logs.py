"""The service's log: JSON lines on standard error, with these fields and no others.

Nothing that a client sent is ever logged: no question, answer, header, path or file name.
"""

import json
import logging
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime

FIELDS = {
    "time", "level", "event", "request_id", "method", "route", "status", "code", "ms",
    "pid", "exit", "restarts", "seconds", "bytes", "error", "place", "address",
}  # fmt: skip


def log(event: str, *, level: str = "info", **fields: object) -> None:
    """Write one line. Raises ValueError for a field that is not allowed."""
    if extra := fields.keys() - FIELDS:
        raise ValueError(f"not a field of the log: {sorted(extra)}")
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "level": level, "event": event, **{k: v for k, v in fields.items() if v is not None}}
    with suppress(OSError):  # a full disk, or a reader that has gone: requests are answered all the same
        print(json.dumps(line), file=sys.stderr, flush=True)


class Stopwatch:
    """Milliseconds since it was made."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()

    @property
    def ms(self) -> float:
        return round((time.perf_counter() - self._begun) * 1000, 1)


class LibraryHandler(logging.Handler):
    """Logs that a library had something to say, and of an error its kind and place; its words may hold anything."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if record.levelno >= logging.WARNING:
            log_error(record.name, error) if error else log(record.name, level=record.levelname.lower())


def log_error(event: str, error: BaseException) -> None:
    """An unforeseen error: its kind and place, without its words."""
    trace, place = error.__traceback__, None
    while trace:
        place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    log(event, level="error", error=type(error).__name__, place=place)


def take_over_logging() -> None:
    """Libraries log through us."""
    root = logging.getLogger()
    root.handlers[:] = [LibraryHandler()]
    root.setLevel(logging.WARNING)
