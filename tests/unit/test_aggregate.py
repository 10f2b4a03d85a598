"""Slide readings from tiles, against numbers known by hand."""

import math

import numpy as np
import pytest

from virtual_stain.readings import aggregate


def test_top_mean_is_the_mean_of_the_highest_n_and_the_ratio_is_weighted_by_cells():
    fraction = [0.1, 0.5, 0.3, 0.2]
    reading = aggregate(fraction, [100, 300, 50, 50], top_n=2)
    assert reading.top_mean == pytest.approx(0.4)
    assert reading.top_n == 2
    assert reading.global_mean == pytest.approx(0.275)
    assert reading.global_ratio == pytest.approx((10 + 150 + 15 + 10) / 500)
    assert reading.expected_tumour_cells == 500
    assert reading.n_tiles == 4
    assert reading.flags == ("top_mean_biased",)


def test_fewer_tiles_than_n_takes_all_of_them_and_says_so():
    reading = aggregate([0.1, 0.3], [100, 100], top_n=30, few_cells=500)
    assert reading.top_mean == reading.global_mean == pytest.approx(0.2)
    assert reading.top_n == 2
    assert reading.flags == ("fewer_than_30_tiles", "fewer_than_500_tumour_cells")


def test_no_tile_is_no_reading_never_zero():
    reading = aggregate([], [], top_n=30)
    values = (reading.top_mean, reading.global_mean, reading.global_ratio, reading.quantiles)
    assert values == (None, None, None, None)
    assert reading.expected_tumour_cells is None
    assert reading.n_tiles == reading.top_n == 0
    assert "no_valid_tiles" in reading.flags


def test_a_ratio_without_expected_cells_is_none():
    reading = aggregate([0.2, 0.4], [0, 0], top_n=30)
    assert reading.global_ratio is None
    assert reading.global_mean == pytest.approx(0.3)


def test_quantiles():
    reading = aggregate(np.linspace(0, 1, 101), np.ones(101), top_n=30)
    assert reading.quantiles == pytest.approx({"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95})


def test_top_thirty_of_noisy_tiles_is_biased_upward():
    """Why the report warns: the same truth with tile noise reads higher in the top mean, not in the global ones."""
    rng = np.random.default_rng(0)
    truth = np.clip(rng.normal(0.2, 0.04, 400), 0, 1)
    noisy = np.clip(truth + rng.normal(0, 0.08, 400), 0, 1)
    clean, dirty = (aggregate(v, np.full(400, 100.0), top_n=30) for v in (truth, noisy))
    assert dirty.top_mean > clean.top_mean + 0.05
    assert abs(dirty.global_mean - clean.global_mean) < 0.01


@pytest.mark.parametrize(
    ("fraction", "cells", "top_n"),
    [
        ([1.2], [1], 1),
        ([-0.1], [1], 1),
        ([math.nan], [1], 1),
        ([0.1], [-1], 1),
        ([0.1], [math.inf], 1),
        ([0.1], [1, 2], 1),
        ([0.1], [1], 0),
    ],
)
def test_what_cannot_be_a_reading_is_refused(fraction, cells, top_n):
    with pytest.raises(ValueError):
        aggregate(fraction, cells, top_n=top_n)
