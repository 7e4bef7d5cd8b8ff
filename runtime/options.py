"""How a bundle is opened: devices, threads and memory. None of it changes what is computed but `kv_type`."""

from dataclasses import dataclass, fields

from ..engines.errors import InputError
from ..engines.llama_cpp_model import BATCH, DEVICES
from .manifest import KV_TYPES, MAX_CONTEXT, MIN_CONTEXT

MAX_CELLS = 1 << 20
MAX_CONVERSATIONS = 64
RANGES = {
    "threads": (1, 1024), "vision_threads": (1, 1024), "prefill_threads": (1, 1024),
    "context": (MIN_CONTEXT, MAX_CONTEXT), "conversations": (1, MAX_CONVERSATIONS), "cells": (MIN_CONTEXT, MAX_CELLS),
    "batch": (32, 2048), "gpu_layers": (0, 999), "image_cache": (0, 1000),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """None stands for a default: of the bundle or of this machine."""

    device: str = "cpu"
    """Of the language model, and of vision unless `vision_device` is given; `cpu` or `cuda`. Not there: an error."""
    vision_device: str | None = None
    gpu_layers: int | None = None
    """Layers of the language model that a GPU computes; all of them unless given."""
    threads: int | None = None
    """The physical cores unless given."""
    vision_threads: int | None = None
    prefill_threads: int | None = None
    context: int | None = None
    """Tokens of one conversation, the picture's included; the bundle's own unless given."""
    conversations: int = 1
    """Answers that can be in the making at the same time."""
    cells: int | None = None
    """Tokens that the KV cache holds in all; `context` for each conversation unless given."""
    batch: int = BATCH
    """Tokens evaluated by one call, at most."""
    kv_type: str | None = None
    amx: bool | None = None
    """Let llama.cpp use the AMX tiles of recent Xeons; unless given, for large models where a trial went well."""
    huge_pages: bool = True
    """Move large weights to huge pages after opening, in the background, where the system can."""
    prompt_snapshot: bool = True
    """Keep the computed text before the picture on disk for the next process; nothing of a picture or an answer."""
    image_cache: int = 8
    """Pictures whose embeddings are kept in memory."""

    def __post_init__(self) -> None:
        """Raises InputError naming a value out of range."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in RANGES and value is not None:
                low, high = RANGES[field.name]
                if not low <= value <= high:
                    raise InputError(f"{field.name} is {value}, expected {low} to {high}")
        for device in (self.device, self.device_of_vision):
            if device not in DEVICES:
                raise InputError(f"device {device!r} is unknown; known are {', '.join(DEVICES)}")
        if self.kv_type is not None and self.kv_type not in KV_TYPES:
            raise InputError(f"kv_type is {self.kv_type!r}; known are {', '.join(KV_TYPES)}")
        if self.gpu_layers is not None and self.device == "cpu":
            raise InputError(f"gpu_layers is {self.gpu_layers}, but the device is the CPU: ask for device 'cuda'")

    @property
    def device_of_vision(self) -> str:
        return self.vision_device or self.device
