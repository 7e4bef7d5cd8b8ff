"""Uses one model in random ways from several threads and forked children, and closes it at random moments.

Run by test_threads_and_forks.py in a process of its own. By hand:

    python tests/interleavings.py --rounds 1000 --seed 1

Prints how everything ended as JSON. Exit code 1 if an answer has a wrong token, if something ends in an error that is
not SkinGPT's own, or if a child hangs.
"""

import argparse
import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from skingpt_edge.runtime import EngineError, GenerationConfig, Options, SkinGPT, SkinGPTError

PICTURES = sorted((Path(__file__).parents[1] / "runtime/demo/pictures").glob("*.jpg"))[:3]
QUESTIONS = ("What is this?", "What is the border like?")
SHORT = GenerationConfig(max_new_tokens=6)
SAMPLED = GenerationConfig(max_new_tokens=4, temperature=1.0, seed=5)
Key = tuple[str, int, str]  # what is asked for, the picture's number, the question


class Rounds:
    """One model after the other, each used until it is closed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._data = [path.read_bytes() for path in PICTURES]
        self._expected: dict[Key, object] = {}
        self._streams: list[tuple[Key, object, list[str]]] = []  # begun, for any thread to go on with
        self._open()
        for kind in ("ask", "samples"):
            for number in range(len(PICTURES)):
                for question in QUESTIONS:
                    self._expected[kind, number, question] = self._answer(kind, number, question)

    def _open(self) -> None:
        options = Options(threads=self.random.choice((1, 2)), conversations=self.random.choice((1, 2)), image_cache=2)
        self._model = SkinGPT.open(options=options)
        self._streams = []

    def _answer(self, kind: str, number: int, question: str) -> object:
        image = self._model.embed(self._data[number])
        if kind == "samples":
            return [answer.token_ids for answer in self._model.samples(image, question, SAMPLED, 2, together=False)]
        return self._model.ask(image, question, SHORT).text

    def round(self) -> None:
        """Two or three threads do a few things each; one that closes the model may be among them."""
        closing = self.random.random() < 0.15
        plans = [self._plan() for _ in range(self.random.choice((2, 2, 3)))]
        if closing:
            plans.append([(self.random.random() * 0.3, self._close)])
        threads = [threading.Thread(target=self._carry_out, args=(plan,), daemon=True) for plan in plans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(600)
            if thread.is_alive():
                self.wrong.append("a thread hangs")
        if closing:
            self._open()

    def _plan(self) -> list[tuple[float, Callable[[], object]]]:
        plan: list[tuple[float, Callable[[], object]]] = []
        for _ in range(self.random.randint(1, 3)):
            number, question = self.random.randrange(len(PICTURES)), self.random.choice(QUESTIONS)
            what = self.random.choices(
                (self._ask, self._samples, self._begin_stream, self._go_on, self._embed, self._logits, self._fork),
                (4, 1, 3, 3, 2, 1, 1),
            )[0]
            plan.append((self.random.random() * 0.02, lambda w=what, n=number, q=question: w(n, q)))
        return plan

    def _carry_out(self, plan: list[tuple[float, Callable[[], object]]]) -> None:
        for pause, do in plan:
            time.sleep(pause)
            try:
                do()
                self.outcomes["done"] += 1
            except SkinGPTError as error:
                self.outcomes[f"{type(error).__name__}: {error}"] += 1
            except BaseException as error:  # a defect
                self.wrong.append(f"{type(error).__name__}: {error}")

    def _compare(self, key: Key, found: object) -> None:
        self.outcomes["answers"] += 1
        if found != self._expected[key]:
            self.wrong.append(f"{key}: {found} instead of {self._expected[key]}")

    def _ask(self, number: int, question: str) -> None:
        self._compare(("ask", number, question), self._answer("ask", number, question))

    def _samples(self, number: int, question: str) -> None:
        self._compare(("samples", number, question), self._answer("samples", number, question))

    def _begin_stream(self, number: int, question: str) -> None:
        stream = self._model.stream(self._model.embed(self._data[number]), question, SHORT)
        pieces = [next(stream)]
        self._streams.append((("ask", number, question), stream, pieces))

    def _go_on(self, *_: object) -> None:
        """With somebody's stream, to its end or for a while."""
        if not self._streams:
            return
        try:
            key, stream, pieces = self._streams.pop()
        except IndexError:  # another thread was faster
            return
        for piece in stream:
            pieces.append(piece)
            if len(pieces) == 3 and key[1] == 0:
                return  # abandoned
        self._compare(key, "".join(pieces))

    def _embed(self, number: int, _: str) -> None:
        assert self._model.embed(self._data[number]).embeds.any()

    def _logits(self, number: int, question: str) -> None:
        self._model.first_logits(self._model.embed(self._data[number]), question)

    def _close(self) -> None:
        self._model.close()

    def _fork(self, number: int, question: str) -> None:
        """A child that must get an error from everything, and at once."""
        image = self._model.embed(self._data[number])
        child = os.fork()
        if not child:
            signal.alarm(120)
            code = 1
            try:
                code = self._in_child(number, question, image)
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        self.outcomes["children"] += 1
        if status:
            self.wrong.append(f"a child ended with status {status}")

    def _in_child(self, number: int, question: str, image: object) -> int:
        model = self._model
        for do in (
            lambda: model.embed(self._data[number]),
            lambda: model.ask(image, question, SHORT),
            lambda: next(model.stream(image, question, SHORT)),
            lambda: model.samples(image, question, SAMPLED, 2),
            model.scheduler,
        ):
            try:
                do()
            except EngineError as error:
                if "forked" not in str(error):
                    return 2
            else:
                return 3
        model.close()
        return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    faulthandler.enable()
    sys.setswitchinterval(1e-4)
    rounds = Rounds(given.seed)
    for _ in range(given.rounds):
        rounds.round()
    print(json.dumps({"wrong": rounds.wrong, "outcomes": rounds.outcomes}, indent=1))
    return 1 if rounds.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
