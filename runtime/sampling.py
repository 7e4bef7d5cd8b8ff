"""How the next token is chosen."""

from dataclasses import dataclass

import numpy as np

from ..engines.base import Floats
from ..engines.errors import InputError, NumericalError

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class GenerationConfig:
    """What may vary between two answers to the same question."""

    max_new_tokens: int = 300
    """Upper bound on the answer's length."""
    temperature: float = 0.0
    """0 means greedy: the same picture and question give the same words."""
    top_p: float = 0.9
    """Sample among the likeliest tokens that together have this probability."""
    seed: int = 0
    """The same seed gives the same sampled answer."""
    ignore_stop: bool = False
    """Generate past stop strings; the text is cut there all the same."""

    def __post_init__(self) -> None:
        """Raises InputError naming a value out of range."""
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}, expected at least 1")
        if not 0 <= self.temperature <= 100:
            raise InputError(f"temperature is {self.temperature}, expected 0 to 100")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}, expected above 0 and at most 1")
        if not 0 <= self.seed <= MAX_SEED:
            raise InputError(f"seed is {self.seed}, expected 0 to {MAX_SEED}")


class Sampler:
    """Chooses tokens from logits; greedy at temperature 0, else nucleus sampling (Holtzman et al. 2020)."""

    def __init__(self, config: GenerationConfig, turn: int = 0, sample: int | None = None) -> None:
        self._config = config
        # Neither turns nor several samples of one answer share their chances.
        self._random = np.random.default_rng((config.seed, turn) if sample is None else (config.seed, turn, sample))

    def choose(self, logits: Floats) -> int:
        """The next token from logits (n_vocab,). Raises NumericalError if one is NaN or infinite."""
        if not np.isfinite(logits).all():
            raise NumericalError("the language model's logits hold NaN or infinity: the bundle is damaged")
        if self._config.temperature == 0:
            return int(logits.argmax())
        with np.errstate(over="ignore"):  # a temperature next to zero leaves one token
            probabilities = np.exp((logits.astype(np.float64) - logits.max()) / self._config.temperature)
        probabilities /= probabilities.sum()
        order = np.argsort(-probabilities, kind="stable")
        # The token that crosses top_p is still in.
        kept = order[: int(np.searchsorted(np.cumsum(probabilities[order]), self._config.top_p)) + 1]
        return int(self._random.choice(kept, p=probabilities[kept] / probabilities[kept].sum()))
