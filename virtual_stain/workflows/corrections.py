"""Corrected cells → the label that they make: counts, flags and weight are judged anew, as if they had been counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from virtual_stain.config import Config
from virtual_stain.counting.cells import UNKNOWN_INTENSITY, CellClass
from virtual_stain.counting.quality import SATURATED, UNCERTAIN, UNEXPLAINED
from virtual_stain.errors import VerificationError
from virtual_stain.labels.label import TileLabel, countable, judge
from virtual_stain.labels.store import TileStore, TileTable
from virtual_stain.records.schema import CLASSES_UNKNOWN
from virtual_stain.review.correction import CorrectedCells, Correction, correct
from virtual_stain.review.gate import Passed

CORRECTED = "corrected"
"""Flag of a tile whose cells a person has corrected."""


def corrected_cells(tile: TileLabel, correction: Correction, tile_px: int) -> CorrectedCells:
    """Raises VerificationError when the correction cannot be of this label."""
    problem = correction.problem(tile.cells, tile_px)
    if problem is not None:
        raise VerificationError(f"label {tile.label_id} (tile {tile.col},{tile.row}): {problem}")
    return correct(tile.cells, correction)


def relabelled(tile: TileLabel, correction: Correction, config: Config) -> tuple[TileLabel, npt.NDArray[np.bool_]]:
    """The tile with its corrected cells, judged anew, and bool[N]: which of them a person touched."""
    corrected = corrected_cells(tile, correction, config.tiling.tile_px)
    # what the picture itself says stays true whatever a person clicks; the error of the ratio is that of the new cells
    of_picture = tuple(flag for flag in tile.flags if flag in (SATURATED, UNEXPLAINED))
    error = corrected.counts.uncertainty
    uncertain = error is not None and error > config.counting.max_standard_error
    flags, weight, usable = judge(
        tile.trust,
        corrected.counts.total,
        config.labels,
        max_p95_um=config.registration.tile_p95_um,
        counting_flags=(*of_picture, *((UNCERTAIN,) if uncertain else ())),
    )
    intensity = countable(corrected.cells).intensity
    unknown = (CLASSES_UNKNOWN,) if intensity is not None and (intensity == UNKNOWN_INTENSITY).any() else ()
    label = dataclasses.replace(
        tile, cells=corrected.cells, flags=(*flags, CORRECTED, *unknown), weight=weight, usable_count=usable
    )
    return label, corrected.touched


def touched_countable(tile: TileLabel, touched: npt.NDArray[np.bool_]) -> list[int]:
    """0/1 for each cell that `countable` keeps, in its order."""
    kept = tile.cells.tumour & (tile.cells.cell_class != CellClass.OTHER)
    return [int(t) for t in touched[kept]]


def corrected_table(store: TileStore, table: TileTable, chosen: Mapping[int, Passed], config: Config) -> TileTable:
    """The table in which corrected tiles carry their new counts, flags and weights; the same where there are none."""
    corrections = {i: p.correction for i, p in chosen.items() if p.correction}
    if not corrections:
        return table
    columns = {name: table[name].copy() for name in table.columns}
    flags = list(table.flags)
    for index, correction in corrections.items():
        label, _ = relabelled(store.tile(index, table), correction, config)
        columns["positive"][index], columns["negative"][index] = label.counts.positive, label.counts.negative
        columns["weight"][index], columns["usable_count"][index] = label.weight, label.usable_count
        flags[index] = label.flags
    return TileTable(columns, tuple(flags), table.label_ids)
