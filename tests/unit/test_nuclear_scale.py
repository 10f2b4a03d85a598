"""Nuclei half as wide as any: the pixel size that was told is doubted, with the number."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.fixtures.slides import memory_slide, write_tiled_tiff
from virtual_stain.config.tissue import TissueSettings
from virtual_stain.slides.nuclear_scale import spot_widths
from virtual_stain.slides.slide import SlideRef
from virtual_stain.slides.tissue import examined, find_tissue
from virtual_stain.workflows.slide_info import describe_slide

MPP = 0.5
GLASS, PINK, BLUE = (242, 241, 244), (225, 180, 205), (90, 70, 150)


def section(nucleus_um: float = 7.0) -> np.ndarray:
    """uint8[1400, 1400, 3] at 0.5 µm/px: pink tissue of 0.6 mm with round nuclei, glass around it."""
    rng = np.random.default_rng(0)
    image = np.full((1400, 1400, 3), GLASS, np.uint8)
    image[100:1300, 100:1300] = PINK
    step = 40
    for y in range(120, 1280, step):
        for x in range(120, 1280, step):
            centre = x + int(rng.integers(0, 12)), y + int(rng.integers(0, 12))
            cv2.circle(image, centre, round(nucleus_um / 2 / MPP), BLUE, -1, cv2.LINE_AA)
    noise = rng.normal(0, 3, (*image.shape[:2], 1))
    return np.clip(cv2.GaussianBlur(image, (0, 0), 1.2) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("width_um", [5.0, 7.0, 9.0])
def test_the_width_of_round_nuclei_is_measured(width_um):
    widths = spot_widths([section(width_um)[400:912, 400:912]], MPP)
    assert widths.agree
    assert widths.median == pytest.approx(width_um, rel=0.2)  # steps of the search are 23 %


def test_a_picture_without_nuclei_has_no_width():
    noise = np.random.default_rng(0).normal(200, 3, (512, 512, 1)).repeat(3, axis=2).astype(np.uint8)
    assert spot_widths([noise], MPP) is None
    assert spot_widths([], MPP) is None


@pytest.mark.parametrize(("told_mpp", "doubted"), [(MPP, False), (MPP / 2, True), (MPP * 1.4, False)])
def test_nuclei_half_as_wide_as_any_were_never_told(told_mpp, doubted):
    slide = memory_slide(section(), told_mpp)
    found = [w for w in examined(slide, find_tissue(slide, TissueSettings())).warnings if "nuclei would be about" in w]
    assert bool(found) == doubted
    assert all("3.7 µm" in w and "--mpp" in w for w in found)


def test_the_tissue_is_that_of_a_slide_that_is_not_examined():
    slide = memory_slide(section(), MPP / 2)
    plain = find_tissue(slide, TissueSettings())
    np.testing.assert_array_equal(examined(slide, plain).mask, plain.mask)


def test_info_tells_the_width(tmp_path):
    path = write_tiled_tiff(tmp_path / "a.tif", section(), MPP)
    for override, told in ((None, False), ((MPP / 2, MPP / 2), True)):
        report = describe_slide(SlideRef(path, override), TissueSettings())
        assert any("nuclei would be about" in value for _, value in report.facts) == told
