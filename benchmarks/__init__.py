"""Latency and memory, measured on this machine."""

from .. import engines as engines  # switches ONNX Runtime's telemetry off before anything here imports it
