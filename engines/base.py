"""The protocols `GraphEngine` and `LanguageModel`, which engines implement, and the types of their arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .exclusive import Exclusive

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

KV_TYPES = ("f32", "f16", "q8_0/f16", "q8_0")
"""Types of the KV cache: of its keys and of its values, `keys/values` where they differ."""
LAYOUTS = ("repacked", "plain")
"""How a language model's weights lie in memory: rearranged for this processor while loading, or as in the file."""


@dataclass(frozen=True)
class GraphSetup:
    """How a graph is run."""

    engine: str
    """A name in the registry."""
    device: str
    threads: int


@dataclass(frozen=True)
class LanguageModelSetup:
    """How a language model is run."""

    engine: str
    """A name in the registry."""
    device: str
    gpu_layers: int
    """Layers that a GPU computes; 0 on the CPU."""
    threads: int
    """Used for single tokens."""
    prefill_threads: int
    """Used for prompts."""
    context: int
    """Tokens of one conversation, the picture's embeddings included."""
    cells: int
    """Tokens that the KV cache holds in all."""
    sequences: int
    """Token sequences that the KV cache tells apart."""
    batch: int
    """Tokens or embeddings evaluated by one call, at most."""
    kv_type: str
    """One of KV_TYPES."""
    flash_attention: bool
    layout: str
    """One of LAYOUTS."""


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output as its file declares it."""

    name: str
    shape: tuple[int | None, ...]
    """`None` is a dimension that may vary, the batch."""


@dataclass(frozen=True)
class EngineInfo:
    """What really runs a stage, as the engine itself says."""

    engine: str
    version: str
    device: str
    threads: int
    details: Mapping[str, str | int] = field(default_factory=dict)
    """What else the engine can tell of the way it runs."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TokenSegment:
    """Consecutive tokens of one sequence, to be put into the KV cache from `position` on."""

    sequence: int
    position: int
    tokens: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, start: int, count: int) -> "TokenSegment":
        """`count` tokens from number `start` on, the chunk that is evaluated next."""
        return TokenSegment(self.sequence, self.position + start, self.tokens[start : start + count])


@dataclass(frozen=True, eq=False)
class EmbeddingSegment:
    """Embeddings (n, n_embd) in place of tokens, as `TokenSegment`."""

    sequence: int
    position: int
    embeddings: Floats

    def __len__(self) -> int:
        return len(self.embeddings)

    def part(self, start: int, count: int) -> "EmbeddingSegment":
        """`count` embeddings from number `start` on."""
        return EmbeddingSegment(self.sequence, self.position + start, self.embeddings[start : start + count])


Segment = TokenSegment | EmbeddingSegment
"""What a language model can be asked to evaluate."""


class GraphEngine(Protocol):
    """Runs one graph: arrays in, arrays out. Opened with `(path, setup)`."""

    @property
    def info(self) -> EngineInfo: ...
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every output. Raises EngineError."""
        ...

    def close(self) -> None:
        """Free the memory; closing again does nothing."""
        ...


class LanguageModel(Protocol):
    """A causal language model with a KV cache of several sequences. Opened with `(path, setup)`.

    A sequence is a number; positions in it count from 0. The caller says at which position it evaluates, and keeps
    track of what the cache holds. Every method raises EngineError where `exclusive` does.
    """

    @property
    def exclusive(self) -> Exclusive:
        """Entered by every method here, and by whoever keeps track of what the KV cache holds."""
        ...

    @property
    def info(self) -> EngineInfo: ...
    @property
    def identity(self) -> str:
        """Everything except the weights that decides how the KV cache is laid out and which bits are in it."""
        ...

    @property
    def n_embd(self) -> int: ...
    @property
    def n_ctx(self) -> int:
        """Cells of the KV cache, shared by all sequences; a forked prefix counts once."""
        ...

    @property
    def n_batch(self) -> int:
        """Tokens or embeddings that one call takes, at most."""
        ...

    @property
    def n_vocab(self) -> int: ...
    def tokenize(self, text: str, *, bos: bool) -> list[int]:
        """Token ids of one text segment, with SentencePiece's dummy prefix; special tokens are plain text."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; may be a part of a UTF-8 character."""
        ...

    def embed(self, tokens: Sequence[int]) -> Floats:
        """The embeddings (n, n_embd) of tokens. To evaluate them is to evaluate the tokens. Raises EngineError."""
        ...

    def evaluate(self, segments: Sequence[Segment]) -> Floats:
        """Put tokens and embeddings into the KV cache, of several sequences at once, at most `n_batch` of them.

        Returns logits (segments, n_vocab), each after its segment's last item. Raises EngineError.
        """
        ...

    def fork(self, source: int, target: int, length: int) -> None:
        """Make `target` hold the first `length` cells of `source`, without computing or copying them."""
        ...

    def rewind(self, sequence: int, length: int) -> None:
        """Forget everything in `sequence` from position `length` on."""
        ...

    def snapshot(self, sequence: int) -> bytes:
        """The KV cache of a sequence, for `restore` into a model of the same weights and `identity`."""
        ...

    def restore(self, sequence: int, data: bytes) -> None:
        """Put a snapshot into an empty sequence. Raises EngineError if the engine does not take it."""
        ...

    def wipe(self) -> None:
        """Forget all sequences, and overwrite the memory that held them."""
        ...

    def set_threads(self, threads: int, prefill_threads: int) -> None:
        """Use so many threads for single tokens and for prompts from now on."""
        ...

    def close(self) -> None:
        """Free the memory; closing again does nothing."""
        ...
