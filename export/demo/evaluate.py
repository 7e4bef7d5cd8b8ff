"""Ask a bundle about drawings it has never seen, through the runtime, and count what it says right."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...engines.errors import InputError
from ...runtime.report import Report
from ...runtime.skingpt import SkinGPT
from ..progress import bar
from ..share import Share
from .conditions import CONDITIONS, TONES, VALUES
from .draw import draw
from .follow_ups import follow_ups
from .scenes import Kind, random_scene
from .score import PHRASES, Case, score, stated

SCHEMA = "skingpt-evaluation/2"
MOST_PICTURES, MOST_SEEDS = 100_000, 10_000
ROWS = (*VALUES, "attributes", "condition", "everything", "follow-ups")


@dataclass(frozen=True)
class Evaluation:
    """What was asked and what came of it."""

    bundle: dict[str, str]
    notice: str
    engines: dict[str, dict[str, str | int]]
    drawings: Kind
    seed: int
    cases: tuple[Case, ...]

    def to_json(self) -> dict[str, Any]:
        """Counts of everything, overall, by skin tone and condition, by picture, and with the answers shuffled."""
        return {
            "schema": SCHEMA,
            "bundle": self.bundle,
            "notice": self.notice,
            "engines": self.engines,
            "drawings": self.drawings,
            "pictures": len(self.cases),
            "seed": self.seed,
            "scores": _counts(score(self.cases)),
            "by_tone": {tone: _counts(score(cases)) for tone, cases in by_tone(self.cases).items()},
            "by_condition": {name: _counts(score(cases)) for name, cases in by_condition(self.cases).items()},
            "attributes_right_by_picture": [score([case])["attributes"].right for case in self.cases],
            "shuffled": _counts(score(shuffled(self.cases))),
            "frequencies": frequencies(self.cases),
        }


def _counts(scores: dict[str, Share]) -> dict[str, dict[str, int]]:
    return {name: asdict(share) for name, share in scores.items()}


def held_out_seeds(seed: int, count: int = MOST_PICTURES) -> range:
    """Seeds of drawings below 2^32, where no training ever draws. Raises InputError for numbers out of range."""
    if not 0 <= seed < MOST_SEEDS:
        raise InputError(f"seed is {seed}, expected 0 to {MOST_SEEDS - 1}")
    if not 1 <= count <= MOST_PICTURES:
        raise InputError(f"pictures is {count}, expected 1 to {MOST_PICTURES}")
    return range(seed * MOST_PICTURES, seed * MOST_PICTURES + count)


def identity(model: SkinGPT) -> tuple[dict[str, str], str, dict[str, dict[str, str | int]]]:
    """Bundle, notice and engines of a model, for the record."""
    bundle = {"name": model.bundle.manifest.name, "id": model.bundle.id}
    return bundle, model.bundle.manifest.notice, {stage: info.to_json() for stage, info in model.engines.items()}


def png(image: Image.Image) -> bytes:
    """The picture as a file's bytes, without loss."""
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def ask(model: SkinGPT, image: Image.Image) -> str:
    """The four answers about a picture as one text."""
    return _report_text(model.report(model.embed(png(image))))


def _report_text(report: Report) -> str:
    return "\n".join(section.answer.text for section in report.sections)


def _ask_all(model: SkinGPT, number: int, kind: Kind) -> Case:
    """The four answers about a held-out drawing, and follow-ups in the same conversation."""
    scene = random_scene(number, kind=kind)
    assert scene.findings
    report = model.report(model.embed(png(draw(scene).image)))
    talk = model.conversation(report.image, [section.answer.turn for section in report.sections])
    followed = tuple(one.is_right(scene.findings, talk.ask(one.question).text) for one in follow_ups(number))
    return Case(scene.tone, scene.findings, _report_text(report), followed)


def evaluate(model: SkinGPT, pictures: int, seed: int, drawings: Kind = "hard") -> Evaluation:
    """Ask about `pictures` held-out drawings of `seed`. Raises InputError and what the stages raise."""
    cases = []
    with bar(f"asking about {drawings} held-out drawings", unit=" pictures") as move:
        for done, number in enumerate(held_out_seeds(seed, pictures), 1):
            cases.append(_ask_all(model, number, drawings))
            move(done, pictures)
    return Evaluation(*identity(model), drawings, seed, tuple(cases))


def by_tone(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """The cases of each skin tone."""
    return {tone: [case for case in cases if case.tone == tone] for tone in TONES}


def by_condition(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """The cases of each condition that is among them."""
    names = [condition.name for condition in CONDITIONS]
    found = {name: [case for case in cases if case.truth.condition == name] for name in names}
    return {name: group for name, group in found.items() if group}


def shuffled(cases: Sequence[Case]) -> list[Case]:
    """Every picture with the answer to another one, chosen at random."""
    order = np.random.default_rng(0).permutation(len(cases))
    return [Case(case.tone, case.truth, cases[i].text) for case, i in zip(cases, order, strict=True)]


def frequencies(cases: Sequence[Case]) -> dict[str, float]:
    """The part that would be right by chance if answers kept their frequencies and no picture were looked at."""
    said = [stated(case.text) for case in cases]
    result = {}
    for name, phrases in PHRASES.items():
        truth = [getattr(case.truth, name) for case in cases]
        answers = [row[name] for row in said]
        result[name] = sum(truth.count(v) * answers.count(v) for v in phrases) / len(cases) ** 2
    result["attributes"] = float(np.mean([result[name] for name in VALUES]))
    return result


def table(evaluation: Evaluation) -> str:
    """The scores as a person reads them."""
    cases = evaluation.cases
    scores, mixed, chance = score(cases), score(shuffled(cases)), frequencies(cases)
    what = f"{len(cases)} {evaluation.drawings} held-out drawings, seed {evaluation.seed}"
    lines = [f"{what}; 95 % confidence intervals as if independent"]
    lines.append(f"{'':<14}{'right':<42}{'shuffled':>9}{'by frequency':>14}")
    for name in ROWS:
        if name in scores:
            other = f"{mixed[name].part:.1%}" if name in mixed else ""
            expected = f"{chance[name]:.1%}" if name in chance else ""
            lines.append(f"{name:<14}{scores[name]!s:<42}{other:>9}{expected:>14}".rstrip())
    for tone, group in by_tone(cases).items():
        if group:
            found = score(group)
            lines.append(f"{tone + ' skin':<14}attributes {found['attributes']}; condition {found['condition']}")
    return "\n".join([*lines, evaluation.notice])


def save_mistakes(evaluation: Evaluation, folder: Path) -> int:
    """Write every picture with a mistake as a PNG, with what was said, into an existing folder; return how many."""
    count = 0
    seeds = held_out_seeds(evaluation.seed, len(evaluation.cases))
    for number, case in zip(seeds, evaluation.cases, strict=True):
        said = stated(case.text)
        wrong = [f"{name}: {said[name]} instead of {getattr(case.truth, name)}" for name in PHRASES
                 if said[name] != getattr(case.truth, name)]  # fmt: skip
        if wrong:
            count += 1
            draw(random_scene(number, kind=evaluation.drawings)).image.save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text("\n".join([*wrong, "", case.text, "", evaluation.notice, ""]))
    return count
