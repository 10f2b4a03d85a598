"""tiles.h5 + verdicts → the shard set of a pair. Runs in the main process: one I/O-bound step, with TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from virtual_stain.config import Config
from virtual_stain.counting.cells import CellClass
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.labels.label import TileLabel, countable, value_weight
from virtual_stain.labels.store import TileStore, TileTable
from virtual_stain.markers import ValueDefinition
from virtual_stain.records.manifest import IhcEntry, Manifest, PairEntry, RegistrationEntry, ShardEntry, write_manifest
from virtual_stain.records.schema import CLASSES_UNKNOWN, Record, filename
from virtual_stain.reuse import FILES, MADE_FROM, MadeFrom, is_finished, made_from, publish, read_record
from virtual_stain.review.gate import Gate, Passed
from virtual_stain.review.verdicts import Candidate, Place
from virtual_stain.schema_check import problems_with
from virtual_stain.workflows.corrections import CORRECTED, corrected_table, relabelled, touched_countable
from virtual_stain.workflows.pair import TILES, PreparedPair

if TYPE_CHECKING:
    from virtual_stain.records.write import StagedShards  # TensorFlow

PACKED = "packed.json"
"""In work/<pair>: what the shards of a pair were made from."""
_SIDES = ("shards", "ihc_shards")
"""Keys of packed.json."""


@dataclass(frozen=True, slots=True)
class PackJob:
    """A pair whose tiles are built and reviewed."""

    prepared: PreparedPair
    patient_id: str
    fold: int
    gate: Gate

    @property
    def pair(self) -> str:
        return self.prepared.job.pair

    @property
    def store(self) -> Path:
        return self.prepared.job.folder / TILES


def candidates(pair: str, table: TileTable) -> list[Candidate]:
    """The tiles of a pair that a verdict can make records of: all but the dropped ones."""
    return [
        Candidate(Place(pair, int(col), int(row)), label_id)
        for col, row, label_id, dropped in zip(table["col"], table["row"], table.label_ids, table.dropped, strict=True)
        if not dropped
    ]


@dataclass(frozen=True, slots=True)
class Packed:
    """What became of a pair's tiles. New shards are staged: the older ones stay until `commit`."""

    entry: PairEntry
    chosen: tuple[int, ...]
    """Indices in the store of the tiles that are records."""
    table: TileTable
    """The labels that they carry: with the corrected cells of the review."""
    made: MadeFrom
    folder: Path
    """Of the pair's work."""
    staged: tuple[StagedShards, ...] = ()
    """Of the H&E side, and of the IHC side where it is kept; none: the shards of an earlier run are kept."""

    def publish(self) -> None:
        """Says, once the shards are in place, what they were made from. Raises OutputError."""
        if self.staged:
            shards = [[dataclasses.asdict(shard) for shard in side.entries] for side in self.staged]
            publish(self.folder / PACKED, self.made, (), dict(zip(_SIDES, shards, strict=False)))

    @property
    def n_corrected(self) -> int:
        """Records whose cells a person has corrected."""
        return sum(CORRECTED in self.table.flags[i] for i in self.chosen)


def put_in_place(out: Path, manifest: Manifest, packed: Sequence[Packed]) -> None:
    """The staged shards and the manifest that lists them, in place of the older ones. Raises OutputError."""

    def commit() -> None:
        for one in packed:
            for side in one.staged:
                side.commit()

    write_manifest(out, manifest, just_before=commit)
    for one in packed:
        one.publish()


def discard(packed: Sequence[Packed]) -> None:
    """Removes what is staged: the run ends without it."""
    for one in packed:
        for side in one.staged:
            side.discard()


