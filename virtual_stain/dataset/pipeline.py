"""tf.data from the manifest: encoded tiles are shuffled, the crop is chosen, and only the crop is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from virtual_stain.config.training import AugmentSettings
from virtual_stain.counting.quality import UNEXPLAINED
from virtual_stain.dataset.augment import N_DRAWS
from virtual_stain.dataset.crops import (
    cells_in_crop,
    cells_in_grid,
    intensities_in_crop,
    intensities_in_grid,
    random_grid_origin,
    random_origin,
)
from virtual_stain.dataset.ihc_side import KEYS as IHC_KEYS
from virtual_stain.dataset.ihc_side import IhcSide, both_sides, densities_of_crop
from virtual_stain.dataset.sampling import draws_of_epoch, tile_weights
from virtual_stain.errors import InputError
from virtual_stain.markers import Marker
from virtual_stain.records.manifest import PairEntry, shard_paths
from virtual_stain.records.read import as_written, parse_example, shard_dataset
from virtual_stain.remote import Location

_KEYS = (
    "image/encoded", "label/marker", "label/weight", "label/usable_count", "cells/x", "cells/y",
    "cells/positive",
)  # fmt: skip
_PLACE = (
    "tile/pair", "tile/patient_id", "tile/col", "tile/row", "tile/tissue_fraction", "tile/flags",
    "registration/error_median_um",
)  # fmt: skip
_OPEN_SHARDS = 16
_ENDLESS = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class CropSpec:
    """Geometry and meaning of what the pipeline yields."""

    markers: tuple[Marker, ...]
    tile_px: int
    crop_px: int

    @property
    def has_intensities(self) -> bool:
        """Whether one of the markers is read by intensity."""
        return any(m.has_intensities for m in self.markers)

    @property
    def keys(self) -> tuple[str, ...]:
        """What is parsed of every record."""
        return (*_KEYS, "cells/intensity") if self.has_intensities else _KEYS


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOrder:
    """How training draws."""

    batch_size: int
    seed: int
    shuffle_tiles: int
    augment: AugmentSettings
    start_step: int = 0
    """Optimizer steps already done: the order goes on where it was, exactly."""
    sampling: str = "without_replacement"
    balance: str = "none"
    worker: int = 0
    workers: int = 1
    """Of the crops of every batch this process takes the `worker`-th of `workers` equal parts."""


def training_batches(
    folder: Location, pairs: Sequence[PairEntry], spec: CropSpec, order: TrainingOrder, ihc: IhcSide | None = None
) -> tf.data.Dataset:
    """Endless batches {crop: uint8[B, C, C, 3]; positive, cells, trusted, usable: float32[B, markers]; draws:
    float32[B, N_DRAWS] for `augment`; tile: string[B]; origin: int32[B, 2]}, B = batch_size / workers; with a marker
    that has intensities also intensities: float32[B, 3], its cells of 1+, 2+ and 3+. `ihc`: also what
    `densities_of_crop` adds; without it no IHC shard is opened.

    One random crop of every tile an epoch, unless sampling or balance say otherwise. Step t's batch is a function of
    the seed and t alone. Raises InputError when there is nothing to read.
    """
    paths = _paths(folder, pairs) if ihc is None else _paths_of_both(folder, pairs)
    one_shard = shard_dataset if ihc is None else both_sides
    per_epoch = sum(p.n_records for p in pairs)
    first = np.cumsum([0, *(s.records for p in pairs for s in p.shards)])[:-1]
    weights = tile_weights(folder, pairs, order.balance)
    replacement = order.sampling == "with_replacement"
    done = order.start_step * order.batch_size
    first_epoch = done // per_epoch

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        # tf.data mixes the seed of a shuffle with that of the process, which is not the run's; here there is none
        tf.compat.v1.set_random_seed(None)  # inside a graph: of this graph alone
        seed = number + order.seed * 1_000_003  # another order every epoch, the same one in a rerun
        files = tf.data.Dataset.from_tensor_slices((paths, first.astype(np.int64)))
        files = files.shuffle(len(paths), seed=seed, reshuffle_each_iteration=False)
        # several shards at once: neighbours in a shard are neighbours on a slide
        tiles = files.interleave(
            as_written(lambda path, start: one_shard(path).enumerate(start)),
            cycle_length=min(_OPEN_SHARDS, len(paths)), block_length=1,
        )  # fmt: skip
        if replacement or weights is not None:
            draws = draws_of_epoch(weights, per_epoch, tf.stack([seed, number]), replacement=replacement)
            tiles = tiles.flat_map(
                as_written(lambda place, data: tf.data.Dataset.from_tensors((place, data)).repeat(draws[place]))
            )
        # bytes, not pixels: 4096 decoded tiles of 1024 px would be 13 GB
        tiles = tiles.shuffle(min(order.shuffle_tiles, per_epoch), seed=seed, reshuffle_each_iteration=False)
        return tiles.map(as_written(lambda place, data: data)).enumerate(start=number * per_epoch)

    tiles = tf.data.Dataset.range(first_epoch, _ENDLESS).flat_map(as_written(epoch))
    tiles = tiles.skip(done - first_epoch * per_epoch)  # of the epoch that was under way; nothing is decoded for it
    own = order.batch_size // order.workers
    if order.workers > 1:  # every process walks the same order and decodes its own part of each batch
        tiles = tiles.filter(as_written(lambda index, data: index % order.batch_size // own == order.worker))
    crops = tiles.map(
        as_written(
            lambda index, data: _training_crop(
                data, tf.stack([tf.cast(order.seed, tf.int64), index]), spec, order.augment, ihc
            )
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return crops.batch(own, drop_remainder=True).prefetch(2)


def _training_crop(
    data: tf.Tensor, seed: tf.Tensor, spec: CropSpec, settings: AugmentSettings, ihc: IhcSide | None
) -> dict[str, tf.Tensor]:
    """`data`: string[], a record; with `ihc` string[2], a record and its IHC tile."""
    more = IHC_KEYS if ihc is not None else ()
    record = parse_example(data if ihc is None else data[0], (*spec.keys, "image/filename", *more))
    # all random numbers of a crop in one operation: small operations are what a crop costs beside its decoding
    numbers = tf.random.stateless_uniform([3 + N_DRAWS], seed)
    window_px: int | tf.Tensor = spec.crop_px
    if settings.rescale > 0:
        scale = 1 + settings.rescale * (2 * numbers[2] - 1)
        window_px = tf.minimum(tf.cast(tf.round(spec.crop_px * scale), tf.int32), spec.tile_px)
    if settings.random_crop:
        origin = random_origin(numbers[:2], spec.tile_px, window_px)
    else:
        origin = tf.minimum(random_grid_origin(numbers[:2], spec.tile_px, spec.crop_px), spec.tile_px - window_px)
    positive, cells = cells_in_crop(_xy(record), record["cells/positive"], origin, spec.tile_px, window_px)
    window = tf.stack([origin[1], origin[0], window_px, window_px])
    # the crop is known before decoding: a 128-px crop of a 512-px tile costs a quarter of the decoding
    crop = tf.io.decode_and_crop_jpeg(record["image/encoded"], window, channels=3, dct_method="INTEGER_ACCURATE")
    if settings.rescale > 0:
        crop = tf.image.resize(crop, (spec.crop_px, spec.crop_px), method="area")
        crop = tf.cast(tf.round(tf.clip_by_value(crop, 0.0, 255.0)), tf.uint8)
    one = _marker_one_hot(record, spec.markers)
    added = {} if ihc is None else densities_of_crop(ihc, record, data[1], window, spec.crop_px)
    if spec.has_intensities:
        added["intensities"] = intensities_in_crop(
            _xy(record), record["cells/intensity"], origin, spec.tile_px, window_px
        )
    return added | {
        "crop": tf.ensure_shape(crop, (spec.crop_px, spec.crop_px, 3)),
        "positive": positive * one,
        "cells": cells * one,
        "trusted": record["label/weight"] * one,
        "usable": tf.cast(record["label/usable_count"], tf.float32) * one,
        "draws": numbers[3:],
        "tile": record["image/filename"],
        "origin": origin,
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
    trusted (the value may train), usable (the number of cells may): float32[B, markers]; pair, patient: string[B];
    col, row: int64[B]; tissue_fraction, registration_um (NaN: not known): float32[B]; clear: bool[B], the classes of
    its cells can be told}; with a marker that has intensities also intensities: float32[B, g², 3], intensities_known:
    bool[B].
    `labelled_only`: without the tiles whose value is no label. `max_tiles`: every n-th tile, so that no more than
    this many remain. Raises InputError.
    """
    tiles = shard_dataset(_paths(folder, pairs))
    total = sum(p.n_ratio if labelled_only else p.n_records for p in pairs)
    if labelled_only:  # before anything is decoded
        tiles = tiles.filter(as_written(lambda data: parse_example(data, ["label/weight"])["label/weight"] > 0))
    if max_tiles is not None and total > max_tiles:
        tiles = tiles.shard(-(-total // max_tiles), 0)
    whole = as_written(lambda data: _whole_tile(data, spec))
    tiles = tiles.map(whole, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return tiles.batch(batch_tiles).prefetch(2)


def _whole_tile(data: tf.Tensor, spec: CropSpec) -> dict[str, tf.Tensor]:
    record = parse_example(data, (*spec.keys, *_PLACE))
    tile = tf.io.decode_jpeg(record["image/encoded"], channels=3, dct_method="INTEGER_ACCURATE")
    positive, cells = cells_in_grid(_xy(record), record["cells/positive"], spec.tile_px, spec.crop_px)
    one = _marker_one_hot(record, spec.markers)
    intensities = {}
    if spec.has_intensities:
        intensity = record["cells/intensity"]
        intensities["intensities"] = intensities_in_grid(_xy(record), intensity, spec.tile_px, spec.crop_px)
        intensities["intensities_known"] = tf.size(intensity) == tf.size(record["cells/x"])
    return intensities | {
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
        "clear": tf.reduce_all(record["tile/flags"] != UNEXPLAINED),
    }


def _xy(record: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.stack([record["cells/x"], record["cells/y"]], axis=1)


def _marker_one_hot(record: dict[str, tf.Tensor], markers: tuple[Marker, ...]) -> tf.Tensor:
    """float32[markers]: a record teaches the outputs of its own marker, and no other."""
    return tf.cast(tf.constant([m.value for m in markers]) == record["label/marker"], tf.float32)


def _paths_of_both(folder: Location, pairs: Sequence[PairEntry]) -> list[tuple[str, str]]:
    """(H&E shard, IHC shard); every pair has both."""
    ihc = [str(folder / shard.file) for pair in pairs if pair.ihc for shard in pair.ihc.shards]
    return list(zip(_paths(folder, pairs), ihc, strict=True))


def _paths(folder: Location, pairs: Sequence[PairEntry]) -> list[str]:
    paths = [str(path) for path in shard_paths(folder, pairs)]
    if not paths:
        raise InputError(f"{folder}: expected shards for {[p.pair for p in pairs]}. Received: none")
    return paths
