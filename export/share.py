"""A part of a whole that was counted, and how sure it is."""

import math
from dataclasses import dataclass

Z95 = 1.96


@dataclass(frozen=True)
class Share:
    """How many of how many are right."""

    right: int
    of: int

    @property
    def part(self) -> float:
        return self.right / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval (Wilson 1927)."""
        if not self.of:
            return 0.0, 1.0
        z2 = Z95**2 / self.of
        middle = (self.part + z2 / 2) / (1 + z2)
        half = Z95 / (1 + z2) * math.sqrt(self.part * (1 - self.part) / self.of + z2 / (4 * self.of))
        # Rounding may put a bound of nothing or all on the wrong side of the part itself.
        return max(0.0, min(middle - half, self.part)), min(1.0, max(middle + half, self.part))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.part:6.1%} ({low:.1%} to {high:.1%}), {self.right} of {self.of}"

    @property
    def cell(self) -> str:
        """For a table in Markdown."""
        low, high = self.interval
        return f"{self.part:.1%} ({low:.1%}–{high:.1%})"
