import numpy as np
import pytest

from virtual_stain.geometry import Affine2D, Box, Size


def test_boxes_are_half_open_and_intersect_only_where_they_share_area():
    a = Box(0, 0, 10, 10)
    assert a.intersection(Box(10, 0, 5, 5)) is None
    assert a.intersection(Box(9.5, 9, 5, 5)) == Box(9.5, 9, 0.5, 1)
    assert a.contains(Box(0, 0, 10, 10))
    assert not a.contains(Box(0, 0, 10.001, 10))


@pytest.mark.parametrize("values", [(0, 0, 0, 1), (0, 0, -1, 1), (float("nan"), 0, 1, 1), (0, 0, float("inf"), 1)])
def test_a_box_without_area_or_place_is_refused(values):
    with pytest.raises(ValueError, match="Received"):
        Box(*values)


def test_a_size_without_pixels_is_refused():
    with pytest.raises(ValueError, match="0 × 5"):
        Size(0, 5)


def test_transforms_compose_only_where_their_frames_meet():
    ihc_from_he = Affine2D.scale_and_shift("ihc_px0", "he_px0", (2, 2), (3, 4))
    he_from_ov = Affine2D.scale_and_shift("he_px0", "he_ov", (32, 32))
    assert (ihc_from_he @ he_from_ov).apply([1, 1]).tolist() == [67, 68]
    with pytest.raises(ValueError, match="Expected transforms that meet"):
        he_from_ov @ ihc_from_he


@pytest.mark.parametrize(
    "matrix", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.eye(2), np.array([[1, 0, 0], [2, 0, 0], [0, 0, 1]])]
)
def test_a_matrix_that_is_no_affine_transform_is_refused(matrix):
    with pytest.raises(ValueError, match="matrix"):
        Affine2D("a", "b", matrix)


def test_cv2_puts_the_centre_of_the_first_pixel_at_zero():
    # a 32× overview: its first pixel's centre lies at level-0 coordinate 16, not 0
    px0_from_ov = Affine2D.scale_and_shift("px0", "ov", (32, 32))
    centre_cv2 = px0_from_ov.to_cv2() @ [0, 0, 1]
    assert centre_cv2.tolist() == [15.5, 15.5]  # = level-0 index, i.e. 16 with centres at + 0.5


def test_rotation_and_mirror_are_told_apart():
    angle = np.deg2rad(37)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = 1.5 * linear
    turned = Affine2D("a", "b", matrix)
    assert turned.rotation_deg == pytest.approx(37)
    assert not turned.mirrored
    assert turned.scales == pytest.approx((1.5, 1.5))
    matrix[:2, :2] = linear @ np.diag([-1, 1])
    assert Affine2D("a", "b", matrix).mirrored
    assert Affine2D("a", "b", matrix).rotation_deg == pytest.approx(37)
