"""A slide's or a patient's readings beside the truth: global ratio, global mean, top-N mean (docs/evaluation.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.evaluation.predict import Column, TileTable
from virtual_stain.markers import ValueDefinition
from virtual_stain.readings import SlideReading, aggregate


@dataclass(frozen=True, slots=True)
class SlideFigures:
    """Fractions 0–1, or cells per mm² where the value is a count; None where no tile carries a value."""

    pair: str
    """Empty for a patient."""
    patient: str
    fold: int
    """Whose network read it."""
    n_tiles: int
    """Recorded tiles."""
    n_used: int
    """Tiles that carry a reading: enough tissue and enough expected tumour cells."""
    read_global_ratio: float | None
    """`aggregate`: weighted by expected tumour cells, of a count by area."""
    read_global_mean: float | None
    read_top_mean: float | None
    true_ratio: float | None
    """What global_ratio estimates: Σ counted / Σ tumour cells over the recorded tiles whose number of cells is a label
    and whose stains are clear. Of a count Σ counted / Σ tissue, over those of the used tiles whose count is a label:
    per area it matters which tissue is meant, and `n_counted_tumour` tells how well the choice itself was."""
    n_counted_tumour: int
    """Tiles with as much tissue and as many counted tumour cells as a reading asks for in expected ones."""
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
    definition: ValueDefinition = ValueDefinition.POSITIVE_RATIO


def used_tiles(tiles: TileTable, rule: ReadingRule) -> npt.NDArray[np.bool_]:
    """bool[N]: enough tissue, enough expected tumour cells, and a reading."""
    used: npt.NDArray[np.bool_] = (
        _has_tissue(tiles, rule) & (tiles.expected_cells >= rule.min_tumour_cells) & np.isfinite(tiles.value)
    )
    return used


def _has_tissue(tiles: TileTable, rule: ReadingRule) -> npt.NDArray[np.bool_]:
    enough: npt.NDArray[np.bool_] = tiles.tissue_fraction >= rule.min_tissue_fraction
    return enough


def slide_figures(tiles: TileTable, rule: ReadingRule) -> list[SlideFigures]:
    """One entry a pair, in the order of their names."""
    pairs = sorted(set(tiles.pair.tolist()))
    return [_one(tiles.select(tiles.pair == pair), rule, pair) for pair in pairs]


def patient_figures(tiles: TileTable, rule: ReadingRule) -> list[SlideFigures]:
    """One entry a patient, over the tiles of all of the patient's slides."""
    patients = sorted(set(tiles.patient.tolist()))
    return [_one(tiles.select(tiles.patient == patient), rule, "") for patient in patients]


def _one(tiles: TileTable, rule: ReadingRule, pair: str) -> SlideFigures:
    used = tiles.select(used_tiles(tiles, rule))
    labelled, counted = _counted_tiles(tiles, rule)
    read = _aggregate(used, used.value, used.expected_cells, rule)
    true = _aggregate(labelled, labelled.truth, labelled.cells, rule)
    return SlideFigures(
        pair=pair,
        patient=str(tiles.patient[0]),
        fold=int(tiles.fold[0]),
        n_tiles=len(tiles),
        n_used=len(used),
        n_counted_tumour=int(np.count_nonzero(_has_tissue(tiles, rule) & (tiles.cells >= rule.min_tumour_cells))),
        read_global_ratio=read.global_ratio,
        read_global_mean=read.global_mean,
        read_top_mean=read.top_mean,
        true_ratio=_quotient(counted.counted.sum(), counted.whole.sum()),
        true_mean=true.global_mean,
        true_top_mean=true.top_mean,
    )


def _aggregate(tiles: TileTable, values: Column, cells: Column, rule: ReadingRule) -> SlideReading:
    return aggregate(values, cells, top_n=rule.top_n, definition=rule.definition, tissue_fraction=tiles.tissue_fraction)


def _counted_tiles(tiles: TileTable, rule: ReadingRule) -> tuple[TileTable, TileTable]:
    """(tiles whose own value is a label, tiles whose cells enter the slide's)."""
    labelled = (tiles.weight > 0) & (tiles.whole > 0)
    counted = (tiles.usable > 0) & (tiles.clear > 0)
    if not rule.definition.is_ratio:
        # a ratio ignores stroma by itself; per area it dilutes: the truth must be that of the tissue that was read
        labelled &= used_tiles(tiles, rule)
        counted = labelled
    return tiles.select(labelled), tiles.select(counted)


def _quotient(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None
