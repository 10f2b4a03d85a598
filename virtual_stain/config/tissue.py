"""[tissue]: the tissue mask on an overview."""

from __future__ import annotations

from dataclasses import dataclass

from virtual_stain.config.check import require_range


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueSettings:
    """What counts as tissue."""

    overview_mpp: float = 8.0
    """Pixel size of the overview on which tissue is found, µm/px."""
    overview_max_px: int = 2048
    """Longer side of the overview of a slide without a pixel size, px; it is then treated as `overview_mpp`."""
    min_color_od: float = 0.04
    """Difference between the most and the least absorbed channel from which a place counts as stained, OD."""
    min_density_od: float = 0.02
    """Mean optical density below which a place is glass, OD."""
    min_area_um2: float = 20_000.0
    """Smaller islands are dust, µm²."""
    max_hole_um2: float = 200_000.0
    """Smaller holes (lumens, fat) belong to the tissue around them, µm²."""

    def __post_init__(self) -> None:
        require_range("overview_mpp", self.overview_mpp, 0.5, 64)
        require_range("overview_max_px", self.overview_max_px, 64, 20_000)
        require_range("min_color_od", self.min_color_od, 0.005, 1)
        require_range("min_density_od", self.min_density_od, 0.005, 1)
        require_range("min_area_um2", self.min_area_um2, 0, 1e9)
        require_range("max_hole_um2", self.max_hole_um2, 0, 1e9)
