from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from virtual_stain.geometry import Affine2D
from virtual_stain.labels.raster_map import map_to_ihc
from virtual_stain.registration.transform import DisplacementField, PairTransform


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    shift=st.floats(-3000, 6000),
    scale=st.floats(0.3, 6),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_the_fast_map_is_the_transform(
    rows: int, columns: int, shift: float, scale: float, width: int, height: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    field = DisplacementField((-120.5, 33.25), (411.0, 377.0), rng.normal(0, 30, (rows, columns, 2)).astype(np.float32))
    matrix = np.array([[0.9, -0.2, 50.0], [0.25, 1.1, -70.0], [0, 0, 1]])
    transform = PairTransform(Affine2D("ihc_px0", "he_px0", matrix), field)
    he_from_out = Affine2D.scale_and_shift("he_px0", "out", (scale, scale * 1.01), (shift, -shift / 2))
    x, y = np.meshgrid(np.arange(-1, width - 1) + 0.5, np.arange(-1, height - 1) + 0.5)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    expected = transform.to_ihc(he_from_out.apply(points))
    np.testing.assert_allclose(map_to_ihc(transform, he_from_out, points), expected, atol=1e-7)
    shuffled = rng.permutation(points)
    np.testing.assert_allclose(
        map_to_ihc(transform, he_from_out, shuffled), transform.to_ihc(he_from_out.apply(shuffled)), atol=1e-7
    )


def test_a_turned_window_takes_the_exact_way() -> None:
    field = DisplacementField((0.0, 0.0), (100.0, 100.0), np.ones((3, 3, 2), np.float32) * [[[5]], [[1]], [[0]]])
    transform = PairTransform(Affine2D.identity("ihc_px0", "he_px0"), field)
    turned = Affine2D("he_px0", "out", np.array([[0.0, -1, 90], [1, 0, 4], [0, 0, 1]]))
    x, y = np.meshgrid(np.arange(9.0), np.arange(7.0))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    np.testing.assert_allclose(map_to_ihc(transform, turned, points), transform.to_ihc(turned.apply(points)))
