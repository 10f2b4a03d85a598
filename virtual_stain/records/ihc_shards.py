"""The IHC side of the records: shards beside those of the H&E side, `<pair>.ihc-00000-of-00002.tfrecord`.

Shard i holds the IHC tiles of the H&E shard i, in the same order. The label's id stands in both, so that a tile is
never taught the stain of another place. Only training of the indirect path reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from virtual_stain.errors import VerificationError
from virtual_stain.records.manifest import PairEntry, ShardEntry
from virtual_stain.records.read import iterate_serialized, iterate_shard
from virtual_stain.records.write import StagedShards, stage_serialized
from virtual_stain.remote import Location

ENCODED, LABEL_ID, VALID_FRACTION = "ihc/encoded", "label/id", "ihc/valid_fraction"
_FEATURES = {
    ENCODED: tf.io.FixedLenFeature([], tf.string),
    LABEL_ID: tf.io.FixedLenFeature([], tf.string),
    VALID_FRACTION: tf.io.FixedLenFeature([], tf.float32),
}


@dataclass(frozen=True, slots=True)
class IhcTile:
    """The IHC side of one record."""

    jpeg: bytes
    """The IHC scan warped onto the H&E tile: JPEG of the tile's size, chroma not subsampled."""
    label_id: str
    """`label/id` of the H&E record."""
    valid_fraction: float
    """Share of the tile that the IHC scan covers, 0–1."""


def stage_ihc_shards(
    folder: Path, pair: str, tiles: Iterable[IhcTile], he_shards: Sequence[ShardEntry]
) -> StagedShards:
    """Writes the IHC shards of one pair beside the older ones, cut where `he_shards` are cut.

    Raises OutputError, VerificationError.
    """
    sizes = [shard.records for shard in he_shards]
    return stage_serialized(folder, f"{pair}.ihc", (_encoded(tile) for tile in tiles), sizes)


def _encoded(tile: IhcTile) -> bytes:
    features = {
        ENCODED: tf.train.Feature(bytes_list=tf.train.BytesList(value=[tile.jpeg])),
        LABEL_ID: tf.train.Feature(bytes_list=tf.train.BytesList(value=[tile.label_id.encode("ascii")])),
        VALID_FRACTION: tf.train.Feature(float_list=tf.train.FloatList(value=[tile.valid_fraction])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    data: bytes = example.SerializeToString(deterministic=True)
    return data


def parse_ihc_example(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Graph function: one serialized IHC tile (string[]) → {feature key: scalar}."""
    parsed: dict[str, tf.Tensor] = tf.io.parse_single_example(serialized, _FEATURES)
    return parsed


def iterate_ihc_shard(path: Location) -> Iterator[IhcTile]:
    """The tiles of one IHC shard. Raises VerificationError naming the file and the record."""
    for index, serialized in enumerate(iterate_serialized(path)):
        try:
            found = parse_ihc_example(tf.constant(serialized))
        except tf.errors.InvalidArgumentError as error:
            raise VerificationError(
                f"{path}: record {index}: expected an IHC tile. Received: {error.message}"
            ) from None
        yield IhcTile(
            found[ENCODED].numpy(), found[LABEL_ID].numpy().decode("ascii", "replace"), float(found[VALID_FRACTION])
        )


def ihc_problems(folder: Location, pair: PairEntry) -> list[str]:
    """What is wrong with a pair's IHC shards beside its H&E shards, as sentences; the files themselves are sound."""
    problems: list[str] = []
    for he, ihc in zip(pair.shards, () if pair.ihc is None else pair.ihc.shards, strict=False):
        try:
            labels = [str(record["label/id"]) for record in iterate_shard(folder / he.file)]
            tiles = [tile.label_id for tile in iterate_ihc_shard(folder / ihc.file)]
        except VerificationError as error:
            problems.append(error.message)
            continue
        differing = [i for i, (a, b) in enumerate(zip(labels, tiles, strict=False)) if a != b]
        if differing:
            problems.append(f"{folder / ihc.file}: record {differing[0]} is not the IHC side of that of {he.file}")
        if len(labels) != len(tiles):
            problems.append(f"{folder / ihc.file}: expected {len(labels)} records. Received: {len(tiles)}")
    return problems
