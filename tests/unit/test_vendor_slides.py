"""Formats of scanners, from files written by what the formats say: Philips TIFF, Ventana BIF, MIRAX."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fixtures import vendor_slides
from virtual_stain.config.tissue import TissueSettings
from virtual_stain.errors import SlideError
from virtual_stain.geometry import Box, Size
from virtual_stain.phantom.ndpi import write_ndpi
from virtual_stain.slides.fast_source import FastSource
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue

MPP, HEIGHT, WIDTH = 1.0, 700, 900
WRITERS = {
    "philips": ("a.tiff", vendor_slides.write_philips),
    "ventana": ("a.bif", vendor_slides.write_ventana),
    "mirax": ("a.mrxs", vendor_slides.write_mirax),
}
GLASS, PINK = (240, 239, 241), (220, 170, 200)
TISSUE = np.s_[120:600, 150:800]
TISSUE_MM2 = 480 * 650 / 1e6


@pytest.fixture(scope="module")
def rgb():
    """uint8[700, 900, 3]: a piece of textured tissue on glass."""
    noise = np.random.default_rng(0).normal(0, 1, (HEIGHT, WIDTH, 1))
    image = np.full((HEIGHT, WIDTH, 3), GLASS, np.float32) + noise
    image[TISSUE] = PINK + 14 * noise[TISSUE]
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=WRITERS)
def slide(request, rgb, tmp_path_factory):
    name, write = WRITERS[request.param]
    with open_slide(SlideRef(write(tmp_path_factory.mktemp("vendor") / name, rgb, MPP))) as opened:
        assert opened.format == request.param
        yield opened


def test_pixels_lie_where_the_scanner_took_them(slide, rgb):
    x, y = slide.bounds.x, slide.bounds.y
    assert np.abs(slide.read_level(0, x, y, (WIDTH, HEIGHT)).astype(int) - rgb).mean() < 4
    for level, factor in ((1, 2), (2, 4)):
        expected = vendor_slides.smaller(rgb, factor)
        seen = slide.read_level(level, x, y, (WIDTH // factor, HEIGHT // factor))
        assert np.abs(seen.astype(int) - expected).mean() < 4


def test_sizes_scales_and_pixel_size_are_those_of_the_format(slide):
    assert (slide.mpp.x, slide.mpp.y) == pytest.approx((MPP, MPP))
    assert [round(s[0], 6) for s in slide.level_scales] == [1, 2, 4]
    assert slide.bounds.width == 1024  # whole tiles
    assert not slide.warnings


def test_the_tissue_has_its_area(slide):
    tissue = find_tissue(slide, TissueSettings())
    assert tissue.area_um2(slide.mpp) / 1e6 == pytest.approx(TISSUE_MM2, rel=0.06)
    assert not tissue.warnings


def test_a_mirax_slide_has_bounds_within_its_grid(rgb, tmp_path):
    with open_slide(SlideRef(vendor_slides.write_mirax(tmp_path / "a.mrxs", rgb, MPP))) as slide:
        assert slide.size == Size(2048, 2048)
        assert slide.bounds == Box(512, 512, 1024, 768)


def test_what_a_scanner_left_out_within_the_tissue_is_unknown_and_told(rgb, tmp_path):
    """Tile 5 lies within the tissue: it was glass, without a word."""
    with open_slide(
        SlideRef(vendor_slides.write_mirax(tmp_path / "a.mrxs", rgb, MPP, levels=1, missing=(5,)))
    ) as slide:
        tissue = find_tissue(slide, TissueSettings())
    assert tissue.unknown.mean() == pytest.approx(1 / 12, rel=0.1)
    assert any("of the tissue" in w for w in tissue.warnings)
    assert not (tissue.mask & tissue.unknown).any()


def test_glass_that_a_scanner_left_out_is_unknown_and_no_warning(rgb, tmp_path):
    glass = np.full((HEIGHT, 256, 3), GLASS, np.uint8)
    image = np.hstack([rgb[:, :768], np.tile(glass, (1, 2, 1))])
    path = vendor_slides.write_mirax(tmp_path / "a.mrxs", image, MPP, levels=1, missing=(4, 9))
    with open_slide(SlideRef(path)) as slide:
        tissue = find_tissue(slide, TissueSettings())
    assert tissue.unknown.any()
    assert not tissue.warnings


def test_a_mirax_slide_without_its_data_is_refused(rgb, tmp_path):
    path = vendor_slides.write_mirax(tmp_path / "a.mrxs", rgb, MPP)
    (tmp_path / "a" / "Data0000.dat").unlink()
    with pytest.raises(SlideError), open_slide(SlideRef(path)) as slide:
        slide.overview(mpp=8.0)


class Strips:
    """A picture as the phantoms' writers take it."""

    def __init__(self, rgb):
        self.rgb, self.size, self.mpp = rgb, Size(rgb.shape[1], rgb.shape[0]), MPP

    def strips(self, rows):
        for top in range(0, self.size.height, rows):
            yield self.rgb[top : top + rows]


def test_an_ndpi_beyond_4_gb_has_the_pixels_of_the_smaller_one_by_both_readers(rgb, tmp_path):
    """A sparse file: its 32-bit fields keep the low halves of places."""
    write_ndpi(tmp_path / "a.ndpi", Strips(rgb[:696, :896]), 90)
    large = vendor_slides.ndpi_beyond_4_gb(tmp_path / "a.ndpi", tmp_path / "b.ndpi")
    assert large.stat().st_size > 2**32
    with open_slide(SlideRef(tmp_path / "a.ndpi")) as small:
        expected = small.read_level(0, 0, 0, small.size)
    for fast in (True, False):
        with open_slide(SlideRef(large), fast=fast) as slide:
            assert slide.format == "hamamatsu"
            assert isinstance(slide._source, FastSource) == fast
            np.testing.assert_array_equal(slide.read_level(0, 0, 0, slide.size), expected)
