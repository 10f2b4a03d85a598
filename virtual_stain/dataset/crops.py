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
    chosen = _in_crop(xy, origin, tile_px, crop_px)
    return _count(positive, chosen), tf.reduce_sum(tf.cast(chosen, tf.float32))


def intensities_in_crop(
    xy: tf.Tensor, intensity: tf.Tensor, origin: tf.Tensor, tile_px: int, crop_px: int | tf.Tensor
) -> tf.Tensor:
    """float32[3]: cells of the intensities 1+, 2+, 3+ in the crop. `intensity`: int64[N] 0–3, or int64[0] where
    they are not known: then 0."""
    inside = _in_crop(xy, origin, tile_px, crop_px)
    return tf.reduce_sum(_one_hot_intensities(xy, intensity) * tf.cast(inside, tf.float32)[:, None], axis=0)


def intensities_in_grid(xy: tf.Tensor, intensity: tf.Tensor, tile_px: int, crop_px: int) -> tf.Tensor:
    """float32[g², 3]: the same of each crop of the grid."""
    g = tile_px // crop_px
    return tf.math.unsorted_segment_sum(_one_hot_intensities(xy, intensity), _grid_index(xy, tile_px, crop_px), g * g)


def _one_hot_intensities(xy: tf.Tensor, intensity: tf.Tensor) -> tf.Tensor:
    """float32[N, 3]; a cell of class 0, or of unknown class, is a row of zeros."""
    known = tf.pad(intensity, [[0, tf.shape(xy)[0] - tf.size(intensity)]])
    return tf.one_hot(known - 1, 3)


def cells_in_grid(xy: tf.Tensor, positive: tf.Tensor, tile_px: int, crop_px: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(positive, all) float32[g²], g = tile_px / crop_px: each crop of the grid, row by row; they sum to the tile."""
    g = tile_px // crop_px
    index = _grid_index(xy, tile_px, crop_px)
    total = tf.math.unsorted_segment_sum(tf.ones_like(index, tf.float32), index, g * g)
    return tf.math.unsorted_segment_sum(tf.cast(positive, tf.float32), index, g * g), total


def _in_crop(xy: tf.Tensor, origin: tf.Tensor, tile_px: int, crop_px: int | tf.Tensor) -> tf.Tensor:
    """bool[N]: which centres lie in the half-open crop."""
    inside = _inside_tile(xy, tile_px) - tf.cast(origin, tf.float32)
    return tf.reduce_all((inside >= 0) & (inside < tf.cast(crop_px, tf.float32)), axis=1)


def _grid_index(xy: tf.Tensor, tile_px: int, crop_px: int) -> tf.Tensor:
    """int32[N]: the crop of the grid, row by row, that each centre lies in."""
    cell = tf.cast(_inside_tile(xy, tile_px) // float(crop_px), tf.int32)
    return cell[:, 1] * (tile_px // crop_px) + cell[:, 0]


def _inside_tile(xy: tf.Tensor, tile_px: int) -> tf.Tensor:
    # a centre on the tile's far edge belongs to the last crop, not to none
    return tf.clip_by_value(xy, 0.0, tile_px - 1e-3)


def _count(positive: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(positive, tf.float32) * tf.cast(chosen, tf.float32))
