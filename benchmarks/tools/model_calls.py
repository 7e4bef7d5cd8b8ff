"""How long single calls of the language model take, by what they evaluate and how many items.

`python -m skingpt_edge.benchmarks.tools.model_calls BUNDLE [--device cuda] [--layout plain] [--repeat 10] [-o FILE]`

A call evaluates tokens, or embeddings: of a picture, or of a picture and the tokens after it. On a GPU a call's time
depends on more than its length: on what the call before was, on whether the graph can be used again, on CUDA's own
graphs. On a CPU it depends on how the weights lie in memory. This tool tells these apart; the benchmark shows only
their sum.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ...engines.base import LAYOUTS, EmbeddingSegment, LanguageModel, TokenSegment
from ...engines.errors import SkinGPTError
from ...runtime.loading import load_language_model
from ...runtime.options import Options
from ...runtime.resolving import resolve
from ...runtime.sampling import GenerationConfig, Sampler
from ...runtime.verification import open_bundle

COUNTS = (1, 2, 4, 8, 16, 32, 44, 64, 76, 102, 128)
PICTURE, QUESTION = 32, 44  # items of a usual prompt after the system's text
ANSWER = 64


class Calls:
    """Calls of one model, each timed on sequence 1."""

    def __init__(self, model: LanguageModel, repeat: int) -> None:
        self._model = model
        self._repeat = repeat
        chance = np.random.default_rng(0)
        self._tokens = chance.integers(3, model.n_vocab, 4096).tolist()
        self._rows = (0.02 * chance.standard_normal((max(COUNTS), model.n_embd))).astype(np.float32)

    def tokens(self, count: int, at: int = 0) -> float:
        segment = TokenSegment(1, at, tuple(self._tokens[at : at + count]))
        return _seconds(lambda: self._model.evaluate([segment]))

    def embeddings(self, count: int, at: int = 0) -> float:
        segment = EmbeddingSegment(1, at, self._rows[:count])
        return _seconds(lambda: self._model.evaluate([segment]))

    def clear(self) -> None:
        self._model.rewind(1, 0)

    def alone(self, call: Callable[[int], float], count: int) -> dict[str, float]:
        """The same call again and again."""
        times = []
        for _ in range(self._repeat):
            self.clear()
            times.append(call(count))
        return {"first_ms": _ms(times[0]), "p50_ms": _ms(median(times[1:]))}

    def in_turn(self) -> dict[str, float]:
        """Picture and question in two calls, and in one, as a prompt has them."""
        pictures, questions, both = [], [], []
        for _ in range(self._repeat):
            self.clear()
            pictures.append(self.embeddings(PICTURE))
            questions.append(self.tokens(QUESTION, PICTURE))
            self.clear()
            both.append(_seconds(self._together))
        return {
            "picture_p50_ms": _ms(median(pictures[1:])),
            "question_p50_ms": _ms(median(questions[1:])),
            "together_p50_ms": _ms(median(both[1:])),
        }

    def _together(self) -> None:
        question = self._model.embed(self._tokens[:QUESTION])
        self._model.evaluate([EmbeddingSegment(1, 0, np.concatenate((self._rows[:PICTURE], question)))])

    def answer(self) -> dict[str, float]:
        """Single tokens after a prompt; what choosing the next one adds."""
        self.clear()
        self.tokens(QUESTION)
        calls = [self.tokens(1, QUESTION + i) for i in range(ANSWER)]
        logits = self._model.evaluate([TokenSegment(1, QUESTION + ANSWER, (self._tokens[0],))])[0]
        found = {"first_ms": _ms(calls[0]), "p50_ms": _ms(median(calls[4:]))}
        for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
            sampler = Sampler(GenerationConfig(ANSWER, temperature, 0.9, 0))
            times = [_seconds(partial(sampler.choose, logits)) for _ in range(50)]
            found[f"{name}_choice_ms"] = _ms(median(times))
        return found


def measure(model: LanguageModel, repeat: int) -> dict[str, Any]:
    calls = Calls(model, repeat)
    return {
        "engine": model.info.to_json(),
        "tokens": {count: calls.alone(calls.tokens, count) for count in COUNTS},
        "embeddings": {count: calls.alone(calls.embeddings, count) for count in COUNTS},
        "in_turn": calls.in_turn(),
        "answer": calls.answer(),
    }


def _seconds(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layout", choices=LAYOUTS)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    try:
        bundle = open_bundle(args.bundle)
        model = load_language_model(bundle, resolve(bundle, Options(args.device, layout=args.layout)).language_model)
    except SkinGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(measure(model, args.repeat), indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
