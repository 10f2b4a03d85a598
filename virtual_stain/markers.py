"""The markers, what their readings mean, and counts of cells."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from virtual_stain.errors import ConfigError


class Compartment(enum.StrEnum):
    """Where in a cell the stain is read."""

    NUCLEUS = "nucleus"
    MEMBRANE = "membrane"


class Marker(enum.StrEnum):
    """A stain that can be a target; the value is the id in files and on the command line."""

    KI67 = "ki67"
    ER = "er"
    PR = "pr"
    HER2 = "her2"
    PDL1 = "pdl1"

    @property
    def compartment(self) -> Compartment:
        return Compartment.NUCLEUS if self in _NUCLEAR else Compartment.MEMBRANE

    @property
    def on_membrane(self) -> bool:
        """Whether the stain is read around a nucleus and not in it."""
        return self.compartment is Compartment.MEMBRANE

    @property
    def has_classes(self) -> bool:
        """Whether every cell has a membrane class, 0, 1+, 2+ or 3+, that the reading is made of."""
        return self is Marker.HER2

    @property
    def label(self) -> str:
        """The name as a pathologist writes it."""
        return {"ki67": "Ki67", "er": "ER", "pr": "PR", "her2": "HER2", "pdl1": "PD-L1"}[self.value]


_NUCLEAR = frozenset({Marker.KI67, Marker.ER, Marker.PR})


def parse_marker(text: str) -> Marker:
    """`ki67` (any case) → Marker. Raises ConfigError that lists the known ids."""
    try:
        return Marker(text.strip().lower())
    except ValueError:
        known = " ".join(m.value for m in Marker)
        raise ConfigError(f"Expected a marker, one of: {known}. Received: {text!r}") from None


def require_trainable(marker: Marker) -> None:
    """Refuse HER2 where labels are made and models trained: its value is a membrane class, 0 to 3+, which is not built
    there yet and never approximated by the share of stained cells. `vstain count` reads it."""
    if marker is Marker.HER2:
        raise ConfigError(
            "HER2 is read as membrane classes 0 to 3+, and training on classes is not built yet.",
            hint="Markers that can be trained today: ki67 er pr pdl1. `vstain count` reads her2 slides.",
        )


class ValueDefinition(enum.StrEnum):
    """Which number of a tile is its label (CN 114387243 A [0125-0131])."""

    POSITIVE_RATIO = "positive_ratio"
    """Positive tumour cells / tumour cells."""
    NEGATIVE_RATIO = "negative_ratio"
    POSITIVE_COUNT = "positive_count"
    """Positive tumour cells per mm²."""
    NEGATIVE_COUNT = "negative_count"

    @property
    def is_ratio(self) -> bool:
        """A share of the tumour cells, 0–1; otherwise cells per mm²."""
        return self in (self.POSITIVE_RATIO, self.NEGATIVE_RATIO)

    @property
    def of_positive(self) -> bool:
        """Whether positive cells are what is counted; otherwise negative ones."""
        return self in (self.POSITIVE_RATIO, self.POSITIVE_COUNT)

    @property
    def unit(self) -> str:
        return "fraction" if self.is_ratio else "cells/mm2"


@dataclass(frozen=True, slots=True)
class CellCounts:
    """Tumour cells of a tile, a region or a slide."""

    positive: int
    negative: int

    def __post_init__(self) -> None:
        if self.positive < 0 or self.negative < 0:
            raise ValueError(f"Expected counts ≥ 0. Received: {self.positive}, {self.negative}")

    @property
    def total(self) -> int:
        return self.positive + self.negative

    @property
    def ratio(self) -> float | None:
        """Labelling index as a fraction, positive / (positive + negative); None without cells."""
        return self.positive / self.total if self.total else None

    @property
    def standard_error(self) -> float | None:
        """Binomial standard error of the ratio; None without cells."""
        if self.ratio is None:
            return None
        return math.sqrt(self.ratio * (1 - self.ratio) / self.total)

    @property
    def uncertainty(self) -> float | None:
        """Half the width of Wilson's score interval at one standard error: not 0 where all of a few cells agree.

        Wilson, J. Am. Stat. Assoc. 22, 1927. None without cells.
        """
        if self.ratio is None:
            return None
        n = self.total
        return math.sqrt(self.ratio * (1 - self.ratio) / n + 1 / (4 * n * n)) / (1 + 1 / n)

    def __add__(self, other: CellCounts) -> CellCounts:
        return CellCounts(self.positive + other.positive, self.negative + other.negative)
