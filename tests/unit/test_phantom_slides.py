"""Phantom slides open in OpenSlide like real ones, with the right pixel size and the pixels that were rendered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest

from tests.fixtures.phantoms import tiny_pair
from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.errors import OutputError
from virtual_stain.geometry import Size
from virtual_stain.phantom import pyramid
from virtual_stain.phantom.cohort import write_slide
from virtual_stain.phantom.ndpi import restart_interval, write_ndpi
from virtual_stain.phantom.pair import make_pair

SETTINGS = PhantomSettings(size_mm=0.4, margin_mm=0.06, seed=3)


@pytest.fixture(scope="module")
def scene():
    return make_pair("p001", 0, SETTINGS).ihc


@pytest.mark.parametrize(("kind", "vendor"), [("tiff", "generic-tiff"), ("svs", "aperio"), ("ndpi", "hamamatsu")])
def test_openslide_recognizes_the_format_and_reads_the_rendered_pixels(tmp_path: Path, scene, kind, vendor) -> None:
    path = tmp_path / f"µ slide.{kind}"  # spaces and Unicode in a path are normal
    write_slide(path, scene, kind, 90)
    assert openslide.OpenSlide.detect_format(path) == vendor
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (scene.size.width, scene.size.height)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.46, abs=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.46, abs=1e-6)
        assert 4.0 in slide.level_downsamples
        read = np.asarray(slide.read_region((300, 260), 0, (400, 300)))[..., :3].astype(int)
        rendered = scene.block(300, 260, 400, 300).astype(int)
        assert np.abs(read - rendered).mean() < 2.5  # JPEG
        small = np.asarray(slide.read_region((0, 0), slide.level_downsamples.index(4.0), (64, 64)))[..., :3]
        large = np.asarray(slide.read_region((0, 0), 0, (256, 256)))[..., :3].astype(float)
        assert np.abs(small - large.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))).mean() < 2.5


def test_a_slide_beyond_the_classic_limit_becomes_a_bigtiff(tmp_path: Path, scene, monkeypatch) -> None:
    monkeypatch.setattr(pyramid, "needs_big", lambda size: True)
    write_slide(tmp_path / "big.tiff", scene, "tiff", 85)
    assert (tmp_path / "big.tiff").read_bytes()[:4] == b"II\x2b\0"
    with openslide.OpenSlide(tmp_path / "big.tiff") as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.46, abs=1e-6)
        assert np.asarray(slide.read_region((200, 200), 0, (64, 64)))[..., :3].std() > 0


def test_whole_slides_are_large_enough_to_need_bigtiff_only_when_they_are() -> None:
    assert not pyramid.needs_big(Size(20_000, 20_000))
    assert pyramid.needs_big(Size(60_000, 60_000))


def test_an_ndpi_that_one_jpeg_cannot_hold_is_refused(tmp_path: Path) -> None:
    class Huge:
        size = Size(70_016, 64)
        mpp = 0.25

        def strips(self, rows: int):
            raise AssertionError("must be refused before anything is rendered")

    with pytest.raises(OutputError, match="65500"):
        write_ndpi(tmp_path / "x.ndpi", Huge(), 80)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("width", [8, 64, 4096, 4160, 20_032, 1237])
def test_restart_intervals_divide_the_row(width: int) -> None:
    blocks = -(-width // 8)
    assert blocks % restart_interval(width) == 0
    assert 1 <= restart_interval(width) <= 512


def test_a_failed_render_leaves_no_slide_behind(tmp_path: Path) -> None:
    class Failing:
        size = Size(1024, 1024)
        mpp = 0.5

        def strips(self, rows: int):
            yield np.full((512, 1024, 3), 200, np.uint8)
            raise RuntimeError("power cut")

    for kind in ("tiff", "ndpi"):
        with pytest.raises(RuntimeError, match="power cut"):
            write_slide(tmp_path / f"s.{kind}", Failing(), kind, 80)
    assert list(tmp_path.iterdir()) == []


def test_slides_of_a_pair_differ_in_pixel_size_and_canvas(tmp_path: Path) -> None:
    pair = tiny_pair(tmp_path, size_mm=0.4, he_mpp=1.0, ihc_mpp=0.8)
    with openslide.OpenSlide(pair.he) as he, openslide.OpenSlide(pair.ihc) as ihc:
        assert float(he.properties["openslide.mpp-x"]) == pytest.approx(1.0, abs=1e-6)
        assert float(ihc.properties["openslide.mpp-x"]) == pytest.approx(0.8, abs=1e-6)
        assert he.dimensions != ihc.dimensions
