"""The markers, what their readings mean, and counts of cells."""

from __future__ import annotations

import difflib
import enum
import math
import re
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
    def has_intensities(self) -> bool:
        """Whether every cell has an intensity, 0, 1+, 2+ or 3+, that the reading is made of."""
        return self is Marker.HER2

    @property
    def cells_output(self) -> str:
        """Name of a model's second output and of the column in tiles.csv: the expected number of tumour cells."""
        return self.value + CELLS

    @property
    def intensity_outputs(self) -> tuple[str, ...]:
        """Names of the shares of all tumour cells that are 1+, 2+ and 3+, as bundles have them: older than the word.

        Empty where the marker has no intensities.
        """
        return tuple(f"{self.value}_class_{i}" for i in (1, 2, 3)) if self.has_intensities else ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Everything that a model answers of this marker: the value under the marker's own id, then the others."""
        return (self.value, self.cells_output, *self.intensity_outputs)

    @property
    def label(self) -> str:
        """The name as a pathologist writes it."""
        return {"ki67": "Ki67", "er": "ER", "pr": "PR", "her2": "HER2", "pdl1": "PD-L1"}[self.value]


CELLS = "_tumour_cells"
"""What the names of expected numbers of tumour cells end with: tiles add up, everything else is averaged."""
_NUCLEAR = frozenset({Marker.KI67, Marker.ER, Marker.PR})


_SPELLINGS = {
    **dict.fromkeys(("mib1", "ki67mib1", "mki67"), "ki67"),
    **dict.fromkeys(("her2neu", "cerbb2", "cerbb2her2", "erbb2", "neu"), "her2"),
    **dict.fromkeys(("cd274", "b7h1"), "pdl1"),
    **dict.fromkeys(("era", "erα", "esr1", "oestrogenreceptor", "estrogenreceptor"), "er"),
    **dict.fromkeys(("pgr", "progesteronereceptor"), "pr"),
}
"""What people write, without spaces and punctuation → id."""


def cells_of(name: str) -> str:
    """The output with the expected tumour cells of the marker that a model's output `name` belongs to."""
    return next(m.cells_output for m in Marker if name in m.outputs)


def parse_marker(text: str) -> Marker:
    """`ki67`, `Ki-67`, `PD-L1`, `HER-2/neu` … → Marker. Raises ConfigError that lists the known ids."""
    plain = re.sub(r"[\s\-‐‑–_./()]", "", text).lower()
    try:
        return Marker(_SPELLINGS.get(plain, plain))
    except ValueError:
        known = " ".join(m.value for m in Marker)
        close = difflib.get_close_matches(plain, [*(m.value for m in Marker), *_SPELLINGS], n=1)
        likely = _SPELLINGS.get(close[0], close[0]) if close else Marker.KI67.value
        raise ConfigError(
            f"Expected a marker, one of: {known}. Received: {text!r}", hint=f"For example: --marker {likely}"
        ) from None


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


def require_definition(marker: Marker, definition: ValueDefinition) -> None:
    """Refuse HER2 as anything but its intensities: they are shares of the tumour cells, and positive is stained."""
    if marker.has_intensities and definition is not ValueDefinition.POSITIVE_RATIO:
        raise ConfigError(
            f"{marker.label} is read as shares of the intensities 0 to 3+. "
            f"Received: value_definition = {definition.value!r}",
            hint='counting.value_definition = "positive_ratio"; of her2 these are the stained cells, 1+, 2+ and 3+.',
        )


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
