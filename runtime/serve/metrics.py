"""Figures for Prometheus, of the service as a whole; nothing in them tells of one request."""

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
RATES = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500)
STAGES = ("image_decode", "preprocess", "vision_encoder", "qformer")


class Metrics:
    """Counters of one service."""

    def __init__(self, now: Mapping[str, Callable[[], float]]) -> None:
        """`now`: gauges that are read when somebody asks: requests, conversations, ready, server and worker memory."""
        self._registry = CollectorRegistry()
        texts = {
            "requests_now": "Requests that are answered or wait",
            "conversations": "Conversations that are remembered",
            "ready": "Whether the model is loaded",
            "server_memory_bytes": "Memory of the server's process",
            "worker_memory_bytes": "Memory of the model's process",
        }
        for name, function in now.items():
            Gauge(f"skingpt_{name}", texts[name], registry=self._registry).set_function(function)
        self._requests = Counter(
            "skingpt_requests", "Requests by route, method and status", ["route", "method", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._restarts = Counter(
            "skingpt_worker_restarts", "Starts of the model's process after the first", ["reason"],
            registry=self._registry,
        )  # fmt: skip
        self._tokens = Counter("skingpt_tokens", "Tokens generated", registry=self._registry)
        self._first = Histogram(
            "skingpt_first_token_seconds", "From a question to its first token", buckets=SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._rate = Histogram(
            "skingpt_tokens_per_second", "Of one answer, after its first token", buckets=RATES, registry=self._registry
        )
        self._stages = Histogram(
            "skingpt_stage_seconds", "Stages of a photo", ["stage"], buckets=SECONDS, registry=self._registry
        )

    def request(self, route: str, method: str, status: int) -> None:
        self._requests.labels(route, method, str(status)).inc()

    def restart(self, reason: str) -> None:
        self._restarts.labels(reason).inc()

    def answer(self, answer: Mapping[str, Any]) -> None:
        """A finished answer, as `turn_json` describes it."""
        tokens, seconds = len(answer["token_ids"]), answer["decode_ms"] / 1000
        self._tokens.inc(tokens)
        self._first.observe(answer["first_token_ms"] / 1000)
        if tokens > 1 and seconds:
            self._rate.observe((tokens - 1) / seconds)

    def photo(self, seconds: Mapping[str, float]) -> None:
        """The stages of a photo, in seconds."""
        for stage in STAGES:
            if stage in seconds:
                self._stages.labels(stage).observe(seconds[stage])

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
