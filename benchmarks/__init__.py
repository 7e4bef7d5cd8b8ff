"""Measures speed, memory and energy of a bundle on this machine, and writes reports about them."""

from .. import engines as engines  # switches ONNX Runtime's telemetry off before anything here imports it
