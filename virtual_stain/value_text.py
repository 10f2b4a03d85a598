"""Values as people read them: fractions as per cent and points, counts as cells per mm²; a missing one is a dash."""

from __future__ import annotations

from dataclasses import dataclass

from virtual_stain.markers import Marker, ValueDefinition

MISSING = "–"


@dataclass(frozen=True, slots=True)
class ValueText:
    """How the values of one definition are written."""

    definition: ValueDefinition

    @property
    def factor(self) -> float:
        """From the value to the number that is shown."""
        return 100.0 if self.definition.is_ratio else 1.0

    @property
    def unit(self) -> str:
        return "%" if self.definition.is_ratio else "/mm²"

    @property
    def difference_unit(self) -> str:
        """Of a difference of two values: per cent of what would be open."""
        return "points" if self.definition.is_ratio else "/mm²"

    @property
    def decimals(self) -> int:
        """Of the number that is shown."""
        return 1 if self.definition.is_ratio else 0

    @property
    def kind(self) -> str:
        return "positive" if self.definition.of_positive else "negative"

    @property
    def global_name(self) -> str:
        """What the reading `global_ratio` is, for people."""
        return "global ratio, weighted by expected cells" if self.definition.is_ratio else "cells per mm² of tissue"

    def name(self, marker: Marker) -> str:
        """`Ki67`; where the value is not the one that a pathologist expects, what it counts: `Ki67-negative`.

        `HER2-stained`: a share of stained cells is no HER2 score.
        """
        if marker.has_intensities:
            return f"{marker.label}-stained"
        usual = self.definition is ValueDefinition.POSITIVE_RATIO
        return marker.label if usual else f"{marker.label}-{self.kind}"

    def column(self, marker: Marker) -> str:
        """`ki67` of tables and measurements; of another value than the usual one `ki67_negative_ratio`."""
        usual = self.definition is ValueDefinition.POSITIVE_RATIO
        return marker.value if usual else f"{marker.value}_{self.definition.value}"

    def of(self, marker: Marker) -> str:
        """`Ki67-positive tumour cells`; of HER2 stained ones, since only 3+ is positive."""
        if marker.has_intensities:
            return f"{marker.label}-stained tumour cells, 1+ to 3+"
        return f"{marker.label}-{self.kind} tumour cells"

    def number(self, value: float | None) -> str:
        """Without its unit: `28.7`, `1,234`."""
        if value is None:
            return MISSING
        return f"{self.factor * value:,.{self.decimals}f}"

    def text(self, value: float | None) -> str:
        """With it: `28.7 %`, `1,234 /mm²`."""
        return MISSING if value is None else f"{self.number(value)} {self.unit}"

    def difference(self, value: float | None) -> str:
        """`1.2 points`, `35 /mm²`."""
        return MISSING if value is None else f"{self.number(value)} {self.difference_unit}"

    def span(self, low: float, high: float) -> str:
        """`1.2 to 3.4`."""
        return f"{self.number(low)} to {self.number(high)}"
