"""[labels]: which tiles carry a reading, how much it weighs, and how records are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from virtual_stain.config.check import Range, check_ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSettings:
    """Fewer than 50 tumour cells are not a label."""

    min_tile_cells: Annotated[int, Range(1, 100_000)] = 50
    """Tumour cells below which a tile is kept with the flag few_cells and ratio weight 0."""
    min_tissue_fraction: Annotated[float, Range(0, 1)] = 0.05
    """Share of a window that is H&E tissue, below which it is not built; 0–1."""
    min_overlap_fraction: Annotated[float, Range(0, 1)] = 0.9
    """Share of the tile that the warped IHC scan must cover; below: flag poor_overlap, ratio weight 0."""
    min_tissue_overlap_fraction: Annotated[float, Range(0, 1)] = 0.7
    """Share of the tile's H&E tissue under which the IHC slide must carry tissue too; below: poor_overlap."""
    min_tile_focus: Annotated[float, Range(0, 10)] = 0.18
    """Focus ratio (counting/focus.py) below which a side is flagged blur; a blur of σ = 1.5 µm gives about 0.16."""
    jpeg_quality: Annotated[int, Range(50, 100)] = 95
    """Quality of the stored tiles (chroma is never subsampled)."""
    n_folds: Annotated[int, Range(2, 1000)] = 5
    """Folds that patients are spread over, for cross-validation."""
    shard_mb: Annotated[float, Range(0.001, 100_000)] = 150.0
    """Size near which a shard is split, MB (1e6 bytes)."""

    keep_ihc: bool = False
    """Also pack the IHC side of every record, in shards of their own: the indirect path learns from it."""

    def __post_init__(self) -> None:
        check_ranges(self)
