"""A slide's readings beside its truth: global ratio, global mean, top-N mean (definitions: docs/training.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from virtual_stain.readings import aggregate
from virtual_stain.training.predict import TileTable


@dataclass(frozen=True, slots=True)
class SlideFigures:
    """Fractions 0–1; None where no tile carries a value."""

    pair: str
    patient: str
    n_tiles: int
    """Recorded tiles."""
    n_used: int
    """Tiles that carry a reading: enough tissue and enough expected tumour cells."""
    read_global_ratio: float | None
    """Weighted by expected tumour cells."""
    read_global_mean: float | None
    read_top_mean: float | None
    true_ratio: float | None
    """Σ positive / Σ tumour cells over the recorded tiles whose count is a label: what global_ratio estimates."""
    true_mean: float | None
    """Mean over the labelled tiles."""
    true_top_mean: float | None
    """Mean of the N largest labels: of realised counts, so itself a little high."""

    @property
    def error(self) -> float | None:
        """Signed error of the global ratio, fraction."""
        if self.read_global_ratio is None or self.true_ratio is None:
            return None
        return self.read_global_ratio - self.true_ratio


@dataclass(frozen=True, slots=True)
class ReadingRule:
    """Which tiles enter a slide's readings; from the run's card."""

    min_tissue_fraction: float
    min_tumour_cells: float
    top_n: int


def used_tiles(tiles: TileTable, rule: ReadingRule) -> np.ndarray:
    """bool[N]: enough tissue, enough expected tumour cells, and a reading."""
    return (
        (tiles.tissue_fraction >= rule.min_tissue_fraction)
        & (tiles.expected_cells >= rule.min_tumour_cells)
        & np.isfinite(tiles.ratio)
    )


def slide_figures(tiles: TileTable, rule: ReadingRule) -> list[SlideFigures]:
    """One entry a pair, in the order of their names."""
    return [_one(tiles.select(tiles.pair == pair), rule) for pair in sorted(set(tiles.pair.tolist()))]


def _one(tiles: TileTable, rule: ReadingRule) -> SlideFigures:
    used = tiles.select(used_tiles(tiles, rule))
    labelled = tiles.select((tiles.weight > 0) & (tiles.cells > 0))
    read = aggregate(used.ratio, used.expected_cells, top_n=rule.top_n)
    true = aggregate(labelled.truth, labelled.cells, top_n=rule.top_n)
    counted = tiles.select(tiles.usable > 0)
    return SlideFigures(
        pair=str(tiles.pair[0]),
        patient=str(tiles.patient[0]),
        n_tiles=len(tiles),
        n_used=len(used),
        read_global_ratio=read.global_ratio,
        read_global_mean=read.global_mean,
        read_top_mean=read.top_mean,
        true_ratio=_quotient(counted.positive.sum(), counted.cells.sum()),
        true_mean=true.global_mean,
        true_top_mean=true.top_mean,
    )


def _quotient(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None
