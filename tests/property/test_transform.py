"""PairTransform: there and back, for any displacement that does not fold."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from virtual_stain.geometry import Affine2D
from virtual_stain.registration.align import field_in_px0
from virtual_stain.registration.field import slope
from virtual_stain.registration.transform import DisplacementField, PairTransform

angles = st.floats(-180, 180)
scales = st.floats(0.3, 3)
shifts = st.floats(-1e4, 1e4)


def affine(angle: float, sx: float, sy: float, mirror: bool, x: float, y: float) -> Affine2D:
    a = np.deg2rad(angle)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    matrix = np.eye(3)
    matrix[:2, :2] = turn @ np.diag([-sx if mirror else sx, sy])
    matrix[:2, 2] = x, y
    return Affine2D("ihc_px0", "he_px0", matrix)


def bumpy_field(seed: int, spacing: float, steepness: float) -> DisplacementField:
    """A random field whose slope is exactly `steepness`."""
    values = np.random.default_rng(seed).normal(size=(5, 6, 2)).astype(np.float32)
    rough = DisplacementField((-20.0, 35.0), (spacing, 1.2 * spacing), values)
    scaled = (values * (steepness / slope(rough))).astype(np.float32)
    return DisplacementField(rough.origin_px0, rough.spacing_px0, scaled)


@settings(max_examples=60, deadline=None)
@given(angles, scales, scales, st.booleans(), shifts, shifts, st.integers(0, 1000), st.floats(0.01, 0.75))
def test_there_and_back(
    angle: float, sx: float, sy: float, mirror: bool, x: float, y: float, seed: int, steepness: float
) -> None:
    field = bumpy_field(seed, 300.0, steepness)
    transform = PairTransform(affine(angle, sx, sy, mirror, x, y), field)
    points = np.random.default_rng(seed).uniform(-300, 2000, (40, 2))  # also beyond the field's nodes
    back = transform.to_he(transform.to_ihc(points))
    assert np.abs(back - points).max() < 0.5
    assert np.abs(back - points).max() < 0.02


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 0.79))
def test_slope_below_one_never_folds(seed: int, steepness: float) -> None:
    """Small triangles keep their orientation everywhere: the Jacobian stays positive."""
    field = bumpy_field(seed, 100.0, steepness)
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-100, 700, (200, 2))
    triangle = (corner, corner + np.array([0.5, 0.0]), corner + np.array([0.0, 0.5]))
    moved = [p + field.at(p) for p in triangle]
    a, b = moved[1] - moved[0], moved[2] - moved[0]
    assert (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] > 0).all()


@settings(max_examples=30, deadline=None)
@given(angles, scales, scales, st.booleans(), shifts, shifts, st.floats(1, 500))
def test_local_affine_of_an_affine_is_itself(
    angle: float, sx: float, sy: float, mirror: bool, x: float, y: float, reach: float
) -> None:
    whole = affine(angle, sx, sy, mirror, x, y)
    local = PairTransform(whole).local_affine((123.0, 456.0), reach)
    assert np.abs(local.apply([[123.0, 456.0]]) - whole.apply([[123.0, 456.0]])).max() < 1e-3
    assert np.abs(local.matrix[:2, :2] - whole.matrix[:2, :2]).max() < 1e-5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(0.2, 30), st.floats(0.2, 30), shifts, shifts)
def test_field_of_working_pixels_means_the_same_in_level_0_pixels(
    seed: int, sx: float, sy: float, x: float, y: float
) -> None:
    """field_in_px0: moving a working point and then mapping it is mapping it and then moving it."""
    field = bumpy_field(seed, 32.0, 0.3)
    px0_from_work = Affine2D.scale_and_shift("he_px0", "work", (sx, sy), (x, y))
    in_px0 = field_in_px0(field, px0_from_work)
    assert in_px0 is not None
    points = np.random.default_rng(seed).uniform(-50, 250, (20, 2))
    one = px0_from_work.apply(points + field.at(points))
    other = px0_from_work.apply(points)
    assert np.abs(one - (other + in_px0.at(other))).max() < 1e-3 * max(sx, sy)
