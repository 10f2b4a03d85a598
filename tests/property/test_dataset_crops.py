"""Counting cells in crops, for any cells and any crop."""

import hypothesis.extra.numpy as hnp
import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from virtual_stain.dataset.crops import cells_in_crop, cells_in_grid, random_grid_origin, random_origin

TILE, CROP = 128, 32
COORDINATES = st.floats(0, TILE, width=32)


@st.composite
def cells(draw):
    n = draw(st.integers(0, 60))
    xy = draw(hnp.arrays(np.float32, (n, 2), elements=COORDINATES))
    return xy, draw(hnp.arrays(np.int64, n, elements=st.integers(0, 1)))


@settings(max_examples=60, deadline=None)
@given(cells())
def test_the_grid_counts_every_cell_exactly_once(drawn):
    xy, positive = drawn
    p, n = cells_in_grid(tf.constant(xy), tf.constant(positive), TILE, CROP)
    assert n.shape == (16,)
    assert float(tf.reduce_sum(n)) == len(xy)
    assert float(tf.reduce_sum(p)) == positive.sum()


@settings(max_examples=60, deadline=None)
@given(cells(), st.integers(0, 3), st.integers(0, 3))
def test_a_crop_of_the_grid_counts_what_the_grid_says(drawn, column, row):
    xy, positive = drawn
    origin = tf.constant([column * CROP, row * CROP])
    p, n = cells_in_crop(tf.constant(xy), tf.constant(positive), origin, TILE, CROP)
    grid_p, grid_n = cells_in_grid(tf.constant(xy), tf.constant(positive), TILE, CROP)
    assert float(n) == float(grid_n[row * 4 + column])
    assert float(p) == float(grid_p[row * 4 + column])


@settings(max_examples=60, deadline=None)
@given(cells(), st.integers(0, TILE - CROP), st.integers(0, TILE - CROP))
def test_any_crop_counts_the_cells_between_its_edges(drawn, x0, y0):
    xy, positive = drawn
    p, n = cells_in_crop(tf.constant(xy), tf.constant(positive), tf.constant([x0, y0]), TILE, CROP)
    x, y = np.minimum(xy, TILE - 1e-3).T if len(xy) else (np.zeros(0), np.zeros(0))
    inside = (x >= x0) & (x < x0 + CROP) & (y >= y0) & (y < y0 + CROP)
    assert float(n) == inside.sum()
    assert float(p) == positive[inside].sum()


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.floats(0, 1, width=32)] * 2))
def test_random_crops_lie_inside_the_tile(numbers):
    draws = tf.constant(numbers, tf.float32)
    x, y = random_origin(draws, TILE, CROP).numpy()
    assert 0 <= x <= TILE - CROP
    assert 0 <= y <= TILE - CROP
    gx, gy = random_grid_origin(draws, TILE, CROP).numpy()
    assert gx % CROP == gy % CROP == 0
    assert max(gx, gy) <= TILE - CROP


def test_every_origin_is_drawn_equally_often():
    draws = tf.random.stateless_uniform([20_000, 2], [3, 4])
    origins = random_origin(draws, TILE, TILE - 9).numpy()
    counts = np.stack([np.bincount(origins[:, axis], minlength=10) for axis in (0, 1)])
    assert counts.shape == (2, 10)
    assert np.abs(counts - 2000).max() < 5 * np.sqrt(2000)
