"""A thread that makes all calls of a library that keeps something for the thread it was called from."""

import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")
Call = tuple["Future[Any]", Callable[[], Any]]


class OneThread:
    """Runs functions one after the other in a thread of its own, which ends when this is dropped.

    Unlike concurrent.futures' pool it still works while the interpreter ends, when models are closed. It does not work
    in a forked child, where the thread is missing.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        Thread(target=_serve, args=(self._calls,), name=name, daemon=True).start()
        weakref.finalize(self, self._calls.put, None).atexit = False

    def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises, in that thread."""
        future: Future[Result] = Future()
        self._calls.put((future, work))
        return future.result()


def _serve(calls: "SimpleQueue[Call | None]") -> None:
    while (call := calls.get()) is not None:
        future, work = call
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        del call, future, work  # they would keep a dropped model alive
