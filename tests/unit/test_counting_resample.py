from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from virtual_stain.counting.resample import AreaResampler


def test_the_working_pixel_size_is_close_to_the_wanted_one() -> None:
    for mpp in (0.1, 0.2, 0.2201, 0.227, 0.25, 0.2738, 0.3, 0.346, 0.4, 0.4990):
        factor = AreaResampler.towards((mpp, mpp), 0.5).factor
        assert factor[0] * mpp == pytest.approx(0.5, rel=0.12)


def test_coarse_pixels_are_never_made_smaller() -> None:
    assert AreaResampler.towards((0.6, 0.5), 0.5) == AreaResampler(Fraction(1), Fraction(1))


def test_pixels_far_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected pixels of at least"):
        AreaResampler.towards((0.005, 0.005), 0.5)


def test_averages_keep_the_mean_and_the_place() -> None:
    image = np.zeros((30, 35, 3), np.uint8)
    image[10:15, 20:25] = 250
    out = AreaResampler(Fraction(5, 3), Fraction(5, 3))(image)
    assert out.shape == (18, 21, 3)
    assert out.mean() == pytest.approx(image.mean(), rel=1e-6)
    assert (out[6:9, 12:15] == 250).all()
    assert np.count_nonzero(out[..., 0]) == 9


@pytest.mark.parametrize("ratio", [Fraction(2), Fraction(5, 3), Fraction(11, 5), Fraction(1)])
def test_a_window_at_a_multiple_of_the_period_is_equal_to_the_last_bit(ratio: Fraction) -> None:
    image = np.random.default_rng(0).integers(0, 256, (220, 330, 3)).astype(np.uint8)
    shrink = AreaResampler(ratio, ratio)
    p, q = ratio.numerator, ratio.denominator
    whole = shrink(image)
    part = shrink(image[2 * p : 12 * p, 5 * p : 19 * p])
    assert np.array_equal(part, whole[2 * q : 12 * q, 5 * q : 19 * q])


def test_the_axes_are_kept_apart() -> None:
    shrink = AreaResampler.towards((0.25, 0.5), 0.5)
    assert shrink.factor == (2.0, 1.0)
    assert shrink(np.zeros((10, 10, 3), np.uint8)).shape == (10, 5, 3)
