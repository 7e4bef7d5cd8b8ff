"""How the next token is chosen."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Floats
from ..engines.errors import InputError, NumericalError
from .checked_values import instance, real_number, whole_number

MAX_SEED = 2**32 - 1
FIRST_SORTED = 256  # tokens


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
    stop: tuple[str, ...] = ()
    """Text that ends the answer, beside what ends every answer of the bundle; it is not part of the answer."""
    ignore_stop: bool = False
    """Generate past stop strings; the text is cut there all the same."""

    def __post_init__(self) -> None:
        """Raises InputError naming a value of a wrong type or out of range. NumPy's numbers become Python's."""
        for name, value in (
            ("max_new_tokens", whole_number("max_new_tokens", self.max_new_tokens, 1)),
            ("temperature", real_number("temperature", self.temperature, 0, 100)),
            ("top_p", real_number("top_p", self.top_p, 0, 1, above=True)),
            ("seed", whole_number("seed", self.seed, 0, MAX_SEED)),
        ):
            object.__setattr__(self, name, value)  # the only way in a frozen dataclass
        instance("ignore_stop", self.ignore_stop, bool)
        if not isinstance(self.stop, tuple) or not all(isinstance(stop, str) and stop for stop in self.stop):
            raise InputError(f"stop is {self.stop!r:.60}, expected a tuple of texts that are not empty")


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
        kept = nucleus(probabilities, self._config.top_p)
        return int(self._random.choice(kept, p=probabilities[kept] / probabilities[kept].sum()))


def nucleus(probabilities: NDArray[np.float64], top_p: float) -> NDArray[np.intp]:
    """The likeliest tokens that together have at least this probability, the likeliest first, of equal ones the first.

    The few likeliest are sorted first. They nearly always suffice, and sorting all 32,000 takes as long as a GPU needs
    for the next token.
    """
    order = np.arange(0)
    for count in (FIRST_SORTED, probabilities.size):
        least = np.partition(probabilities, -count)[-count] if count < probabilities.size else 0.0
        candidates = np.flatnonzero(probabilities >= least)
        order = candidates[np.argsort(-probabilities[candidates], kind="stable")]
        together = np.cumsum(probabilities[order])
        if together[-1] >= top_p:
            # The token that crosses top_p is still in.
            return order[: int(np.searchsorted(together, top_p)) + 1]
    return order
