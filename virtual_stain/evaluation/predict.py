"""A run's readings of recorded tiles, beside their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from virtual_stain.dataset.pipeline import CropSpec, tile_batches
from virtual_stain.dataset.shards import reading_errors
from virtual_stain.markers import CELLS, parse_marker
from virtual_stain.model.tile_reading import crop_grid, crops_per_side, sum_over_tile, tile_reading
from virtual_stain.model.value import ValueOutput
from virtual_stain.progress import QUIET, Progress
from virtual_stain.readings import per_tissue
from virtual_stain.records.manifest import PairEntry
from virtual_stain.remote import Location
from virtual_stain.training.run_dir import TrainedRun

_CROPS_A_BATCH = 32
Column = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TileTable:
    """N tiles as columns of equal length."""

    pair: npt.NDArray[np.str_]
    patient: npt.NDArray[np.str_]
    marker: npt.NDArray[np.str_]
    col: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    tissue_fraction: Column
    weight: Column
    """The label's trust: 0 = its value is no label."""
    usable: Column
    """1: its number of cells is a label."""
    clear: Column
    """1: the colours of its nuclei are those of the stains; 0: positive or negative cannot be told there."""
    positive: Column
    cells: Column
    """Counted tumour cells."""
    counted: Column
    """Those that the value definition counts: positive or negative ones."""
    whole: Column
    """What they are a share of: tumour cells of a ratio, mm² of tissue of a count."""
    value: Column
    """Read fraction, or cells per mm² of tissue; NaN for a tile of nothing but padding."""
    expected_cells: Column
    """Expected tumour cells."""
    intensities: Column
    """float64[N, 3]: counted tumour cells of 1+, 2+, 3+; NaN where they are not known, or there are none."""
    intensity_shares: Column
    """float64[N, 3]: read shares of 1+, 2+, 3+ among the tumour cells; NaN where there are none."""
    registration_um: Column
    """Estimated median registration error at the tile, µm; NaN: not known."""
    fold: npt.NDArray[np.int64]
    """Test fold of the run whose network read the tile."""

    def __len__(self) -> int:
        return len(self.pair)

    @property
    def truth(self) -> Column:
        """The counted value, in the unit of the read one; NaN where there is none: a ratio without cells."""
        return self.counted / np.where(self.whole > 0, self.whole, np.nan)

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Tiles on which reading and label can be compared."""
        return (self.weight > 0) & (self.whole > 0) & np.isfinite(self.value)

    @staticmethod
    def joined(tables: Sequence[TileTable]) -> TileTable:
        """The tiles of all tables, one after the other."""
        return TileTable(**{f.name: np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(TileTable)})

    def select(self, index: npt.NDArray[np.bool_]) -> TileTable:
        """The tiles that a boolean mask picks."""
        return TileTable(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def predict_tiles(
    run: TrainedRun, records: Location, pairs: Sequence[PairEntry], progress: Progress = QUIET
) -> TileTable:
    """Reads every recorded tile of `pairs` with the run's best weights. Raises VerificationError."""
    spec, batch_tiles = _spec(run)
    definition, weights = run.network.value.definition, run.network.crop_weights
    reading = tf.function(lambda tiles: tile_reading(run.model, tiles, definition, weights), autograph=False)
    columns: dict[str, list[npt.NDArray]] = {f.name: [] for f in fields(TileTable)}
    total = -(-sum(p.n_records for p in pairs) // batch_tiles)
    marker_of = {p.pair: p.marker for p in pairs}
    with reading_errors(records):
        for batch in progress.track(tile_batches(records, pairs, spec, batch_tiles), total, "Reading tiles", "batches"):
            found = {name: values.numpy() for name, values in reading(batch["tile"]).items()}
            rows = _rows(batch, found, marker_of, spec, run.network.value)
            rows["fold"] = np.full(len(rows["pair"]), int(run.data["fold"]), np.int64)
            for name, values in rows.items():
                columns[name].append(values)
    return TileTable(**{name: np.concatenate(parts) for name, parts in columns.items()})


def _rows(
    batch: dict[str, tf.Tensor],
    found: dict[str, npt.NDArray],
    marker_of: dict[str, str],
    spec: CropSpec,
    value: ValueOutput,
) -> dict[str, npt.NDArray]:
    pair = np.array([p.decode() for p in batch["pair"].numpy()])
    marker = np.array([marker_of[p] for p in pair])
    index = [spec.markers.index(parse_marker(m)) for m in marker]
    each = np.arange(len(pair))
    by_marker = np.stack([found[m.value] for m in spec.markers], axis=1)
    expected = np.stack([found[m.value + CELLS] for m in spec.markers], axis=1)
    positive, cells = (batch[k].numpy().sum(axis=1)[each, index].astype(np.float64) for k in ("positive", "cells"))
    counted_intensities, shares = _intensities(batch, found, marker, spec)
    tissue = batch["tissue_fraction"].numpy().astype(np.float64)
    tissue_mm2 = tissue * value.crop_mm2 * crops_per_side(spec.tile_px, spec.crop_px) ** 2
    return {
        "pair": pair,
        "patient": np.array([p.decode() for p in batch["patient"].numpy()]),
        "marker": marker,
        "col": batch["col"].numpy(),
        "row": batch["row"].numpy(),
        "tissue_fraction": tissue,
        "weight": batch["trusted"].numpy()[each, index].astype(np.float64),
        "usable": batch["usable"].numpy()[each, index].astype(np.float64),
        "clear": batch["clear"].numpy().astype(np.float64),
        "positive": positive,
        "cells": cells,
        "counted": positive if value.definition.of_positive else cells - positive,
        "whole": cells if value.definition.is_ratio else tissue_mm2,
        "value": per_tissue(by_marker[each, index].astype(np.float64), tissue, value.definition),
        "expected_cells": expected[each, index].astype(np.float64),
        "intensities": counted_intensities,
        "intensity_shares": shares,
        "registration_um": batch["registration_um"].numpy().astype(np.float64),
    }


def _intensities(
    batch: dict[str, tf.Tensor], found: dict[str, npt.NDArray], marker: npt.NDArray[np.str_], spec: CropSpec
) -> tuple[Column, Column]:
    """(counted cells, read shares) float64[B, 3] of the intensities, NaN where there are none."""
    counted, shares = (np.full((len(marker), 3), np.nan) for _ in range(2))
    for m in spec.markers:
        if m.has_intensities:
            own = marker == m.value
            known = own & batch["intensities_known"].numpy()
            counted[known] = batch["intensities"].numpy().sum(axis=1)[known]
            shares[own] = np.stack([found[name] for name in m.intensity_outputs], axis=1)[own]
    return counted, shares


def tile_features(
    run: TrainedRun, records: Location, pairs: Sequence[PairEntry], max_tiles: int | None = None
) -> tuple[Column, Column, npt.NDArray[np.str_]]:
    """(features float64[N, F], true share of positive cells float64[N], patient str[N]) of tiles with a trusted ratio.

    Features: the pooled ones before the head, mean over the tile's crops that are not all padding.
    """
    spec, batch_tiles = _spec(run)
    per_tile = crops_per_side(spec.tile_px, spec.crop_px) ** 2

    @tf.function(autograph=False)
    def pooled(tiles: tf.Tensor) -> tf.Tensor:
        crops = crop_grid(tiles, spec.crop_px)
        total, count = sum_over_tile(run.network.features(crops, training=False), crops, per_tile)
        return total / tf.maximum(count, 1.0)

    features, truth, patients = [], [], []
    with reading_errors(records):
        for batch in tile_batches(records, pairs, spec, batch_tiles, max_tiles=max_tiles, labelled_only=True):
            cells = batch["cells"].numpy().sum(axis=(1, 2))
            chosen = cells > 0
            features.append(pooled(batch["tile"]).numpy()[chosen].astype(np.float64))
            truth.append((batch["positive"].numpy().sum(axis=(1, 2))[chosen] / cells[chosen]).astype(np.float64))
            patients += [p.decode() for p in batch["patient"].numpy()[chosen]]
    return np.concatenate(features), np.concatenate(truth), np.array(patients)


def _spec(run: TrainedRun) -> tuple[CropSpec, int]:
    tile_px, crop_px = int(run.card["tiling"]["tile_px"]), int(run.card["crop_px"])
    spec = CropSpec(markers=run.network.markers, tile_px=tile_px, crop_px=crop_px)
    return spec, max(1, _CROPS_A_BATCH // crops_per_side(tile_px, crop_px) ** 2)
