"""Where a pixel size comes from, and what is no pixel size."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.fixtures.slides import memory_slide, write_tiled_tiff
from virtual_stain.errors import ResolutionError
from virtual_stain.slides.resolution import (
    REGISTRATION_RANGE,
    Mpp,
    MppClaim,
    require_mpp,
    resolve_mpp,
    um_per_px_from_tags,
)
from virtual_stain.slides.slide import SlideRef, open_slide

HERE = Path("block7.svs")


def test_the_override_wins_and_contradictions_are_reported():
    found = resolve_mpp(HERE, (0.25, 0.26), [MppClaim(0.5, 0.5, "openslide")])
    assert found.mpp == Mpp(0.25, 0.26, "override")
    assert len(found.warnings) == 1
    assert "0.5 µm/px (openslide)" in found.warnings[0]


def test_sources_in_their_order_and_agreement_is_silent():
    claims = [MppClaim(0.2270, 0.2270, "openslide"), MppClaim(0.2271, 0.2271, "tiff-tags", from_print_tags=True)]
    found = resolve_mpp(HERE, None, claims)
    assert found.mpp == Mpp(0.2270, 0.2270, "openslide")
    assert found.warnings == ()
    assert found.notes == ()


def test_tags_that_contradict_the_scanner_are_a_warning():
    claims = [MppClaim(0.25, 0.25, "openslide"), MppClaim(0.5, 0.5, "tiff-tags")]
    found = resolve_mpp(HERE, None, claims)
    assert found.mpp.x == 0.25
    assert "100% apart" in found.warnings[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -0.25, 0.01, 250.0])
def test_an_unusable_override_is_refused_with_the_option(value):
    with pytest.raises(ResolutionError, match="--mpp") as caught:
        resolve_mpp(HERE, (value, 0.25), [])
    assert "block7.svs" in str(caught.value)
    assert "Received" in caught.value.message


@pytest.mark.parametrize("value", [math.nan, 0.0, -1.0, math.inf])
def test_nonsense_in_a_file_is_noted_and_the_next_source_is_taken(value):
    found = resolve_mpp(HERE, None, [MppClaim(value, 0.25, "openslide"), MppClaim(0.3, 0.3, "tiff-tags")])
    assert found.mpp == Mpp(0.3, 0.3, "tiff-tags")
    assert "openslide" in found.notes[0]


@pytest.mark.parametrize("dpi", [72, 96, 300])
def test_print_resolutions_are_no_pixel_size(dpi):
    value = um_per_px_from_tags(dpi, "inch")
    found = resolve_mpp(HERE, None, [MppClaim(value, value, "tiff-tags", from_print_tags=True)])
    assert found.mpp is None
    assert f"{dpi} dpi" in found.notes[0]


def test_a_scanner_may_say_what_a_printer_says():
    """25400 / 84.667 µm = 300 dpi: from a scanner's own property that is a pixel size."""
    assert resolve_mpp(HERE, None, [MppClaim(84.667, 84.667, "openslide")]).mpp is not None


def test_a_single_axis_serves_both_with_a_warning():
    found = resolve_mpp(HERE, None, [MppClaim(0.25, None, "openslide")])
    assert found.mpp == Mpp(0.25, 0.25, "openslide")
    assert "only x" in found.warnings[0]


def test_axes_are_kept_apart_and_very_different_ones_are_reported():
    found = resolve_mpp(HERE, None, [MppClaim(0.25, 0.251, "openslide")])
    assert (found.mpp.x, found.mpp.y) == (0.25, 0.251)
    assert found.warnings == ()
    assert resolve_mpp(HERE, None, [MppClaim(0.25, 0.5, "openslide")]).warnings


def test_tags_need_a_unit_of_length():
    assert um_per_px_from_tags(40_000, "cm") == pytest.approx(0.25)
    assert um_per_px_from_tags(101_600, "inch") == pytest.approx(0.25)
    assert um_per_px_from_tags(40_000, "none") is None
    assert math.isnan(um_per_px_from_tags(0, "cm"))


def test_stages_refuse_what_they_cannot_use_and_say_what_to_pass():
    import numpy as np

    image = np.full((8, 8, 3), 200, np.uint8)
    with pytest.raises(ResolutionError, match="no pixel size") as caught:
        require_mpp(memory_slide(image, None))
    assert "--mpp" in str(caught.value)
    with pytest.raises(ResolutionError, match=r"0\.05 to 2\.0"):
        require_mpp(memory_slide(image, 8.0))
    assert require_mpp(memory_slide(image, 8.0), REGISTRATION_RANGE).x == 8.0
    assert require_mpp(memory_slide(image, (0.25, 0.5))).y == 0.5
    with pytest.raises(ResolutionError, match="--mpp-he"):
        require_mpp(memory_slide(image, None), option="--mpp-he 0.25")


@pytest.mark.parametrize("mpp", [0.227, (0.25, 0.3), 8.0])
def test_tiff_tags_reach_the_slide_through_openslide(tmp_path, mpp):
    import numpy as np

    path = write_tiled_tiff(tmp_path / "a.tif", np.full((300, 300, 3), 200, np.uint8), mpp)
    with open_slide(SlideRef(path)) as slide:
        x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        assert slide.format == "generic-tiff"
        assert slide.mpp.x == pytest.approx(x, rel=1e-6)
        assert slide.mpp.y == pytest.approx(y, rel=1e-6)
        assert slide.mpp.origin == "openslide"
    with open_slide(SlideRef(path, (0.5, 0.5))) as slide:
        assert slide.mpp.origin == "override"
        assert slide.warnings


def test_a_tiff_without_unit_or_with_72_dpi_has_no_pixel_size(tmp_path):
    import numpy as np
    import tifffile

    image = np.full((300, 300, 3), 200, np.uint8)
    with open_slide(SlideRef(write_tiled_tiff(tmp_path / "a.tif", image, None))) as slide:
        assert slide.mpp is None
    for tile in ({"tile": (256, 256)}, {}):  # through OpenSlide and as a plain image
        tifffile.imwrite(
            tmp_path / "b.tif", image, photometric="rgb", resolution=(72, 72), resolutionunit="INCH", **tile
        )
        with open_slide(SlideRef(tmp_path / "b.tif")) as slide:
            assert slide.mpp is None
            assert "72 dpi" in slide.notes[0]
