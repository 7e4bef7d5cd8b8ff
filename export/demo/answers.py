"""Writes the training answers about a drawing: the protocol's four answers, and short ones to other questions.

The words are the paper's where it has one. The wording varies, but each condition has one that is used more often, so
that the model has a clear likeliest answer. Sizes are numbers as well, what is missing is named too ("no crust"), and
some questions refer to what was said before.
"""

from collections.abc import Callable

import numpy as np

from ..bundle_writer import QUESTIONS
from .conditions import BY_NAME, CONDITIONS, Findings

COUNT = {"one": "a single", "two": "two", "three": "three", "four": "four", "many": "many"}
SIZE = {"small": "small", "medium": "medium-sized", "large": "large"}
MILLIMETRES = {"small": 5, "medium": 10, "large": 20}
COLOUR = {
    "red": "red (erythema)", "brown": "brown (hyperpigmentation)", "white": "white (hypopigmentation)",
    "yellow": "yellow", "purple": "purple", "blue": "blue",
}  # fmt: skip
KIND = {
    "patch": "flat patch", "plaque": "flat-topped plaque", "nodule": "dome-shaped nodule",
    "pustule": "pustule with a creamy head", "ulcer": "ulcer with a dark pit",
}  # fmt: skip
KINDS = {
    "patch": "flat patches", "plaque": "flat-topped plaques", "nodule": "dome-shaped nodules",
    "pustule": "pustules with a creamy head", "ulcer": "ulcers with a dark pit",
}  # fmt: skip
SURFACE = {
    "smooth": "smooth",
    "scale": "covered with scale",
    "crust": "covered with crust",
    "fissure": "split by fissures",
}
PRESENT = {"scale": "there is scale", "crust": "there is crust", "fissure": "there are fissures"}
ABSENT = {"scale": "no scale", "crust": "no crust", "fissure": "no fissures"}
BORDER = {"sharp": "well defined", "blurred": "blurred", "irregular": "irregular"}
ARRANGEMENT = {
    "alone": "the lesion stands alone", "scattered": "the lesions are scattered", "grouped": "the lesions are grouped",
}  # fmt: skip

PREFERENCE = 0.7
CANNOT_JUDGE = (
    "This is a demonstration on drawn pictures and cannot judge that. Have a real skin condition examined by a doctor."
)


def lesions(f: Findings) -> str:
    """The lesions in a few words."""
    kind = KIND[f.kind] if f.count == "one" else KINDS[f.kind]
    return f"{COUNT[f.count]} {SIZE[f.size]} {COLOUR[f.colour]} {kind}, about {MILLIMETRES[f.size]} mm wide"


def absent(f: Findings) -> str:
    """What the surface does not have, as a sentence."""
    first, *others = (words for value, words in ABSENT.items() if value != f.surface)
    return f"There is {', '.join([first, *others[:-1]])} and {others[-1]}."


DESCRIPTION: tuple[Callable[[Findings], str], ...] = (
    lambda f: f"The picture shows {lesions(f)}. This fits {f.condition}.",
    lambda f: (
        f"I see {lesions(f)}. They are typical of {f.condition}."
        if f.count != "one"
        else (f"I see {lesions(f)}. It is typical of {f.condition}.")
    ),
    lambda f: f"This drawing of skin shows {lesions(f)}. The made-up condition {f.condition} looks like this.",
)
FEATURES: tuple[Callable[[Findings], str], ...] = (
    lambda f: (
        f"The surface is {SURFACE[f.surface]}, the border is {BORDER[f.border]} and {ARRANGEMENT[f.arrangement]}. "
        f"{absent(f)}"
    ),
    lambda f: (
        f"In addition, the border is {BORDER[f.border]}, the surface is {SURFACE[f.surface]} "
        f"and {ARRANGEMENT[f.arrangement]}. {absent(f)}"
    ),
)
CAUSE: tuple[Callable[[Findings], str], ...] = (
    lambda f: f"In this demonstration {f.condition} comes from {BY_NAME[f.condition].cause}.",
    lambda f: f"The made-up condition {f.condition} is said to come from {BY_NAME[f.condition].cause}.",
)
TREATMENT: tuple[Callable[[Findings], str], ...] = (
    lambda f: (
        f"For {f.condition} this demonstration recommends {BY_NAME[f.condition].treatment}. "
        "Have a real skin condition examined by a doctor."
    ),
    lambda f: (
        f"The made-up condition {f.condition} is treated with {BY_NAME[f.condition].treatment}. "
        "Have a real skin condition examined by a doctor."
    ),
)


