"""[tissue]: the tissue mask on an overview."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from virtual_stain.config.check import Range, check_ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueSettings:
    """What counts as tissue."""

    overview_mpp: Annotated[float, Range(0.5, 64)] = 8.0
    """Pixel size of the overview on which tissue is found, µm/px."""
    overview_max_px: Annotated[int, Range(64, 20_000)] = 2048
    """Longer side of the overview of a slide without a pixel size, px; it is then treated as `overview_mpp`."""
    min_color_od: Annotated[float, Range(0.005, 1)] = 0.04
    """Difference between the most and the least absorbed channel from which a place counts as stained, OD."""
    min_density_od: Annotated[float, Range(0.005, 1)] = 0.02
    """Mean optical density below which a place is glass, OD."""
    min_area_um2: Annotated[float, Range(0, 1e9)] = 20_000.0
    """Smaller islands are dust, µm²."""
    max_hole_um2: Annotated[float, Range(0, 1e9)] = 200_000.0
    """Smaller holes (lumens, fat) belong to the tissue around them, µm²."""

    def __post_init__(self) -> None:
        check_ranges(self)
