"""What a long export shows: a line for each step, and a bar with size and remaining time."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


def step(text: str) -> None:
    """Say on standard error what is being done."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def bar(text: str, *, unit: str = "B") -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, moved by calling it with what is done and what there is in all.

    Without a terminal it is one line when the work is finished.
    """
    step_bar = tqdm(desc=text, unit=unit, unit_scale=True, disable=None)
    hidden = step_bar.disable  # closing a bar disables it

    def move(done: int, total: int) -> None:
        step_bar.total = total
        step_bar.update(done - step_bar.n)

    with step_bar:
        yield move
    if hidden:
        step(f"{text}: done")
