"""[labels]: which tiles carry a reading, and how much it weighs."""

from __future__ import annotations

from dataclasses import dataclass

from virtual_stain.config.check import require_range


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSettings:
    """Fewer than 50 tumour cells are not a label."""

    min_tumour_cells: int = 50
    """Tiles below this are kept with the flag few_cells and ratio weight 0."""
    min_overlap_fraction: float = 0.9
    """Share of the tile that the warped IHC scan must cover; below: flag poor_overlap, ratio weight 0."""
    jpeg_quality: int = 95
    """Quality of the stored tiles (chroma is never subsampled)."""

    def __post_init__(self) -> None:
        require_range("min_tumour_cells", self.min_tumour_cells, 1, 100_000)
        require_range("min_overlap_fraction", self.min_overlap_fraction, 0, 1)
        require_range("jpeg_quality", self.jpeg_quality, 50, 100)
