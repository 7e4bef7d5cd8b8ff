"""Runs an object in a child process and calls its methods.

Calls and results are lines of JSON. The child's memory can be measured by itself, and its crash does not end the
parent. A child that is not called does not use the CPU.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Self

from ..engines import errors
from ..engines.errors import EngineError, EngineUnavailable, SkinGPTError

MAX_LAST_WORDS = 200  # letters


class WorkerEnded(EngineError):
    """A child process ended while it was asked something."""

    def __init__(self, name: str, code: int, last_words: str = "") -> None:
        """`code`: its exit code, or a signal's number below zero; `last_words`: its last line on standard error."""
        why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        super().__init__(f"{name}: its process ended ({why}{': ' if last_words else ''}{last_words})")
        self.code = code

    @property
    def out_of_memory(self) -> bool:
        """It was most likely killed because the machine's memory ran out."""
        return self.code == -signal.SIGKILL


class Worker:
    """A child process that holds one object; a context manager."""

    def __init__(self, target: str, *, threads: int, quiet: bool = False, **options: Any) -> None:
        """Start a process that makes `target`, a class named as `package.module:Class`, with these options as JSON.

        `threads` is one of the options, and the size of the thread pools of the child's libraries. With `quiet`
        nothing that the child prints is shown. Raises what the class raised, WorkerEnded if the process ends,
        EngineUnavailable if this program cannot start Python.
        """
        if not sys.executable:
            raise EngineUnavailable("this program does not know its Python, so it cannot start another process of it")
        self._name = target.rpartition(":")[2]
        # numpy's and torch's thread pools are sized when they are imported.
        pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        self._errors = TemporaryFile() if quiet else None  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            # -P: a file named as a library in the current folder is not imported in its place.
            [sys.executable, "-P", "-m", __spec__.name, target, json.dumps({"threads": threads, **options})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **pools},
        )
        try:
            self.opened: Any = self._answer()
            """The object's attribute `opened`, if it has one."""
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, **arguments: Any) -> Any:
        """Call a method of the object in the child and return its result.

        Raises what the method raised, if it is one of our errors; the child then goes on. Raises WorkerEnded if the
        child has ended.
        """
        assert self._process.stdin
        try:
            print(json.dumps({"method": method, "arguments": arguments}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["kind"])(answer["error"])
        return answer["result"]

    def _ended(self) -> "WorkerEnded":
        return WorkerEnded(self._name, self._process.wait(), self._last_words())

    def _last_words(self) -> str:
        """The last line that a quiet child wrote on standard error."""
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:MAX_LAST_WORDS] if lines else ""

    def close(self) -> None:
        """End the child and wait for it, so that its memory is free again."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.close()
            self._process.wait(timeout=60)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        if self._errors is not None:
            self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(target: str, options: Mapping[str, Any]) -> None:
    """Be the worker: make the object and answer each line of standard input until it ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not stand among the answers

    def reply(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    def answer(call: Callable[[], Any]) -> bool:
        try:
            reply(result=call())
        except SkinGPTError as error:
            reply(error=str(error), kind=type(error).__name__)
            return False
        except MemoryError:
            reply(error="out of memory", kind=EngineError.__name__)
            return False
        return True

    module, _, name = target.partition(":")
    made: list[Any] = []

    def make() -> Any:
        made.append(getattr(import_module(module), name)(**options))
        return getattr(made[0], "opened", None)

    if not answer(make):
        return
    for line in sys.stdin:
        request = json.loads(line)
        answer(lambda request=request: getattr(made[0], request["method"])(**request["arguments"]))  # type: ignore[misc]


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
