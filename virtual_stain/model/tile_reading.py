"""From the network's crops to the reading of a tile: the one place where that is defined, inside the graph."""

from __future__ import annotations

import keras
import tensorflow as tf

from virtual_stain.errors import ConfigError
from virtual_stain.markers import CELLS, ValueDefinition, cells_of

PADDING_MIN = 253
"""A crop whose every value is at least this holds nothing but padding or empty glass."""


def crops_per_side(tile_px: int, crop_px: int) -> int:
    """Crops along a tile's side. Raises ConfigError unless they cover the tile exactly."""
    if crop_px > tile_px or tile_px % crop_px:
        raise ConfigError(
            f"model.crop_px: expected a whole number of crops in a tile of {tile_px} px. Received: {crop_px}",
            hint=f"For example crop_px = {tile_px // 2}.",
        )
    return tile_px // crop_px


def crop_grid(tiles: tf.Tensor, crop_px: int) -> tf.Tensor:
    """uint8[B, T, T, 3] → uint8[B·g², crop, crop, 3], g = T / crop; per tile row by row from the top left."""
    side = tiles.shape[1]
    if side is None or tiles.shape[2] != side:
        raise ValueError(f"Expected square tiles of a known size. Received: {tiles.shape}")
    g = crops_per_side(side, crop_px)
    blocks = tf.reshape(tiles, (-1, g, crop_px, g, crop_px, 3))
    return tf.reshape(tf.transpose(blocks, (0, 1, 3, 2, 4, 5)), (-1, crop_px, crop_px, 3))


def tile_reading(
    model: keras.Model, tiles: tf.Tensor, definition: ValueDefinition, crop_weights: str = "equal"
) -> dict[str, tf.Tensor]:
    """Graph-side: uint8[B, T, T, 3] → {"ki67": float32[B], "ki67_tumour_cells": float32[B], …}.

    A ratio is the mean over the non-overlapping crop grid, the expected cells are its sum; crops that are all
    padding are left out of both. `crop_weights` "cells": the mean is weighted by the crops' expected cells, as a ratio
    is counted, so that a crop of glass says nothing. A count per mm² is that of the whole tile: padding is area without
    cells, or a scanner whose glass is whiter would read more. A tile of nothing but padding has value NaN and 0 cells.
    """
    crop_px = int(model.input_shape[1])
    crops = crop_grid(tiles, crop_px)
    per_tile = crops_per_side(int(tiles.shape[1]), crop_px) ** 2
    readings = {}
    outputs = model(crops, training=False)
    for name, values in outputs.items():
        if name.endswith(CELLS):
            readings[name] = sum_over_tile(values[:, None], crops, per_tile)[0][:, 0]
        else:
            cells = outputs[cells_of(name)] if crop_weights == "cells" else None
            readings[name] = value_over_tile(values, cells, crops, per_tile, definition)
    return readings


def value_over_tile(
    values: tf.Tensor, cells: tf.Tensor | None, crops: tf.Tensor, per_tile: int, definition: ValueDefinition
) -> tf.Tensor:
    """float32[B] from the crops' values float32[B·g²]; of a ratio weighted by their expected `cells` where given."""
    if cells is not None and definition.is_ratio:
        both, shown = sum_over_tile(tf.stack([values * cells, cells], axis=1), crops, per_tile)
        return tf.where(shown[:, 0] > 0, both[:, 0] / both[:, 1], float("nan"))
    total, shown = sum_over_tile(values[:, None], crops, per_tile)
    return value_of_tile(total, shown, per_tile, definition)


def value_of_tile(total: tf.Tensor, shown: tf.Tensor, per_tile: int, definition: ValueDefinition) -> tf.Tensor:
    """float32[B] from `sum_over_tile` of the crops' values; NaN where nothing is shown: there is none."""
    area = shown if definition.is_ratio else tf.where(shown > 0, float(per_tile), 0.0)
    return total[:, 0] / area[:, 0]  # 0 / 0 is NaN on purpose


def tile_maps(dense: keras.Model, tiles: tf.Tensor) -> dict[str, tf.Tensor]:
    """Graph-side: uint8[B, T, T, 3] → {"ki67_map", "ki67_tumour_cells_map": float32[B, g·h, g·w], …} of a dense head.

    The maps of the crops lie beside each other as the crops do in the tile; NaN in crops that are all padding.
    """
    crop_px = int(dense.input_shape[1])
    crops = crop_grid(tiles, crop_px)
    g = crops_per_side(int(tiles.shape[1]), crop_px)
    shown = tf.reduce_any(crops < PADDING_MIN, axis=(1, 2, 3))[:, None, None]
    maps = {}
    for name, values in dense(crops, training=False).items():
        h, w = int(values.shape[1]), int(values.shape[2])
        blocks = tf.reshape(tf.where(shown, values, float("nan")), (-1, g, g, h, w))
        maps[name] = tf.reshape(tf.transpose(blocks, (0, 1, 3, 2, 4)), (-1, g * h, g * w))
    return maps


def sum_over_tile(values: tf.Tensor, crops: tf.Tensor, per_tile: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(Σ, number) float32[B, F], float32[B, 1] of crops' values [B·g², F], without the crops that are all padding."""
    shown = tf.cast(tf.reduce_any(crops < PADDING_MIN, axis=(1, 2, 3)), tf.float32)[:, None]
    # where, not a product: a value that is not finite on padding must not reach the tile
    kept = tf.where(shown > 0, tf.cast(values, tf.float32), 0.0)
    total = tf.reduce_sum(tf.reshape(kept, (-1, per_tile, values.shape[1])), axis=1)
    return total, tf.reduce_sum(tf.reshape(shown, (-1, per_tile, 1)), axis=1)
