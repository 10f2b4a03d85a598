"""Batches of crops with their ratios, as `fit` of Keras takes them. Needs TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from virtual_stain.config.training import AugmentSettings
from virtual_stain.dataset.augment import augment
from virtual_stain.dataset.pipeline import TrainingOrder, training_batches
from virtual_stain.errors import ConfigError
from virtual_stain.model.tile_reading import crops_per_side
from virtual_stain.records.manifest import Manifest, PairEntry
from virtual_stain.remote import Location
from virtual_stain.training.inputs import crop_spec

_SHUFFLED_TILES = 1024


@dataclass(frozen=True, slots=True)
class CropOptions:
    """Options of `Records.dataset`, which explains them."""

    crop_px: int
    batch_size: int
    seed: int
    min_cells: int
    max_cells: int

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 0 <= self.min_cells <= self.max_cells:
            raise ConfigError(
                "dataset: expected batch_size of 1 or more and 0 ≤ min_cells ≤ max_cells. "
                f"Received: {self.batch_size}, {self.min_cells}, {self.max_cells}"
            )


def crops_with_ratio(
    folder: Location,
    manifest: Manifest,
    pairs: Sequence[PairEntry],
    options: CropOptions,
    change: AugmentSettings | None,
) -> tf.data.Dataset:
    """A dataset of (crop, ratio, weight) from records of one marker, for `Records.dataset`.

    Raises ConfigError and InputError.
    """
    spec = crop_spec(manifest, options.crop_px)
    crops_per_side(spec.tile_px, options.crop_px)
    order = TrainingOrder(
        batch_size=options.batch_size,
        seed=options.seed,
        shuffle_tiles=_SHUFFLED_TILES,
        augment=change or AugmentSettings(),
    )

    def example(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        positive, cells, trusted = (batch[name][:, 0] for name in ("positive", "cells", "trusted"))
        ratio = tf.math.divide_no_nan(positive, cells)
        enough = tf.cast(cells >= max(options.min_cells, 1), tf.float32)
        weight = enough * tf.minimum(cells, float(options.max_cells)) * trusted
        crop = batch["crop"] if change is None else augment(batch["crop"], batch["draws"], change)
        return crop, ratio, weight

    return training_batches(folder, pairs, spec, order).map(example, num_parallel_calls=tf.data.AUTOTUNE)