def pack(job: PackJob, out: Path, config: Config) -> Packed | None:
    """Stages the pair's shards, unless equal ones are there; None when no tile passes the gate.

    Raises OutputError, VerificationError.
    """
    with TileStore(job.store) as store:
        table = store.table()
        chosen = _chosen(job, table)
        if not chosen:
            return None
        made = _made_from(job, store.fingerprint, table, chosen, config)
        staged: tuple[StagedShards, ...] = ()
        sides = _kept_shards(job, out, made)
        if sides is None:
            staged = _staged(job, store, table, chosen, out, config)
            sides = tuple(side.entries for side in staged)
        table = _valued(corrected_table(store, table, chosen, config), config.counting.value_definition)
    return Packed(_entry(job, table, list(chosen), sides), tuple(chosen), table, made, job.store.parent, staged)


def _staged(
    job: PackJob, store: TileStore, table: TileTable, chosen: dict[int, Passed], out: Path, config: Config
) -> tuple[StagedShards, ...]:
    """The H&E side, and the IHC side where it is kept."""
    # TensorFlow: not loaded where all shards are kept
    from virtual_stain.records.ihc_shards import IhcTile, stage_ihc_shards
    from virtual_stain.records.write import stage_shards

    records = _records(job, store, table, chosen, config)
    he = stage_shards(out, job.pair, records, shard_bytes=round(config.labels.shard_mb * 1e6))
    if not config.labels.keep_ihc:
        return (he,)
    try:
        tiles = (store.tile(index, table) for index in chosen)
        ihc = (IhcTile(tile.ihc_jpeg, tile.label_id, tile.trust.overlap_fraction) for tile in tiles)
        return he, stage_ihc_shards(out, job.pair, ihc, he.entries)
    except BaseException:
        he.discard()
        raise


def is_outdated(prepared: PreparedPair) -> bool:
    """Whether the pair's shards, packed by an earlier run, hold labels of other slides or code than `tiles.h5` does."""
    record = read_record(prepared.job.folder / PACKED)
    if not record:
        return False  # never packed
    recorded = record.get(MADE_FROM)
    with TileStore(prepared.job.folder / TILES) as store:
        return not isinstance(recorded, dict) or recorded.get("tiles") != store.fingerprint


def _chosen(job: PackJob, table: TileTable) -> dict[int, Passed]:
    """Index in the store → how the tile passed, for those that did."""
    result: dict[int, Passed] = {}
    for index, dropped in enumerate(table.dropped):
        place = Place(job.pair, int(table["col"][index]), int(table["row"][index]))
        passed = None if dropped else job.gate.passes(place)
        if passed is not None:
            result[index] = passed
    return result


def _made_from(job: PackJob, tiles: str, table: TileTable, chosen: dict[int, Passed], config: Config) -> MadeFrom:
    """`tiles`: the fingerprint of tiles.h5."""
    return made_from(
        __name__,
        inputs={
            "tiles": tiles,
            "patient_id": job.patient_id,
            "chosen": [_choice(table.label_ids[i], passed) for i, passed in chosen.items()],
        },
        settings={
            "value_definition": config.counting.value_definition.value,
            "shard_mb": config.labels.shard_mb,
            "keep_ihc": config.labels.keep_ihc,
        },
    )


def _choice(label_id: str, passed: Passed) -> list[str]:
    choice = [label_id, passed.verdict, passed.reviewer]
    return choice if passed.correction is None else [*choice, passed.correction.to_json()]


def _kept_shards(job: PackJob, out: Path, made: MadeFrom) -> tuple[tuple[ShardEntry, ...], ...] | None:
    """The shards of an earlier run, by sides, when they are what would be written now, byte for byte."""
    record = read_record(job.prepared.job.folder / PACKED)
    if problems_with(record, "packed"):  # none, or damaged: its shards are made anew
        return None
    sides = tuple(tuple(ShardEntry(**value) for value in record[side]) for side in _SIDES if side in record)
    files = {shard.file: shard.sha256 for shards in sides for shard in shards}
    return sides if is_finished({**record, FILES: files}, made, out, files) else None


def _records(
    job: PackJob, store: TileStore, table: TileTable, chosen: dict[int, Passed], config: Config
) -> Iterator[Record]:
    for index, passed in chosen.items():
        yield to_record(job, store.tile(index, table), passed, config)


