"""A tile's reading is the mean over its crops, and padding is no tissue."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from virtual_stain.errors import ConfigError
from virtual_stain.markers import ValueDefinition
from virtual_stain.model.tile_reading import crop_grid, crops_per_side, tile_reading

RATIO = ValueDefinition.POSITIVE_RATIO

RNG = np.random.default_rng(0)


def mean_model(crop_px):
    """ki67 = mean red / 255; ki67_tumour_cells = mean green."""
    inputs = keras.Input((crop_px, crop_px, 3), dtype="uint8")
    mean = keras.ops.mean(keras.ops.cast(inputs, "float32"), axis=(1, 2))
    return keras.Model(inputs, {"ki67": mean[:, 0] / 255, "ki67_tumour_cells": mean[:, 1]})


def test_the_grid_is_row_by_row_and_complete():
    tiles = RNG.integers(0, 256, (2, 96, 96, 3), np.uint8)
    crops = crop_grid(tf.constant(tiles), 32).numpy()
    assert crops.shape == (18, 32, 32, 3)
    for tile in range(2):
        for row in range(3):
            for column in range(3):
                np.testing.assert_array_equal(
                    crops[tile * 9 + row * 3 + column],
                    tiles[tile, row * 32 : (row + 1) * 32, column * 32 : (column + 1) * 32],
                )


def test_mean_of_the_ratio_and_sum_of_the_cells():
    tiles = RNG.integers(0, 250, (3, 64, 64, 3), np.uint8)
    reading = tile_reading(mean_model(32), tf.constant(tiles), RATIO)
    crops = tiles.reshape(3, 2, 32, 2, 32, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(reading["ki67"], crops[..., 0].mean(axis=(1, 2)) / 255, rtol=1e-5)
    np.testing.assert_allclose(reading["ki67_tumour_cells"], crops[..., 1].sum(axis=(1, 2)), rtol=1e-5)


def test_crops_of_padding_are_left_out():
    tile = np.full((1, 64, 64, 3), 255, np.uint8)
    tile[0, :32, :32] = (51, 10, 0)
    tile[0, 32:, 32:] = 253  # as JPEG leaves padding
    reading = tile_reading(mean_model(32), tf.constant(tile), RATIO)
    assert float(reading["ki67"][0]) == pytest.approx(0.2)
    assert float(reading["ki67_tumour_cells"][0]) == pytest.approx(10)


def test_one_dark_pixel_is_tissue():
    tile = np.full((1, 64, 64, 3), 255, np.uint8)
    tile[0, 40, 40, 2] = 252
    assert np.isfinite(float(tile_reading(mean_model(32), tf.constant(tile), RATIO)["ki67"][0]))


def test_a_tile_of_padding_has_no_ratio_and_no_cells():
    reading = tile_reading(mean_model(32), tf.constant(np.full((1, 64, 64, 3), 255, np.uint8)), RATIO)
    assert np.isnan(float(reading["ki67"][0]))
    assert float(reading["ki67_tumour_cells"][0]) == 0


def test_it_works_inside_a_graph_for_any_number_of_tiles():
    model = mean_model(32)
    compiled = tf.function(
        lambda t: tile_reading(model, t, RATIO), input_signature=[tf.TensorSpec((None, 64, 64, 3), tf.uint8)]
    )
    tiles = tf.constant(RNG.integers(0, 250, (5, 64, 64, 3), np.uint8))
    whole = compiled(tiles)["ki67"].numpy()
    np.testing.assert_allclose([compiled(tiles[i : i + 1])["ki67"][0] for i in range(5)], whole, rtol=1e-6)
    assert compiled(tiles[:0])["ki67"].shape == (0,)


@pytest.mark.parametrize(("tile", "crop"), [(1024, 300), (512, 1024), (512, 96)])
def test_crops_that_do_not_cover_the_tile_are_refused(tile, crop):
    with pytest.raises(ConfigError, match="whole number of crops"):
        crops_per_side(tile, crop)


def test_the_sources_numbers_are_four_quadrants():
    assert crops_per_side(1024, 512) == 2


def test_crops_weighted_by_their_cells_read_as_a_ratio_is_counted():
    tiles = RNG.integers(0, 250, (3, 64, 64, 3), np.uint8)
    reading = tile_reading(mean_model(32), tf.constant(tiles), RATIO, "cells")
    crops = tiles.reshape(3, 2, 32, 2, 32, 3).mean(axis=(2, 4))
    value, cells = crops[..., 0] / 255, crops[..., 1]
    np.testing.assert_allclose(reading["ki67"], (value * cells).sum(axis=(1, 2)) / cells.sum(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(reading["ki67_tumour_cells"], cells.sum(axis=(1, 2)), rtol=1e-5)


def test_glass_beside_tissue_does_not_pull_a_reading_that_is_weighted_by_cells():
    """A tile at the edge: a crop of tissue, and three of glass that is not quite padding and has next to no cells."""
    tile = np.full((1, 64, 64, 3), (200, 0, 250), np.uint8)
    tile[0, :32, :32] = (51, 100, 0)
    by_mean = float(tile_reading(mean_model(32), tf.constant(tile), RATIO)["ki67"][0])
    by_cells = float(tile_reading(mean_model(32), tf.constant(tile), RATIO, "cells")["ki67"][0])
    assert by_mean == pytest.approx(0.638, abs=1e-3)
    assert by_cells == pytest.approx(0.2, abs=1e-6)


def test_weighted_by_cells_a_tile_of_padding_still_has_no_ratio():
    tile = tf.constant(np.full((1, 64, 64, 3), 255, np.uint8))
    assert np.isnan(float(tile_reading(mean_model(32), tile, RATIO, "cells")["ki67"][0]))
