"""[labels]: which tiles carry a reading, how much it weighs, and how records are laid out."""

from __future__ import annotations

from dataclasses import dataclass

from virtual_stain.config.check import require_range


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSettings:
    """Fewer than 50 tumour cells are not a label."""

    min_tumour_cells: int = 50
    """Tiles below this are kept with the flag few_cells and ratio weight 0."""
    min_tissue_fraction: float = 0.05
    """Share of a window that is H&E tissue, below which it is not built; 0–1."""
    min_overlap_fraction: float = 0.9
    """Share of the tile that the warped IHC scan must cover; below: flag poor_overlap, ratio weight 0."""
    min_tissue_overlap_fraction: float = 0.7
    """Share of the tile's H&E tissue under which the IHC slide must carry tissue too; below: poor_overlap."""
    min_focus: float = 0.18
    """Focus ratio (counting/focus.py) below which a side is flagged blur; a blur of σ = 1.5 µm gives about 0.16."""
    jpeg_quality: int = 95
    """Quality of the stored tiles (chroma is never subsampled)."""
    n_folds: int = 5
    """Folds that patients are spread over, for cross-validation."""
    shard_mb: float = 150.0
    """Size near which a shard is split, MB (1e6 bytes)."""

    def __post_init__(self) -> None:
        require_range("min_tumour_cells", self.min_tumour_cells, 1, 100_000)
        require_range("min_tissue_fraction", self.min_tissue_fraction, 0, 1)
        require_range("min_overlap_fraction", self.min_overlap_fraction, 0, 1)
        require_range("min_tissue_overlap_fraction", self.min_tissue_overlap_fraction, 0, 1)
        require_range("min_focus", self.min_focus, 0, 10)
        require_range("jpeg_quality", self.jpeg_quality, 50, 100)
        require_range("n_folds", self.n_folds, 2, 1000)
        require_range("shard_mb", self.shard_mb, 0.001, 100_000)
