"""A client of `skingpt serve`, for Python programs on the same machine. It needs nothing but Python itself."""

from __future__ import annotations


class Client:
    """Placeholder until written."""
