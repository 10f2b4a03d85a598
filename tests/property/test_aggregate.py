"""Slide readings: what must hold for any tiles."""

import random

from hypothesis import given
from hypothesis import strategies as st

from virtual_stain.readings import aggregate

TILES = st.lists(st.tuples(st.floats(0, 1), st.floats(1, 5000)), min_size=1, max_size=80)


@given(TILES, st.integers(1, 60), st.randoms(use_true_random=False))
def test_the_order_of_the_tiles_does_not_matter(tiles, top_n, rng: random.Random):
    shuffled = tiles.copy()
    rng.shuffle(shuffled)
    assert aggregate(*zip(*tiles, strict=True), top_n=top_n) == aggregate(*zip(*shuffled, strict=True), top_n=top_n)


@given(TILES, st.integers(1, 60))
def test_readings_lie_between_their_tiles_and_the_top_is_not_below_the_mean(tiles, top_n):
    fraction, cells = zip(*tiles, strict=True)
    reading = aggregate(fraction, cells, top_n=top_n)
    low, high, slack = min(fraction), max(fraction), 1e-12
    assert low - slack <= reading.global_mean <= reading.top_mean + slack <= high + 2 * slack
    assert low - slack <= reading.global_ratio <= high + slack
    assert reading.top_n == min(top_n, len(tiles))
    assert list(reading.quantiles.values()) == sorted(reading.quantiles.values())


@given(TILES, st.integers(1, 40))
def test_a_larger_top_is_never_higher(tiles, top_n):
    fraction, cells = zip(*tiles, strict=True)
    assert (
        aggregate(fraction, cells, top_n=top_n).top_mean >= aggregate(fraction, cells, top_n=top_n + 1).top_mean - 1e-12
    )