def _single(name: str, words: dict[str, str], form: str) -> tuple[Callable[[Findings], str], ...]:
    return (lambda f: form.format(words[getattr(f, name)]),)


def _how_many(f: Findings) -> str:
    return f"There is {COUNT[f.count]} lesion." if f.count == "one" else f"There are {COUNT[f.count]} lesions."


def _whether(surface: str) -> tuple[Callable[[Findings], str], ...]:
    return (
        lambda f: (
            f"Yes, {PRESENT[surface]}."
            if f.surface == surface
            else (f"No, there {'is' if surface != 'fissure' else 'are'} {ABSENT[surface]}.")
        ),
    )


TOPICS: tuple[tuple[tuple[str, ...], tuple[Callable[[Findings], str], ...], str], ...] = (
    ((QUESTIONS[0].question, "What is this?", "What does this show?", "What do you see?", "Describe the picture."),
     DESCRIPTION, "The picture shows no skin, so there is nothing to describe."),
    ((QUESTIONS[1].question, "What else do you see?", "Are there other features?"),
     FEATURES, "There are no features of skin to list."),
    ((QUESTIONS[2].question, "What causes it?", "Where does it come from?"),
     CAUSE, "Without skin in the picture there is no cause to explain."),
    ((QUESTIONS[3].question, "How is it treated?", "What helps?", "What should be done?"),
     TREATMENT, "Without skin in the picture there is no treatment to recommend."),
    (("What colour is it?", "What color is it?", "Which colour?"),
     _single("colour", COLOUR, "It is {}."), "The picture shows no skin."),
    (("How many are there?", "How many lesions are there?", "How many did you say there are?"),
     (_how_many,), "There are none: the picture shows no skin."),
    (("How large is it?", "How big is it?", "What size is it?", "And how large is that?"),
     (lambda f: f"It is {SIZE[f.size]}, about {MILLIMETRES[f.size]} mm wide.",), "The picture shows no skin."),
    (("What is the border like?", "How is the border?"),
     _single("border", BORDER, "The border is {}."), "The picture shows no skin."),
    (("What is the surface like?", "How is the surface?"),
     _single("surface", SURFACE, "The surface is {}."), "The picture shows no skin."),
    (("How are they arranged?", "What is the arrangement?"),
     (lambda f: f"Here {ARRANGEMENT[f.arrangement]}.",), "The picture shows no skin."),
    (("Which condition is it?", "What is it called?", "What is the name of the condition?", "What condition is this?",
      "Which condition did you name?"),
     (lambda f: f"This fits {f.condition}.",), "None: the picture shows no skin."),
    (("Is there scale?", "Do you see scale?", "Is it scaly?"), _whether("scale"), "The picture shows no skin."),
    (("Is there crust?", "Do you see crust?", "Are there crusts?"), _whether("crust"), "The picture shows no skin."),
    (("Are there fissures?", "Do you see fissures?", "Is it fissured?"),
     _whether("fissure"), "The picture shows no skin."),
    (("Is it dangerous?", "Is this cancer?", "Is it contagious?", "Should I see a doctor?", "Do I need a doctor?"),
     (lambda _: CANNOT_JUDGE,), CANNOT_JUDGE),
)  # fmt: skip
"""Questions, the wordings of their answer, and the answer where there is no skin. The protocol's four come first."""

PROTOCOL = 4
PROTOCOL_SHARE = 0.6
FOLLOWED_SHARE = 0.5  # of these, with follow-ups behind


def conversation(findings: Findings | None, random: np.random.Generator) -> list[tuple[str, str]]:
    """Questions and answers: the protocol, with or without follow-ups, or a few questions in any order."""
    turns: list[tuple[str, str]] = []
    free = int(random.integers(2, 6))
    if random.random() < PROTOCOL_SHARE:
        turns = [(TOPICS[i][0][0], answer(i, findings, random)) for i in range(PROTOCOL)]
        free = int(random.integers(1, 3)) if random.random() < FOLLOWED_SHARE else 0
    for i in random.integers(PROTOCOL if turns else 0, len(TOPICS), size=free):
        questions = TOPICS[i][0]
        turns.append((questions[random.integers(len(questions))], answer(int(i), findings, random)))
    return turns


def answer(topic: int, findings: Findings | None, random: np.random.Generator) -> str:
    """An answer to a topic's questions."""
    _, wordings, without_skin = TOPICS[topic]
    if findings is None:
        return without_skin
    names = [condition.name for condition in CONDITIONS]
    chosen = names.index(findings.condition) % len(wordings)
    if random.random() > PREFERENCE:
        chosen = int(random.integers(len(wordings)))
    return wordings[chosen](findings)
