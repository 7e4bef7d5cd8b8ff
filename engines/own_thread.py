"""A thread for a library whose threads must not be used by another one."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any


class OwnThread:
    """Runs functions one after the other in a thread in which nothing else runs."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns, or raises."""
        future = self._pool.submit(function, *arguments)
        try:
            return future.result()
        except BaseException:
            wait([future])  # interrupted: what it computes with must not change under it
            raise

    def close(self) -> None:
        self._pool.shutdown()
