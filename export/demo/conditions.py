"""What a drawing can show: attributes with the paper's words, and a table of made-up conditions.

A condition fixes the kind and the surface of its lesions. Colour, layout (count, size and arrangement together) and
sometimes border vary within it, so the model must look at the picture to name them. In hard drawings every
condition has two layouts more, and eight have a neighbour that differs from them in the border alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

TONES = ("light", "olive", "brown", "dark")
"""Skin tones; drawn in equal parts and scored one by one."""

COUNTS = ("one", "two", "three", "four", "many")
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


Layout = tuple[str, str, str]
"""Count, size and arrangement."""

ONE_SMALL, ONE_MEDIUM, ONE_LARGE = (("one", size, "alone") for size in SIZES)
THREE_SMALL, THREE_MEDIUM = (("three", size, "scattered") for size in SIZES[:2])
THREE_SMALL_GROUPED, THREE_MEDIUM_GROUPED = (("three", size, "grouped") for size in SIZES[:2])
MANY, MANY_GROUPED = (("many", "small", arrangement) for arrangement in ARRANGEMENTS[1:])
LAYOUTS: tuple[Layout, ...] = (
    ONE_SMALL,
    ONE_MEDIUM,
    ONE_LARGE,
    THREE_SMALL,
    THREE_SMALL_GROUPED,
    THREE_MEDIUM,
    THREE_MEDIUM_GROUPED,
    MANY,
    MANY_GROUPED,
)
"""Of easy drawings."""

TWO, FOUR = (tuple((count, size, way) for size in SIZES[:2] for way in ARRANGEMENTS[1:]) for count in ("two", "four"))
"""Of hard drawings, beside the others."""


@dataclass(frozen=True)
class Condition:
    """A made-up condition: what its lesions look like, where it comes from and what helps."""

    name: str
    kind: str
    surface: str
    colours: tuple[str, ...]
    borders: tuple[str, ...]
    layouts: tuple[Layout, ...]
    """Two that differ in size: one attribute that is well seen supports the others."""
    cause: str
    treatment: str


EASY_CONDITIONS = (
    Condition("velora", "plaque", "scale", ("red", "purple"), ("sharp",),
              (ONE_LARGE, MANY),
              "skin that renews itself too fast", "a softening cream twice a day"),
    Condition("mellira", "plaque", "crust", ("red", "purple"), ("irregular",),
              (ONE_MEDIUM, MANY_GROUPED),
              "moisture that dries on the skin", "warm compresses and a cleansing lotion"),
    Condition("fissarine", "plaque", "fissure", ("purple", "brown"), ("sharp",),
              (ONE_LARGE, THREE_SMALL_GROUPED),
              "dry and cold air", "a rich ointment every evening"),
    Condition("brunella", "patch", "smooth", ("brown", "blue"), ("sharp", "blurred"),
              (ONE_SMALL, THREE_MEDIUM),
              "too much pigment in one place", "shade and a sun screen"),
    Condition("albena", "patch", "smooth", ("white", "yellow"), ("blurred", "sharp"),
              (THREE_MEDIUM_GROUPED, MANY),
              "too little pigment in one place", "a covering cream and patience"),
    Condition("squamora", "patch", "scale", ("brown", "blue"), ("irregular",),
              (ONE_LARGE, THREE_SMALL),
              "a harmless yeast", "a medicated wash every week"),
    Condition("cyanella", "nodule", "smooth", ("blue", "purple"), ("sharp",),
              (ONE_MEDIUM, THREE_SMALL_GROUPED),
              "widened vessels below the skin", "a cold pack and rest"),
    Condition("xanthora", "nodule", "smooth", ("yellow", "red"), ("sharp",),
              (ONE_SMALL, THREE_MEDIUM_GROUPED),
              "fat stored in the skin", "a change of diet"),
    Condition("verrona", "nodule", "crust", ("brown", "yellow"), ("irregular",),
              (ONE_LARGE, MANY_GROUPED),
              "horn that grows in layers", "a plaster that dissolves horn"),
    Condition("pustora", "pustule", "smooth", ("red", "purple"), ("sharp", "blurred"),
              (ONE_MEDIUM, MANY),
              "a blocked pore", "a drying paste at night"),
    Condition("craterine", "ulcer", "smooth", ("red", "blue"), ("sharp", "blurred"),
              (ONE_SMALL, THREE_MEDIUM),
              "poor blood flow", "a moist dressing changed daily"),
    Condition("ulvaris", "ulcer", "crust", ("brown", "purple"), ("irregular",),
              (ONE_LARGE, THREE_SMALL),
              "a wound that was scratched", "a soothing gel under a bandage"),
)  # fmt: skip
"""None of these exists."""

NEIGHBOURS = {
    "velora": ("velorine", "blurred", "skin that sheds too slowly", "a peeling lotion at night"),
    "mellira": ("mellanta", "sharp", "a thin film of dried fluid", "a lukewarm bath and a gentle soap"),
    "fissarine": ("fissanta", "blurred", "skin that was washed too often", "a barrier cream after every wash"),
    "squamora": ("squamine", "sharp", "a yeast that likes warmth", "a powder that keeps the skin dry"),
    "cyanella": ("cyanthe", "blurred", "a bruise that heals slowly", "a warm pack and patience"),
    "xanthora": ("xanthelia", "blurred", "oil that gathers below the skin", "a tea compress every morning"),
    "verrona": ("verrosa", "sharp", "skin that hardens under pressure", "softer shoes and a file"),
    "ulvaris": ("ulvetta", "sharp", "a burn that was not cooled", "a silver dressing and clean gloves"),
}
"""By a condition: the one that differs from it in the border alone, with its cause and its treatment."""


def _neighbours() -> Iterator[Condition]:
    for condition in EASY_CONDITIONS:
        if condition.name in NEIGHBOURS:
            name, border, cause, treatment = NEIGHBOURS[condition.name]
            yield replace(condition, name=name, borders=(border,), cause=cause, treatment=treatment)


CONDITIONS = (*EASY_CONDITIONS, *_neighbours())
"""Of hard drawings."""


def _layouts() -> Iterator[tuple[str, tuple[Layout, ...]]]:
    for number, condition in enumerate(EASY_CONDITIONS):
        two, four = TWO[number % len(TWO)], FOUR[(number + number // len(FOUR)) % len(FOUR)]
        for name in (condition.name, *NEIGHBOURS.get(condition.name, ())[:1]):
            yield name, (*condition.layouts, two, four)


HARD_LAYOUTS_OF = dict(_layouts())
"""By a condition's name: its own, one of two lesions and one of four. A neighbour has the same."""

BY_NAME = {condition.name: condition for condition in CONDITIONS}


def draw_findings(random: np.random.Generator, *, hard: bool = False) -> Findings:
    """Findings of a random picture, conditions in equal parts."""
    conditions = CONDITIONS if hard else EASY_CONDITIONS
    condition = conditions[random.integers(len(conditions))]
    layouts = HARD_LAYOUTS_OF[condition.name] if hard else condition.layouts
    count, size, arrangement = layouts[random.integers(len(layouts))]
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
