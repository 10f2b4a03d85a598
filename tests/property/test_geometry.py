import cv2
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from virtual_stain.geometry import Affine2D

numbers = st.floats(-3, 3)


@st.composite
def affines(draw):
    matrix = np.eye(3)
    matrix[:2, :2] = [[draw(numbers), draw(numbers)], [draw(numbers), draw(numbers)]]
    matrix[:2, 2] = [draw(st.floats(-1e4, 1e4)), draw(st.floats(-1e4, 1e4))]
    assume(np.linalg.cond(matrix[:2, :2]) < 1e3)
    assume(abs(np.linalg.det(matrix[:2, :2])) > 1e-2)
    return Affine2D("a", "b", matrix)


points = st.lists(st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)), min_size=1, max_size=5)


@given(affines(), points)
def test_inverse_takes_points_back(transform, pts):
    back = transform.inverse().apply(transform.apply(pts))
    np.testing.assert_allclose(back, pts, atol=1e-5)


@given(affines())
def test_opencv_convention_is_left_as_it_was_entered(transform):
    again = Affine2D.from_cv2("a", "b", transform.to_cv2())
    np.testing.assert_allclose(again.matrix, transform.matrix, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 360), st.booleans(), st.floats(-6, 6), st.floats(-6, 6))
def test_warp_affine_puts_a_blob_where_apply_says(angle, mirror, dx, dy):
    """The door to OpenCV is right to a hundredth of a pixel: measured by the centroid of a warped blob."""
    size = 96
    yy, xx = np.mgrid[:size, :size] + 0.5
    centre = np.array([43.25, 52.75])
    blob = np.exp(-((xx - centre[0]) ** 2 + (yy - centre[1]) ** 2) / (2 * 4.0**2)).astype(np.float32)
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    linear = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = np.array([48 + dx, 48 + dy]) - linear @ centre
    transform = Affine2D("out", "in", matrix)
    warped = cv2.warpAffine(blob, transform.to_cv2(), (size, size), flags=cv2.INTER_LINEAR).astype(np.float64)
    found = np.array([(warped * xx).sum(), (warped * yy).sum()]) / warped.sum()
    # OpenCV rounds the coordinates of its linear warp to 1/32 px
    np.testing.assert_allclose(found, transform.apply(centre), atol=0.03)
