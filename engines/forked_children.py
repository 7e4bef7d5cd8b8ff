"""Keeps what a forked child inherits from being destroyed in it."""

import ctypes
import os
from weakref import WeakSet

_kept: WeakSet[object] = WeakSet()


def keep_in_children(thing: object) -> None:
    """A child has the thing's memory, but not its threads; destroying it there would wait for them for ever."""
    _kept.add(thing)


def _keep() -> None:
    for thing in _kept:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))  # a reference from nowhere, also at the interpreter's end


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_keep)
