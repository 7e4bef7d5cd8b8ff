"""`Options`: the settings that a user may give. `Setup`: all settings, with a value for each on this machine."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from ..engines.base import KV_TYPES, LAYOUTS, GraphSetup, LanguageModelSetup
from ..engines.errors import InputError
from .checked_values import instance, whole_number
from .manifest import MAX_CONTEXT, MIN_CONTEXT

BATCH = 128  # a first prompt is about as long
MAX_CELLS = 1 << 20
MAX_CONVERSATIONS = 64
MAX_SAMPLES = 100
RANGES = {
    "threads": (1, 1024), "vision_threads": (1, 1024), "prefill_threads": (1, 1024),
    "context": (MIN_CONTEXT, MAX_CONTEXT), "conversations": (1, MAX_CONVERSATIONS), "cells": (MIN_CONTEXT, MAX_CELLS),
    "samples": (1, MAX_SAMPLES), "sample_tokens": (1, MAX_CONTEXT),
    "batch": (32, 2048), "gpu_layers": (0, 999), "image_cache": (0, 1000),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What a user may ask for. None leaves the choice to the bundle or to this machine."""

    device: str = "cpu"
    """Of the language model, and of vision unless `vision_device` is given. A device that is not there is an error."""
    vision_device: str | None = None
    """Unless this or `vision_engine` is given, the 8-bit graphs of an `int8` bundle stay on the processor."""
    vision_engine: str | None = None
    """A name in the registry of engines; the first that has the device unless given."""
    language_engine: str | None = None
    gpu_layers: int | None = None
    """Layers of the language model that a GPU computes; all of them unless given."""
    threads: int | None = None
    """What `skingpt tune` found best unless given, or else the physical cores."""
    vision_threads: int | None = None
    prefill_threads: int | None = None
    context: int | None = None
    """Tokens of one conversation, the picture's included; the bundle's own unless given."""
    conversations: int = 1
    """Answers that can be generated at the same time."""
    samples: int = 1
    """Answers to one question that `SkinGPT.samples` generates together; they share the memory of their prompt."""
    sample_tokens: int | None = None
    """The longest of these answers, in tokens; the bundle's own longest answer unless given."""
    cells: int | None = None
    """Tokens that the KV cache holds in all; as many as conversations and samples need unless given."""
    batch: int = BATCH
    """Tokens evaluated by one call, at most: the chunk of a prompt after which a cancel takes effect."""
    kv_type: str | None = None
    """Type of the KV cache, one of KV_TYPES; the bundle's own unless given."""
    layout: str | None = None
    """How the language model's weights lie in memory, one of LAYOUTS; what `skingpt tune` remembered unless
    given, or else `repacked`."""
    tuning: bool = True
    """Use what `skingpt tune` measured on this machine."""
    huge_pages: bool = False
    """Move this process's large memory blocks to huge pages after opening, in the background, where the system can."""
    prompt_snapshot: bool = True
    """Keep the computed text before the picture on disk for the next process; nothing of a picture or an answer."""
    image_cache: int = 8
    """Pictures whose embeddings are kept in memory."""

    def __post_init__(self) -> None:
        """Raises InputError naming a value of a wrong type or out of range. NumPy's integers become Python's."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            if field.name in RANGES:
                number = whole_number(field.name, value, *RANGES[field.name])
                object.__setattr__(self, field.name, number)  # the only way in a frozen dataclass
            else:
                instance(field.name, value, bool if isinstance(field.default, bool) else str)
        for name, known in (("kv_type", KV_TYPES), ("layout", LAYOUTS)):
            if getattr(self, name) not in (None, *known):
                raise InputError(f"{name} is {getattr(self, name)!r}; known are {', '.join(known)}")
        if self.gpu_layers is not None and self.device == "cpu":
            raise InputError(f"gpu_layers is {self.gpu_layers}, but the device is the CPU: ask for device 'cuda'")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Setup:
    """How a bundle is run on this machine, every value concrete. Made by `resolve`, opened by `load`."""

    vision: GraphSetup
    """Of both graphs, vision encoder and Q-Former."""
    language_model: LanguageModelSetup
    huge_pages: bool
    prompt_snapshot: bool
    image_cache: int

    @property
    def conversations(self) -> int:
        """Answers that can be generated at the same time; one more sequence holds the text before the picture."""
        return self.language_model.sequences - 1

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
