"""One engine in a process of its own, asked from outside: memory and first use are then its own.

The parent writes a line of JSON with a method's name and arguments and reads a line with its result. A worker
waits without using the CPU, so that two of them can take turns.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from types import TracebackType
from typing import Any, Self

from ..engines.errors import EngineError, SkinGPTError

ROLES = {
    "skingpt": ("stages", "SkinGPTStages"),
    "vision": ("stages", "VisionStages"),
    "growth": ("growth", "Growth"),
    "conversations": ("growth", "Conversations"),
    "torch": ("baseline", "TorchBaseline"),
    "ceilings": ("ceilings", "Ceilings"),
    "profile": ("operators", "Operators"),
}
"""What a worker can be: module and class, whose methods are what it can be asked."""


class Worker:
    """A child process that holds one engine; a context manager."""

    def __init__(self, role: str, *, threads: int, **options: Any) -> None:
        """Start it and wait until it is ready. Raises EngineError if it cannot be."""
        self._role = role
        # numpy's and torch's thread pools are sized when they are imported.
        pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, role, json.dumps({"threads": threads, **options})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **pools},
        )
        try:
            self.opened: Any = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, **arguments: Any) -> Any:
        """Call a method of the role in the child and return its result. Raises EngineError if it fails."""
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
            raise EngineError(f"measuring {self._role}: {answer['error']}")
        return answer["result"]

    def _ended(self) -> EngineError:
        code = self._process.wait()
        why = "killed, most likely because memory ran out" if code < 0 else "see the lines above"
        return EngineError(f"measuring {self._role}: its process ended with code {code} ({why})")

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(role: str, options: Mapping[str, Any]) -> None:
    """Be the worker `role`: answer each line of standard input until it ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not stand among the answers

    def reply(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    module, name = ROLES[role]
    try:
        worker = getattr(import_module(f".{module}", __package__), name)(**options)
        reply(result=getattr(worker, "opened", None))
        for line in sys.stdin:
            request = json.loads(line)
            reply(result=getattr(worker, request["method"])(**request["arguments"]))
    except (SkinGPTError, MemoryError) as error:
        reply(error=str(error) or "out of memory")


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
