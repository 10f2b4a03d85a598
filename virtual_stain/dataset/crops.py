"""Where a crop lies, and its label: counted from the cells inside it, never inherited from the tile."""

from __future__ import annotations

import tensorflow as tf


def random_origin(draws: tf.Tensor, tile_px: int, crop_px: int | tf.Tensor) -> tf.Tensor:
    """int32[2] = (x, y): anywhere the crop still lies inside the tile. `draws`: float32[2], uniform in 0…1."""
    return _whole(draws, tile_px - crop_px + 1)


def random_grid_origin(draws: tf.Tensor, tile_px: int, crop_px: int) -> tf.Tensor:
    """int32[2] = (x, y): one of the crops of prediction's grid. `draws`: float32[2], uniform in 0…1."""
    return crop_px * _whole(draws, tile_px // crop_px)


def _whole(draws: tf.Tensor, n: int | tf.Tensor) -> tf.Tensor:
    """0…1 → 0, 1, … n − 1, equally often (to one in thousands: a float32 has 24 bits)."""
    return tf.minimum(tf.cast(draws * tf.cast(n, tf.float32), tf.int32), n - 1)


def cells_in_crop(
    xy: tf.Tensor, positive: tf.Tensor, origin: tf.Tensor, tile_px: int, crop_px: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """(positive, all) float32 scalars: cells whose centre lies in the half-open crop.

    `xy`: float32[N, 2] tile px, pixel centres at + 0.5; `positive`: int64[N], 0 or 1; `origin`: int32[2] (x, y).
    """
    inside = _inside_tile(xy, tile_px) - tf.cast(origin, tf.float32)
    chosen = tf.reduce_all((inside >= 0) & (inside < tf.cast(crop_px, tf.float32)), axis=1)
    return _count(positive, chosen), tf.reduce_sum(tf.cast(chosen, tf.float32))


def cells_in_grid(xy: tf.Tensor, positive: tf.Tensor, tile_px: int, crop_px: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(positive, all) float32[g²], g = tile_px / crop_px: each crop of the grid, row by row; they sum to the tile."""
    g = tile_px // crop_px
    cell = tf.cast(_inside_tile(xy, tile_px) // float(crop_px), tf.int32)
    index = cell[:, 1] * g + cell[:, 0]
    total = tf.math.unsorted_segment_sum(tf.ones_like(index, tf.float32), index, g * g)
    return tf.math.unsorted_segment_sum(tf.cast(positive, tf.float32), index, g * g), total


def _inside_tile(xy: tf.Tensor, tile_px: int) -> tf.Tensor:
    # a centre on the tile's far edge belongs to the last crop, not to none
    return tf.clip_by_value(xy, 0.0, tile_px - 1e-3)


def _count(positive: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(positive, tf.float32) * tf.cast(chosen, tf.float32))
