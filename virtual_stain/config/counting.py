"""[counting]: reading an IHC image."""

from __future__ import annotations

from dataclasses import dataclass

from virtual_stain.markers import ValueDefinition


@dataclass(frozen=True, slots=True, kw_only=True)
class CountingSettings:
    """How nuclei are found and classed."""

    value_definition: ValueDefinition = ValueDefinition.POSITIVE_RATIO
    """Which number of a tile is its label."""
