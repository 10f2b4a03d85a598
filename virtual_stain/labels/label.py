"""A tile with its label: what was counted under it, and how far that can be trusted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.config.labels import LabelSettings
from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.quality import BLURRED, UNEXPLAINED
from virtual_stain.geometry import Box
from virtual_stain.markers import CellCounts, ValueDefinition

FEW_CELLS = "few_cells"
POOR_OVERLAP = "poor_overlap"
BORDER = "border"
BLUR_HE = "blur_he"
BLUR_IHC = "blur_ihc"
REGISTRATION = "registration"
"""The tile's own registration error is too large: it is dropped, never a record."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What is measured about a tile before its label is believed."""

    overlap_fraction: float
    """Share of the tile (inside the H&E scan) that the IHC scan covers, 0–1."""
    tissue_overlap_fraction: float | None
    """Share of the tile's H&E tissue that has IHC tissue under it, 0–1; None without H&E tissue."""
    focus_he: float | None
    """Focus ratio of the H&E tile; None where there is too little structure."""
    focus_ihc: float | None
    error_median_um: float | None
    """Estimated registration error at this tile, µm."""
    error_p95_um: float | None
    border: bool
    saturated_fraction: float | None = None
    """Share of the nuclear IHC pixels at the camera's black; None without nuclei."""
    unexplained_fraction: float | None = None
    """Share of their optical density that is neither stain; None without nuclei."""


@dataclass(frozen=True, slots=True, eq=False)
class TileLabel:
    """One tile of a pair, as it lies in tiles.h5."""

    col: int
    row: int
    box: Box
    """The window on the H&E slide, level-0 px."""
    tissue_fraction: float
    trust: Trust
    cells: Cells
    """All nuclei counted inside the tile, tumour or not; xy in tile px at float32 precision."""
    flags: tuple[str, ...]
    weight: float
    """1: the ratio may train; 0: it may not."""
    usable_count: bool
    """Whether the number of tumour cells may train."""
    label_id: str
    """32 hex digits: hash of both tiles' pixels, the transform and the cells."""
    he_jpeg: bytes
    ihc_jpeg: bytes

    @property
    def counts(self) -> CellCounts:
        return self.cells.counts()

    @property
    def dropped(self) -> bool:
        return REGISTRATION in self.flags


def judge(
    trust: Trust, n_tumour: int, settings: LabelSettings, *, max_p95_um: float, counting_flags: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], float, bool]:
    """(flags, ratio weight, usable_count) of a tile, from what was measured and the number of tumour cells.

    `counting_flags`: what the counting itself warns of (counting/quality.py); where the colours are unclear the classes
    are, and the ratio may not train.
    """
    uncovered = trust.overlap_fraction < settings.min_overlap_fraction or (
        trust.tissue_overlap_fraction is not None
        and trust.tissue_overlap_fraction < settings.min_tissue_overlap_fraction
    )
    # an error that nobody could estimate is no reason to trust the tile
    misplaced = trust.error_p95_um is None or trust.error_p95_um > max_p95_um
    blurred_he = trust.focus_he is not None and trust.focus_he < settings.min_tile_focus
    blurred_ihc = trust.focus_ihc is not None and trust.focus_ihc < settings.min_tile_focus
    few = n_tumour < settings.min_tile_cells
    raised = {
        FEW_CELLS: few,
        POOR_OVERLAP: uncovered,
        BORDER: trust.border,
        BLUR_HE: blurred_he,
        BLUR_IHC: blurred_ihc,
        REGISTRATION: misplaced,
    }
    unclear = UNEXPLAINED in counting_flags
    ratio_counts = not (few or uncovered or blurred_he or blurred_ihc or misplaced or unclear)
    number_counts = not (uncovered or blurred_ihc or misplaced)
    flags = tuple(name for name, is_set in raised.items() if is_set)
    return flags + tuple(f for f in counting_flags if f != BLURRED), float(ratio_counts), number_counts


MIN_COUNT_COVERAGE = 0.9
"""Share of tile and tissue that the IHC side must cover where the value is a count: what is missing there are missing
cells, which a ratio does not feel and a count does: a label is a few per cent low, at most a tenth."""


def value_weight(
    definition: ValueDefinition,
    weight: float,
    usable_count: bool,
    flags: tuple[str, ...],
    overlap_fraction: float,
    tissue_overlap_fraction: float | None,
) -> float:
    """1: the tile's value may train; 0: it may not. `weight` and `usable_count`: of `judge`.

    Few cells make no ratio, but they are a count.
    """
    if definition.is_ratio:
        return weight
    covered = overlap_fraction >= MIN_COUNT_COVERAGE and (tissue_overlap_fraction or 0.0) >= MIN_COUNT_COVERAGE
    told_apart = UNEXPLAINED not in flags and BLUR_HE not in flags
    return float(usable_count and covered and told_apart)


def label_id(he: npt.NDArray[np.uint8], ihc: npt.NDArray[np.uint8], transform_sha256: str, cells: Cells) -> str:
    """32 hex digits that change with any pixel, the transform or any cell: a verdict is bound to them."""
    digest = hashlib.sha256(b"vstain label 1")
    for image in (he, ihc):
        digest.update(np.asarray(image.shape, "<i8").tobytes() + np.ascontiguousarray(image).tobytes())
    digest.update(transform_sha256.encode("ascii"))
    digest.update(np.ascontiguousarray(cells.xy, "<f4").tobytes())
    digest.update(cells.cell_class.astype(np.uint8).tobytes() + cells.tumour.astype(np.uint8).tobytes())
    if cells.intensity is not None:
        digest.update(cells.intensity.astype(np.uint8).tobytes())
    return digest.hexdigest()[:32]


def countable(cells: Cells) -> Cells:
    """The tumour cells that enter the ratio: positive or negative nuclei."""
    return cells.select(cells.tumour & (cells.cell_class != CellClass.OTHER))
