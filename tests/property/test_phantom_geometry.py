"""Properties of the phantom's geometry and rendering over random seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.phantom.noise import rng_for, smooth_field, wrapped
from virtual_stain.phantom.packing import pack
from virtual_stain.phantom.pair import make_pair

SEEDS = st.integers(0, 2**31)


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.floats(0, 60), st.floats(60, 800), st.floats(0.2, 1.5), st.floats(0.2, 1.5))
def test_the_transform_can_be_inverted_everywhere_on_the_slide(seed, elastic, scale, he_mpp, ihc_mpp) -> None:
    phantom = PhantomSettings(
        size_mm=0.4, seed=seed, elastic_um=elastic, elastic_scale_um=scale, he_mpp=he_mpp, ihc_mpp=ihc_mpp
    )
    pair = make_pair("p", 0, phantom)
    rng = np.random.default_rng(seed)
    points = rng.random((200, 2)) * [pair.he.size.width, pair.he.size.height]
    there = pair.truth.transform.to_ihc(points)
    back = pair.truth.transform.to_he(there)
    assert np.abs(back - points).max() < 0.05
    # all tissue is on the other canvas
    x, y = pair.truth.ihc_cells.xy.T
    assert x.min() > 0
    assert y.min() > 0
    assert x.max() < pair.ihc.size.width
    assert y.max() < pair.ihc.size.height


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(6, 20))
def test_packed_points_keep_their_distance_and_fill_the_space(seed: int, spacing: float) -> None:
    where = np.zeros((60, 70), bool)
    where[5:50, 10:60] = True
    points = pack(rng_for(seed, "x"), where, np.full(where.shape, spacing, np.float32))
    distance = cKDTree(points).query(points, k=2)[0][:, 1]
    assert distance.min() >= spacing
    area = np.count_nonzero(where) * 16.0
    assert 0.40 < len(points) * np.pi / 4 * spacing**2 / area < 0.75  # jamming is at 0.547 in the bulk
    column, row = (points / 4.0).astype(int).T
    assert where[row, column].all()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(-3000, 3000), st.integers(-3000, 3000), st.integers(1, 300), st.integers(1, 300))
def test_a_wrapped_texture_repeats_endlessly(seed: int, x0: int, y0: int, width: int, height: int) -> None:
    texture = np.random.default_rng(seed).random((64, 48)).astype(np.float32)
    rows, columns = np.arange(y0, y0 + height) % 64, np.arange(x0, x0 + width) % 48
    assert np.array_equal(wrapped(texture, x0, y0, width, height), texture[np.ix_(rows, columns)])


@pytest.mark.parametrize("sigma", [1.5, 6.0, 40.0])
def test_smooth_fields_have_unit_variance(sigma: float) -> None:
    field = smooth_field(np.random.default_rng(1), (1500, 1500), sigma)
    assert field.std() == pytest.approx(1, abs=0.15)


@settings(max_examples=4, deadline=None)
@given(SEEDS, st.integers(0, 400), st.integers(0, 400))
def test_a_block_rendered_alone_equals_the_same_place_of_the_whole(seed: int, x: int, y: int) -> None:
    phantom = PhantomSettings(
        size_mm=0.4, margin_mm=0.05, he_mpp=0.8, ihc_mpp=0.8, seed=seed, artefacts=("fold", "pen")
    )
    scene = make_pair("p", 0, phantom).he
    whole = np.concatenate(list(scene.strips(128)))
    width, height = min(100, scene.size.width - x), min(90, scene.size.height - y)
    alone = scene.block(x, y, width, height)
    difference = np.abs(alone.astype(int) - whole[y : y + height, x : x + width])
    # rounding of the interpolation maps; a cell's Voronoi neighbour may lie beyond the margin of one block
    assert np.mean(difference > 6) < 0.002
    assert difference.mean() < 0.5