def to_record(job: PackJob, tile: TileLabel, passed: Passed, config: Config) -> Record:
    """The plain dict that the schema describes; with the reviewer's cells where there are any."""
    touched = None
    if passed.correction:
        tile, touched = relabelled(tile, passed.correction, config)
    cells = countable(tile.cells)
    prepared, size = job.prepared, config.tiling.tile_px
    record: Record = {
        "image/encoded": tile.he_jpeg,
        "image/format": "jpeg",
        "image/height": size,
        "image/width": size,
        "image/filename": filename(job.pair, tile.col, tile.row),
        "tile/pair": job.pair,
        "tile/patient_id": job.patient_id,
        "tile/col": tile.col,
        "tile/row": tile.row,
        "tile/x_px0": tile.box.x,
        "tile/y_px0": tile.box.y,
        "tile/width_px0": tile.box.width,
        "tile/height_px0": tile.box.height,
        "tile/mpp": config.tiling.tile_mpp,
        "tile/tissue_fraction": tile.tissue_fraction,
        "tile/flags": list(tile.flags),
        "label/marker": prepared.job.marker.value,
        "label/value_definition": config.counting.value_definition.value,
        "label/positive": tile.counts.positive,
        "label/negative": tile.counts.negative,
        "label/weight": value_weight(
            config.counting.value_definition,
            tile.weight,
            tile.usable_count,
            tile.flags,
            tile.trust.overlap_fraction,
            tile.trust.tissue_overlap_fraction,
        ),
        "label/usable_count": int(tile.usable_count),
        "cells/x": cells.xy[:, 0].tolist(),
        "cells/y": cells.xy[:, 1].tolist(),
        "cells/positive": (cells.cell_class == CellClass.POSITIVE).astype(int).tolist(),
        "registration/verdict": prepared.verdict or "",
        "review/verdict": passed.verdict,
        "review/reviewer": passed.reviewer,
        "label/id": tile.label_id,
    }
    if cells.intensity is not None and CLASSES_UNKNOWN not in tile.flags:
        record["cells/intensity"] = cells.intensity.tolist()
    if touched is not None:
        record["cells/corrected"] = touched_countable(tile, touched)
    if tile.trust.error_median_um is not None:
        record["registration/error_median_um"] = tile.trust.error_median_um
    if tile.trust.error_p95_um is not None:
        record["registration/error_p95_um"] = tile.trust.error_p95_um
    return record


def _valued(table: TileTable, definition: ValueDefinition) -> TileTable:
    """The table with the weights of the value that the records are labelled with."""
    found = [table[n] for n in ("weight", "usable_count", "overlap_fraction", "tissue_overlap_fraction")]
    weights = [
        value_weight(definition, float(w), bool(usable), flags, float(overlap), float(tissue))
        for w, usable, overlap, tissue, flags in zip(*found, table.flags, strict=True)
    ]
    return dataclasses.replace(table, columns={**table.columns, "weight": np.array(weights, np.float64)})


def _entry(job: PackJob, table: TileTable, chosen: list[int], sides: tuple[tuple[ShardEntry, ...], ...]) -> PairEntry:
    prepared = job.prepared
    index = np.array(chosen, np.intp)
    used = index[table["weight"][index] > 0]
    return PairEntry(
        pair=job.pair,
        patient_id=job.patient_id,
        marker=prepared.job.marker.value,
        fold=job.fold,
        he_content_sha256=prepared.he_sha256,
        ihc_content_sha256=prepared.ihc_sha256,
        n_records=len(index),
        n_ratio=len(used),
        positive=int(table["positive"][used].sum()),
        negative=int(table["negative"][used].sum()),
        registration=RegistrationEntry(
            prepared.error_median_um, prepared.error_p95_um, prepared.verdict, prepared.registration_flags
        ),
        shards=sides[0],
        ihc=IhcEntry(SlideStain.from_dict(prepared.stain), sides[1]) if len(sides) > 1 else None,
    )
