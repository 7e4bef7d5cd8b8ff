"""Latency and memory of every stage, measured on this machine."""
