"""tf.data from the manifest: encoded tiles are shuffled, the crop is chosen, and only the crop is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from virtual_stain.config.training import AugmentSettings
from virtual_stain.dataset.augment import augment
from virtual_stain.dataset.crops import cells_in_crop, cells_in_grid, random_grid_origin, random_origin
from virtual_stain.errors import InputError
from virtual_stain.markers import Marker
from virtual_stain.records.manifest import PairEntry, shard_paths
from virtual_stain.records.read import parse_example, shard_dataset
from virtual_stain.remote import Location

_KEYS = ("image/encoded", "label/marker", "label/weight", "label/usable_count", "cells/x", "cells/y", "cells/positive")
_PLACE = (
    "tile/pair", "tile/patient_id", "tile/col", "tile/row", "tile/tissue_fraction", "registration/error_median_um",
)  # fmt: skip
_OPEN_SHARDS = 16
_ENDLESS = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class CropSpec:
    """Geometry and meaning of what the pipeline yields."""

    markers: tuple[Marker, ...]
    tile_px: int
    crop_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOrder:
    """How training draws."""

    batch_size: int
    seed: int
    shuffle_tiles: int
    augment: AugmentSettings
    start_step: int = 0
    """Optimizer steps already done: the order goes on where it was, exactly."""


def training_batches(
    folder: Location, pairs: Sequence[PairEntry], spec: CropSpec, order: TrainingOrder
) -> tf.data.Dataset:
    """Endless batches {crop: uint8[B, C, C, 3], positive, cells, trusted, usable: float32[B, markers]}.

    One random crop of every tile an epoch, without replacement. Step t's batch is a function of the seed and t
    alone. Raises InputError when there is nothing to read.
    """
    paths = _paths(folder, pairs)
    per_epoch = sum(p.n_records for p in pairs)
    done = order.start_step * order.batch_size
    first_epoch = done // per_epoch

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        seed = number + order.seed * 1_000_003  # another order every epoch, the same one in a rerun
        files = tf.data.Dataset.from_tensor_slices(paths)
        files = files.shuffle(len(paths), seed=seed, reshuffle_each_iteration=False)
        # several shards at once: neighbours in a shard are neighbours on a slide
        tiles = files.interleave(shard_dataset, cycle_length=min(_OPEN_SHARDS, len(paths)), block_length=1)
        # bytes, not pixels: 4096 decoded tiles of 1024 px would be 13 GB
        tiles = tiles.shuffle(min(order.shuffle_tiles, per_epoch), seed=seed, reshuffle_each_iteration=False)
        return tiles.enumerate(start=number * per_epoch)

    tiles = tf.data.Dataset.range(first_epoch, _ENDLESS).flat_map(epoch)
    tiles = tiles.skip(done - first_epoch * per_epoch)  # of the epoch that was under way; nothing is decoded for it
    crops = tiles.map(
        lambda index, data: _training_crop(data, tf.stack([tf.cast(order.seed, tf.int64), index]), spec, order.augment),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return crops.batch(order.batch_size, drop_remainder=True).prefetch(2)


def _training_crop(data: tf.Tensor, seed: tf.Tensor, spec: CropSpec, settings: AugmentSettings) -> dict[str, tf.Tensor]:
    record = parse_example(data, _KEYS)
    seeds = tf.unstack(tf.random.split(seed, 2))
    place = random_origin if settings.random_crop else random_grid_origin
    origin = place(seeds[0], spec.tile_px, spec.crop_px)
    positive, cells = cells_in_crop(_xy(record), record["cells/positive"], origin, spec.tile_px, spec.crop_px)
    window = tf.stack([origin[1], origin[0], spec.crop_px, spec.crop_px])
    # the crop is known before decoding: a 128-px crop of a 512-px tile costs a quarter of the decoding
    crop = tf.io.decode_and_crop_jpeg(record["image/encoded"], window, channels=3, dct_method="INTEGER_ACCURATE")
    crop = augment(tf.ensure_shape(crop, (spec.crop_px, spec.crop_px, 3)), seeds[1], settings)
    one = _marker_one_hot(record, spec.markers)
    return {
        "crop": tf.ensure_shape(crop, (spec.crop_px, spec.crop_px, 3)),
        "positive": positive * one,
        "cells": cells * one,
        "trusted": record["label/weight"] * one,
        "usable": tf.cast(record["label/usable_count"], tf.float32) * one,
    }


def tile_batches(
    folder: Location,
    pairs: Sequence[PairEntry],
    spec: CropSpec,
    batch_tiles: int,
    *,
    max_tiles: int | None = None,
    labelled_only: bool = False,
) -> tf.data.Dataset:
    """Whole tiles in the manifest's order, the same every time; the last batch may be smaller.

    {tile: uint8[B, T, T, 3]; positive, cells: float32[B, g², markers] of the crops of prediction's grid, row by row;
    trusted, usable: float32[B, markers]; pair, patient: string[B]; col, row: int64[B]; tissue_fraction,
    registration_um (NaN: not known): float32[B]}.
    `labelled_only`: without the tiles whose ratio is no label. `max_tiles`: every n-th tile, so that no more than
    this many remain. Raises InputError.
    """
    tiles = shard_dataset(_paths(folder, pairs))
    total = sum(p.n_ratio if labelled_only else p.n_records for p in pairs)
    if labelled_only:  # before anything is decoded
        tiles = tiles.filter(lambda data: parse_example(data, ["label/weight"])["label/weight"] > 0)
    if max_tiles is not None and total > max_tiles:
        tiles = tiles.shard(-(-total // max_tiles), 0)
    tiles = tiles.map(lambda data: _whole_tile(data, spec), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return tiles.batch(batch_tiles).prefetch(2)


def _whole_tile(data: tf.Tensor, spec: CropSpec) -> dict[str, tf.Tensor]:
    record = parse_example(data, (*_KEYS, *_PLACE))
    tile = tf.io.decode_jpeg(record["image/encoded"], channels=3, dct_method="INTEGER_ACCURATE")
    positive, cells = cells_in_grid(_xy(record), record["cells/positive"], spec.tile_px, spec.crop_px)
    one = _marker_one_hot(record, spec.markers)
    return {
        "tile": tf.ensure_shape(tile, (spec.tile_px, spec.tile_px, 3)),
        "positive": positive[:, None] * one,
        "cells": cells[:, None] * one,
        "trusted": record["label/weight"] * one,
        "usable": tf.cast(record["label/usable_count"], tf.float32) * one,
        "pair": record["tile/pair"],
        "patient": record["tile/patient_id"],
        "col": record["tile/col"],
        "row": record["tile/row"],
        "tissue_fraction": record["tile/tissue_fraction"],
        "registration_um": record["registration/error_median_um"],
    }


def _xy(record: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.stack([record["cells/x"], record["cells/y"]], axis=1)


def _marker_one_hot(record: dict[str, tf.Tensor], markers: tuple[Marker, ...]) -> tf.Tensor:
    """float32[markers]: a record teaches the outputs of its own marker, and no other."""
    return tf.cast(tf.constant([m.value for m in markers]) == record["label/marker"], tf.float32)


def _paths(folder: Location, pairs: Sequence[PairEntry]) -> list[str]:
    paths = [str(path) for path in shard_paths(folder, pairs)]
    if not paths:
        raise InputError(f"{folder}: expected shards for {[p.pair for p in pairs]}. Received: none")
    return paths
