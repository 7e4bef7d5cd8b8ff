"""What a drawn picture can show: attributes with the paper's words, and a table of made-up conditions.

A condition fixes the kind and the surface of its lesions and leaves the other attributes a choice, so that a
model that has only learned the conditions' names still has to look for the rest.
"""

from dataclasses import dataclass, fields

import numpy as np

TONES = ("light", "olive", "brown", "dark")
"""Skin tones; drawn in equal parts and scored one by one."""

COUNTS = ("one", "three", "many")
SIZES = ("small", "medium", "large")
COLOURS = ("red", "brown", "white", "yellow", "purple", "blue")
KINDS = ("patch", "plaque", "nodule", "pustule", "ulcer")
SURFACES = ("smooth", "scale", "crust", "fissure")
BORDERS = ("sharp", "blurred", "irregular")
ARRANGEMENTS = ("alone", "scattered", "grouped")


@dataclass(frozen=True)
class Findings:
    """What is true of the lesions of one picture; all lesions of a picture are alike."""

    count: str
    size: str
    colour: str
    kind: str
    surface: str
    border: str
    arrangement: str
    condition: str


VALUES: dict[str, tuple[str, ...]] = {
    "count": COUNTS,
    "size": SIZES,
    "colour": COLOURS,
    "kind": KINDS,
    "surface": SURFACES,
    "border": BORDERS,
    "arrangement": ARRANGEMENTS,
}
"""Every attribute's values."""


@dataclass(frozen=True)
class Condition:
    """A made-up condition: what its lesions look like, where it comes from and what helps."""

    name: str
    kind: str
    surface: str
    colours: tuple[str, ...]
    borders: tuple[str, ...]
    cause: str
    treatment: str


CONDITIONS = (
    Condition("velora", "plaque", "scale", ("red", "purple"), ("sharp",),
              "skin that renews itself too fast", "a softening cream twice a day"),
    Condition("mellira", "plaque", "crust", ("red", "purple"), ("irregular",),
              "moisture that dries on the skin", "warm compresses and a cleansing lotion"),
    Condition("fissarine", "plaque", "fissure", ("purple", "brown"), ("sharp",),
              "dry and cold air", "a rich ointment every evening"),
    Condition("brunella", "patch", "smooth", ("brown", "blue"), ("sharp", "blurred"),
              "too much pigment in one place", "shade and a sun screen"),
    Condition("albena", "patch", "smooth", ("white", "yellow"), ("blurred", "sharp"),
              "too little pigment in one place", "a covering cream and patience"),
    Condition("squamora", "patch", "scale", ("brown", "blue"), ("irregular",),
              "a harmless yeast", "a medicated wash for two weeks"),
    Condition("cyanella", "nodule", "smooth", ("blue", "purple"), ("sharp",),
              "widened vessels below the skin", "a cold pack and rest"),
    Condition("xanthora", "nodule", "smooth", ("yellow", "red"), ("sharp",),
              "fat stored in the skin", "a change of diet"),
    Condition("verrona", "nodule", "crust", ("brown", "yellow"), ("irregular",),
              "horn that grows in layers", "a plaster that dissolves horn"),
    Condition("pustora", "pustule", "smooth", ("red", "purple"), ("sharp", "blurred"),
              "a blocked pore", "a drying paste at night"),
    Condition("craterine", "ulcer", "smooth", ("red", "blue"), ("sharp", "blurred"),
              "poor blood flow", "a moist dressing changed daily"),
    Condition("ulvaris", "ulcer", "crust", ("brown", "purple"), ("irregular",),
              "a wound that was scratched", "a soothing gel under a bandage"),
)  # fmt: skip
"""None of these exists."""

BY_NAME = {condition.name: condition for condition in CONDITIONS}
NO_SKIN = "no skin"

# Few large lesions fit into a picture, and many only if they are small.
EXTENTS = (
    ("one", "small"), ("one", "medium"), ("one", "large"), ("three", "small"), ("three", "medium"), ("many", "small"),
)  # fmt: skip


def draw_findings(random: np.random.Generator) -> Findings:
    """Findings of a random picture, conditions in equal parts."""
    condition = CONDITIONS[random.integers(len(CONDITIONS))]
    count, size = EXTENTS[random.integers(len(EXTENTS))]
    arrangement = "alone" if count == "one" else str(random.choice(ARRANGEMENTS[1:]))
    return Findings(
        count=count,
        size=size,
        colour=str(random.choice(condition.colours)),
        kind=condition.kind,
        surface=condition.surface,
        border=str(random.choice(condition.borders)),
        arrangement=arrangement,
        condition=condition.name,
    )


assert [field.name for field in fields(Findings)] == [*VALUES, "condition"]
