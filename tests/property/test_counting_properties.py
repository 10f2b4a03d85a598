from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.contours import Rays, on_grid, shapes, trace
from virtual_stain.counting.optical_density import optical_density, separate
from virtual_stain.counting.readings import read_cells
from virtual_stain.counting.region import PolygonRegion
from virtual_stain.counting.resample import AreaResampler
from virtual_stain.counting.vectors import unit

SETTINGS = CountingSettings()


@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=60), st.floats(0.05, 0.3))
def test_readings_stay_in_their_ranges(rows: list[tuple[float, bool]], threshold: float) -> None:
    od = np.array([r[0] for r in rows], np.float32)
    kind = np.where(od >= threshold, CellClass.POSITIVE, CellClass.NEGATIVE).astype(np.uint8)
    tumour = np.array([r[1] for r in rows], np.bool_)
    cells = Cells(np.zeros((len(od), 2)), kind, tumour, od, np.ones(len(od), np.float32))
    for tumour_only in (True, False):
        value = read_cells(cells, SETTINGS, tumour_only=tumour_only)
        total = int(tumour.sum()) if tumour_only else len(od)
        assert value.positive + value.negative == total
        assert sum(value.by_intensity) == value.positive
        assert (value.ratio is None) == (value.h_score is None) == (value.allred is None) == (total == 0)
        if total:
            assert value.ratio is not None
            assert value.h_score is not None
            assert 100 * value.ratio - 1e-6 <= value.h_score <= 300 * value.ratio + 1e-6
            assert value.allred in (0, 2, 3, 4, 5, 6, 7, 8)
            assert (value.allred == 0) == (value.positive == 0)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 0.75), st.integers(20, 90), st.integers(20, 90), st.integers(0, 2**32 - 1))
def test_any_window_at_the_period_meets_the_same_pixels(mpp: float, width: int, height: int, seed: int) -> None:
    shrink = AreaResampler.towards((mpp, mpp), 0.5)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    whole, (p, _), q = shrink(image), shrink.period, shrink.x.denominator
    k, rows = max(0, width // p - 2), min(height, 4 * p)
    part = shrink(image[:rows, k * p :])
    inner = min(part.shape[0], rows * q // p), part.shape[1]
    assert np.array_equal(part[: inner[0]], whole[: inner[0], k * q : k * q + inner[1]])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2), st.integers(0, 2**32 - 1))
def test_unmixing_inverts_mixing(amounts: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    h, d = unit((0.7 + rng.uniform(-0.1, 0.1), 0.6, 0.3)), unit((0.3, 0.55, 0.75 + rng.uniform(-0.1, 0.1)))
    density = (amounts[0] * np.array(h) + amounts[1] * np.array(d)).astype(np.float32)[None, None]
    parts = separate(density, h, d)
    assert np.allclose([parts[0][0, 0], parts[1][0, 0], parts[2][0, 0]], [*amounts, 0], atol=1e-4)


@given(st.integers(0, 255), st.integers(150, 255))
def test_darker_is_denser(level: int, glass: int) -> None:
    background = (float(glass),) * 3
    pixels = np.array([[[level] * 3, [min(255, level + 1)] * 3]], np.uint8)
    density = optical_density(pixels, (background[0], background[1], background[2]))
    assert (density[0, 0] >= density[0, 1]).all()
    assert np.isfinite(density).all()


@settings(max_examples=40, deadline=None)
@given(st.floats(2, 7), st.floats(0.5, 1), st.floats(0, 3.2), st.floats(-5, 5), st.floats(-5, 5))
def test_the_outline_of_an_ellipse_is_found_from_a_point_inside(
    radius_um: float, flatness: float, turn: float, x0: float, y0: float
) -> None:
    mpp = 0.5
    yy, xx = np.mgrid[:81, :81] - 40.0
    u, v = xx * np.cos(turn) + yy * np.sin(turn), yy * np.cos(turn) - xx * np.sin(turn)
    distance = np.hypot(u, v / flatness) * mpp - radius_um
    field = np.clip(0.5 - distance, 0, 1).astype(np.float32)
    start = on_grid(0.08 * radius_um * np.array([[x0, y0]]) * flatness) + 40
    found = shapes(trace(field, start, mpp, Rays.between(1.25, 9, 0.5, 32)).corners(mpp))
    assert np.abs(start[0] + found.middle[0] - 40).max() * mpp < 0.6
    assert float(found.area_px[0]) * mpp**2 == pytest.approx(np.pi * radius_um**2 * flatness, rel=0.2, abs=2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 15), st.floats(-5, 15)), min_size=1, max_size=20))
def test_a_square_contains_what_lies_in_it(points: list[tuple[float, float]]) -> None:
    square = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0], [0.0, 10.0]])
    xy = np.array(points)
    inside = PolygonRegion(shapely.Polygon(square)).contains(xy)
    border = (np.isin(xy, (0.0, 10.0))).any(axis=1)
    expected = ((xy > 0) & (xy < 10)).all(axis=1)
    assert np.array_equal(inside[~border], expected[~border])
