"""Lets one thread of one process use a language model at a time, and nobody after it is closed."""

import os
import threading
from collections.abc import Callable

from .errors import EngineError


class Exclusive:
    """A context: inside it a language model may be used, and what is known of its KV cache be changed.

    The thread that is inside may enter again. Another thread gets an error and does not wait: an answer takes seconds
    to minutes, and two answers to one question in turn are for the caller to arrange. A forked child gets one, because
    the engine's threads are not in it.
    """

    def __init__(self, free: Callable[[], object]) -> None:
        """`free` frees the memory. It is called by `close`, when no thread is inside."""
        self._free = free
        self._lock = threading.RLock()
        self._depth = 0
        self._closed = False
        self._process = os.getpid()

    @property
    def inherited(self) -> bool:
        """This process is a child, forked from the one that opened the model."""
        return os.getpid() != self._process

    def check(self) -> None:
        """Raises EngineError if the model is closed or was opened by another process."""
        if self.inherited:
            raise EngineError("the model was opened before this process was forked: open it again in this one")
        if self._closed:
            raise EngineError("the model is closed")

    def __enter__(self) -> None:
        """Raises EngineError, also if another thread is inside."""
        self.check()
        if not self._lock.acquire(blocking=False):
            raise EngineError("the model is in use by another thread: let one thread after the other use it")
        if self._closed:  # since it was checked
            self._lock.release()
            raise EngineError("the model is closed")
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._closed and not self._depth:
            self._free()
        self._lock.release()

    def close(self) -> None:
        """Let nobody in any more, and free the memory as soon as nobody is inside.

        Waits for another thread that is inside; it gets an error at its next call of the model. Called from inside, the
        memory is freed on leaving. In a forked child nothing happens.
        """
        if self.inherited:
            return
        self._closed = True
        with self._lock:
            if not self._depth:
                self._free()
