"""What an engine is: the two seams, one for graphs and one for the language model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output as its file declares it."""

    name: str
    shape: tuple[int | None, ...]
    """`None` is a dimension that may vary, the batch."""


@dataclass(frozen=True)
class EngineInfo:
    """What really runs a stage."""

    engine: str
    version: str
    device: str
    precision: str
    threads: int

    def to_json(self) -> dict[str, str | int]:
        return asdict(self)


@dataclass(frozen=True)
class Run:
    """Consecutive tokens of one sequence, to be put into the KV cache from `position` on."""

    sequence: int
    position: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Rows:
    """Embeddings (n, n_embd) in place of tokens, as `Run`."""

    sequence: int
    position: int
    embeddings: Floats


Work = Run | Rows
"""What a language model can be asked to evaluate."""


class GraphEngine(Protocol):
    """Runs one graph: arrays in, arrays out."""

    @property
    def info(self) -> EngineInfo: ...
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every output. Raises EngineError."""
        ...

    def close(self) -> None: ...


class LanguageModel(Protocol):
    """A causal language model with a KV cache of several sequences.

    A sequence is a number; positions in it count from 0. The caller says at which position it evaluates and
    is the one who knows what the cache holds.
    """

    @property
    def info(self) -> EngineInfo: ...
    @property
    def n_embd(self) -> int: ...
    @property
    def n_ctx(self) -> int:
        """Cells of the KV cache, shared by all sequences; a forked prefix counts once."""
        ...

    @property
    def n_batch(self) -> int:
        """Tokens that `evaluate_together` takes, at most."""
        ...

    @property
    def n_vocab(self) -> int: ...
    @property
    def eos(self) -> int: ...
    def tokenize(self, text: str, *, bos: bool) -> list[int]:
        """Token ids of one text segment, with SentencePiece's dummy prefix; special tokens are plain text."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; may be a part of a UTF-8 character."""
        ...

    def evaluate_tokens(self, sequence: int, position: int, tokens: Sequence[int]) -> None:
        """Put tokens into the KV cache from `position` on. Raises EngineError."""
        ...

    def evaluate_embeddings(self, sequence: int, position: int, embeddings: Floats) -> None:
        """Put embeddings (n, n_embd) in place of tokens into the KV cache. Raises EngineError."""
        ...

    def evaluate_together(self, runs: Sequence[Run]) -> Floats:
        """Evaluate tokens of several sequences at once, at most `n_batch` of them.

        Returns logits (runs, n_vocab), each after its run's last token. Raises EngineError.
        """
        ...

    def logits(self) -> Floats:
        """Logits (n_vocab,) after the item evaluated last by `evaluate_tokens` or `evaluate_embeddings`."""
        ...

    def fork(self, source: int, target: int, length: int) -> None:
        """Make `target` hold the first `length` cells of `source`, without computing or copying them."""
        ...

    def rewind(self, sequence: int, length: int) -> None:
        """Forget everything in `sequence` from position `length` on."""
        ...

    def close(self) -> None: ...
