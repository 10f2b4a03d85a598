"""The tile grid: nothing is left out, nothing drifts."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.slides import memory_slide
from virtual_stain.config import TilingSettings
from virtual_stain.errors import ResolutionError
from virtual_stain.geometry import Affine2D, Box
from virtual_stain.slides.resolution import Mpp
from virtual_stain.slides.tissue import TissueMap
from virtual_stain.tiles import make_grid, plan_tiles

MPP = 0.227


def _tissue(mask, bounds):
    height, width = mask.shape
    scale = bounds.width / width, bounds.height / height
    overview = np.zeros((height, width, 3), np.uint8)
    return TissueMap(mask, Affine2D.scale_and_shift("px0", "ov", scale, (bounds.x, bounds.y)), overview, True)


def _slide(bounds, mpp=(MPP, MPP)):
    class Flat:
        """Only what planning asks of a slide; pixels are never read."""

        path, notes, warnings = "flat.svs", (), ()

    flat = Flat()
    flat.bounds, flat.mpp = bounds, None if mpp is None else Mpp(*mpp, "override")
    return flat


sides = st.floats(200, 15_000)
strides = st.one_of(st.none(), st.floats(60.0, 307.2))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000), width=sides, height=sides, x=st.floats(0, 5000), y=st.floats(0, 5000),
    mpp_x=st.floats(0.12, 1.0), mpp_y=st.floats(0.12, 1.0), stride=strides,
)  # fmt: skip
def test_every_tissue_pixel_lies_in_a_tile(seed, width, height, x, y, mpp_x, mpp_y, stride):
    bounds = Box(x, y, width, height)
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(5, 40), rng.integers(5, 40))) < 0.05
    tissue = _tissue(mask, bounds)
    plan = plan_tiles(_slide(bounds, (mpp_x, mpp_y)), tissue, TilingSettings(stride_um=stride))
    covered = np.zeros(mask.shape, bool)
    scale_x, scale_y = tissue.px0_per_ov
    # a pixel is covered when the union of windows holds its corners and its centre: windows are wider than gaps
    rows, cols = np.nonzero(mask)
    for u, v in ((0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5)):
        px, py = x + (cols + u) * scale_x, y + (rows + v) * scale_y
        hit = np.zeros(len(rows), bool)
        for tile in plan.tiles:
            b = tile.box
            hit |= (px >= b.x - 1e-6) & (px <= b.x1 + 1e-6) & (py >= b.y - 1e-6) & (py <= b.y1 + 1e-6)
        covered[rows, cols] = hit
        assert hit.all()
    assert len(plan.tiles) + plan.n_glass == plan.grid.columns * plan.grid.rows


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), width=sides, height=sides, stride=strides)
def test_tiles_go_row_by_row_and_hold_tissue(seed, width, height, stride):
    bounds = Box(0, 0, width, height)
    mask = np.random.default_rng(seed).random((12, 15)) < 0.1
    tissue = _tissue(mask, bounds)
    plan = plan_tiles(_slide(bounds), tissue, TilingSettings(stride_um=stride))
    order = [(tile.row, tile.col) for tile in plan.tiles]
    assert order == sorted(set(order))
    for tile in plan.tiles:
        assert tile.box == plan.grid.box(tile.col, tile.row)
        assert 0 < tile.tissue_fraction <= 1
        assert tile.tissue_fraction == pytest.approx(tissue.fraction_in(tile.box), abs=1e-9)
        outside = tile.box.x1 > bounds.x1 + 1e-5 or tile.box.y1 > bounds.y1 + 1e-5
        inside = tile.box.x1 <= bounds.x1 and tile.box.y1 <= bounds.y1
        assert tile.border or not outside
        assert not (tile.border and inside)


@settings(max_examples=40, deadline=None)
@given(width=sides, height=sides, stride=strides)
def test_no_window_lies_wholly_outside(width, height, stride):
    grid = make_grid(Box(10, 20, width, height), Mpp(MPP, MPP, "override"), TilingSettings(stride_um=stride))
    last = grid.box(grid.columns - 1, grid.rows - 1)
    assert last.x < 10 + width
    assert last.y < 20 + height
    assert last.x1 >= 10 + width - 1e-3
    assert last.y1 >= 20 + height - 1e-3


@settings(max_examples=40, deadline=None)
@given(col=st.integers(0, 5000), row=st.integers(0, 5000))
def test_positions_do_not_drift(col, row):
    """307.2 µm at 0.227 µm/px are 1353.303964757… px: rounding that once would be 0.3 px, 5000 times 1500 px."""
    grid = make_grid(Box(7.5, 3.25, 7e6, 7e6), Mpp(MPP, MPP, "override"), TilingSettings())
    step = Fraction(307.2) / Fraction(MPP)
    box = grid.box(col, row)
    assert abs(Fraction(box.x) - (Fraction(7.5) + col * step)) < Fraction(1, 10**8)
    assert abs(Fraction(box.y) - (Fraction(3.25) + row * step)) < Fraction(1, 10**8)
    neighbour = grid.box(col + 1, row)
    assert abs(neighbour.x - box.x1) < 1e-8  # no seam and no overlap
    assert box.width == 307.2 / MPP


def test_a_window_is_the_same_area_whatever_the_scanner():
    for mpp in (0.2, 0.227, 0.346, 0.499, (0.25, 0.26)):
        x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        box = make_grid(Box(0, 0, 9000, 9000), Mpp(x, y, "override"), TilingSettings()).box(3, 4)
        assert (box.width * x, box.height * y) == pytest.approx((307.2, 307.2))
        assert (box.x * x, box.y * y) == pytest.approx((3 * 307.2, 4 * 307.2))


def test_the_grid_starts_at_the_corner_of_the_bounds():
    bounds = Box(1234.0, 567.0, 3000, 3000)
    slide = memory_slide(np.full((5000, 5000, 3), 200, np.uint8), 0.5, bounds)
    plan = plan_tiles(slide, _tissue(np.ones((10, 10), bool), bounds), TilingSettings())
    assert plan.grid.origin_px0 == (1234.0, 567.0)
    assert (plan.tiles[0].box.x, plan.tiles[0].box.y) == (1234.0, 567.0)
    assert plan.grid.columns == plan.grid.rows == math.ceil(3000 / 614.4)
    assert [tile.border for tile in plan.tiles[:5]] == [False, False, False, False, True]
    assert all(tile.border for tile in plan.tiles[-5:])


def test_a_slide_of_exactly_whole_windows_has_no_border_tile():
    bounds = Box(0, 0, 4 * 307.2 / 0.3, 3 * 307.2 / 0.3)
    plan = plan_tiles(_slide(bounds, (0.3, 0.3)), _tissue(np.ones((9, 12), bool), bounds), TilingSettings())
    assert (plan.grid.columns, plan.grid.rows) == (4, 3)
    assert not any(tile.border for tile in plan.tiles)


def test_a_slide_smaller_than_a_window_is_one_padded_tile():
    bounds = Box(0, 0, 300, 200)
    plan = plan_tiles(_slide(bounds, (0.5, 0.5)), _tissue(np.ones((9, 12), bool), bounds), TilingSettings())
    assert len(plan.tiles) == 1
    assert plan.tiles[0].border
    assert plan.tiles[0].tissue_fraction == pytest.approx(300 * 200 / 614.4**2)


def test_a_slide_without_a_pixel_size_is_not_tiled():
    bounds = Box(0, 0, 300, 200)
    tissue = _tissue(np.ones((9, 12), bool), bounds)
    for mpp in (None, (8.0, 8.0)):
        with pytest.raises(ResolutionError, match="--mpp"):
            plan_tiles(_slide(bounds, mpp), tissue, TilingSettings())


def test_a_stride_that_leaves_gaps_is_refused():
    with pytest.raises(ValueError, match="stride_um"):
        TilingSettings(stride_um=308)
