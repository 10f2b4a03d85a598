from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from virtual_stain.config import CountingSettings
from virtual_stain.counting.resample import AreaResampler
from virtual_stain.counting.windows import plan_windows
from virtual_stain.geometry import Box, Size
from virtual_stain.slides.resolution import Mpp


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


@pytest.mark.parametrize("mpp", [0.2, 0.23, 0.25, 0.346, 0.46, 0.5])
def test_windows_lie_a_whole_number_of_working_pixels_apart(mpp: float) -> None:
    size = Size(40_000, 40_000)
    slide = SimpleNamespace(
        path=Path("a.svs"),
        mpp=Mpp(mpp, mpp, "override"),
        bounds=Box(0, 0, size.width, size.height),
        level_scales=((1.0, 1.0),),
        level_sizes=(size,),
    )
    settings = CountingSettings()
    plan = plan_windows(slide, None, settings)  # type: ignore[arg-type]
    work = AreaResampler.towards(plan.mpp, settings.work_mpp).x
    starts = {window.core_x - plan.margin[0] for window in plan.windows if window.core_x}
    assert len(starts) > 10
    assert {Fraction(start) / work % 1 for start in starts} == {0}
