"""Real slide files: the right answer, or a refusal that names the reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.models import TinyPredictor
from tests.fixtures.slides import rewrap_as_tiled_tiff
from virtual_stain.cli.main import _run
from virtual_stain.config import ScoringSettings, TissueSettings
from virtual_stain.geometry import Affine2D, Box, Size
from virtual_stain.markers import Marker
from virtual_stain.scoring.score import score_slide
from virtual_stain.slides.fast_source import FastSource
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.slides.window import read_warped_window, read_window

DATA = os.environ.get("VSTAIN_REALDATA")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(DATA is None, reason="VSTAIN_REALDATA is unset: no real slides to test on"),
]
ROOT = Path(DATA or ".")

FACTS = {
    "cmu-1-small-region.svs": (0, ("aperio", "2220 × 2967 px", "0.499 µm/px (openslide)", "mm²")),
    "tcga-cr-7395-01a-01-ts1.svs": (3, ("aperio", "4443 × 3567", "2221 × 1783 (1:2)", "unknown", "--mpp 0.25")),
    "test3-DAPI-2-_387_.ndpi": (3, ("hamamatsu", "0.2282 µm/px", "no brightfield tissue")),
    "smalltif.tif": (3, ("uint16",)),
    "small_dicom.dcm": (3, ("dicom", "Couldn't get image flavor")),
    "small_HE_levels.tiff": (3, ("generic-tiff", "72 dpi", "--mpp 0.25")),
    "sm_image.dcm": (3, ("dicom", "50 × 50 px", "no tissue")),
}


@pytest.mark.parametrize("name", FACTS)
def test_info_on_every_small_slide(name, tmp_path, capsys):
    code, facts = FACTS[name]
    assert _run(["info", str(ROOT / "wsi_small" / name), "--out", str(tmp_path)]) == code
    out = capsys.readouterr().out
    for fact in facts:
        assert fact in out
    assert ("PROBLEM" in out) == (code != 0)
    assert not [p for p in tmp_path.iterdir() if "label" in p.name or "macro" in p.name]


def test_info_on_all_of_them_at_once(capsys):
    assert _run(["info", *(str(ROOT / "wsi_small" / name) for name in FACTS)]) == 6
    assert "6 of 7 slides" in capsys.readouterr().err


def test_a_missing_pixel_size_can_be_given(capsys):
    assert _run(["info", str(ROOT / "wsi_small" / "tcga-cr-7395-01a-01-ts1.svs"), "--mpp", "0.5"]) == 0
    assert "mm²" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "mpp", "side"), [("OS-2-ndpi", 0.2271, 2202), ("OS-2-vsi", 0.34605, 1445)])
def test_ome_tiff_and_its_rewrapped_copy_are_the_same_slide(name, mpp, side, tmp_path):
    source = ROOT / "qupath_os1_os2_ometiff" / f"{name}.ome.tif"
    with open_slide(SlideRef(source)) as plain:
        assert plain.format == "image/tiff"
        assert plain.mpp.origin == "ome-xml"
        assert plain.mpp.x == pytest.approx(mpp, rel=1e-4)
        assert plain.size == Size(side, side)
        x, y = plain.mpp.x, plain.mpp.y
        with open_slide(SlideRef(rewrap_as_tiled_tiff(source, tmp_path / "a.tif", (x, y)))) as tiled:
            assert tiled.format == "generic-tiff"
            assert tiled.level_count > 2
            assert (tiled.mpp.x, tiled.mpp.y) == pytest.approx((x, y), rel=1e-6)
            size = Size(300, 200)
            assert np.array_equal(tiled.read_level(0, 500, 700, size), plain.read_level(0, 500, 700, size))
            box = Box(33.4, 57.8, 1153.3, 1153.3)
            difference = read_window(tiled, box, Size(256, 256)).astype(int) - read_window(plain, box, Size(256, 256))
            assert np.abs(difference).mean() < 3


def test_the_half_size_level_of_a_real_slide_lies_where_its_scale_says():
    """Aperio halved 4443 px to 2221: with a scale of 4443 / 2221 the far end would be 0.4 px off (measured)."""
    with open_slide(SlideRef(ROOT / "wsi_small" / "tcga-cr-7395-01a-01-ts1.svs")) as slide:
        assert slide.level_scales[1] == (2.0, 2.0)
        box = Box(3500.0, 2700.0, 900.0, 800.0)
        half = read_window(slide, box, Size(450, 400))  # from level 1
        full = read_window(slide, box, Size(900, 800)).reshape(400, 2, 450, 2, 3).mean(axis=(1, 3))  # from level 0
        error = {}
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                moved = np.roll(half, (dy, dx), axis=(0, 1)).astype(float)
                error[dx, dy] = np.abs(moved - full)[4:-4, 4:-4].mean()
        assert min(error, key=error.get) == (0, 0)
        assert error[0, 0] < 4
        # the parabola through the errors has its minimum within 0.1 px
        for lower, upper in (((-1, 0), (1, 0)), ((0, -1), (0, 1))):
            a, b, c = error[lower] ** 2, error[0, 0] ** 2, error[upper] ** 2
            assert abs((a - c) / (2 * (a - 2 * b + c))) < 0.1


def test_a_turned_window_of_a_real_slide_shows_the_same_tissue():
    with open_slide(SlideRef(ROOT / "wsi_small" / "cmu-1-small-region.svs")) as slide:
        box = Box(600.0, 900.0, 512.0, 512.0)
        upright = read_window(slide, box, Size(512, 512))
        turn = Affine2D("px0", "out", [[0, 1, 600], [-1, 0, 900 + 512], [0, 0, 1]])
        turned, valid = read_warped_window(slide, turn, Size(512, 512))
        assert valid.all()
        assert np.array_equal(np.rot90(turned, 1), upright)


def test_a_truncated_real_slide_is_refused(tmp_path, capsys):
    data = (ROOT / "wsi_small" / "cmu-1-small-region.svs").read_bytes()
    for part in (0.1, 0.5, 0.9):
        path = tmp_path / f"cut{part}.svs"
        path.write_bytes(data[: int(len(data) * part)])
        assert _run(["info", str(path)]) == 3
        out = capsys.readouterr().out
        assert "PROBLEM" in out
        assert path.name in out


@pytest.mark.parametrize("name", ["cmu-1-small-region.svs", "test3-DAPI-2-_387_.ndpi", "small_HE_levels.tiff"])
def test_the_fast_reader_gives_openslides_pixels(name):
    path = ROOT / "wsi_small" / name
    with open_slide(SlideRef(path)) as fast, open_slide(SlideRef(path), fast=False) as slow:
        assert isinstance(fast._source, FastSource)
        for level, size in enumerate(slow.level_sizes):
            for x, y in ((0, 0), (size.width // 3, size.height // 2), (size.width - 90, size.height - 70), (-9, -9)):
                a, b = (s.read_patch(level, x, y, Size(257, 181)).image for s in (fast, slow))
                np.testing.assert_array_equal(a, b)
        if name.endswith((".svs", ".ndpi")):
            assert fast._source.cache.decoded > 0


def test_one_tissue_in_two_formats_has_one_area():
    """The DICOM's frames are YCbCr, its header says RGB: its tissue was 1.05 mm² instead of 0.70."""
    areas = []
    for name in ("dicom_pyramid/level-0-frames-0-30.dcm", "wsi_small/cmu-1-small-region.svs"):
        with open_slide(SlideRef(ROOT / name)) as slide:
            areas.append(find_tissue(slide, TissueSettings()).area_um2(slide.mpp))
    assert areas[0] == pytest.approx(areas[1], rel=0.005)


def test_one_tissue_in_two_formats_has_the_same_pixels():
    images = []
    for name in ("dicom_pyramid/level-0-frames-0-30.dcm", "wsi_small/cmu-1-small-region.svs"):
        with open_slide(SlideRef(ROOT / name)) as slide:
            images.append(slide.read_level(0, 500, 500, Size(1000, 1000)).astype(int))
    assert np.abs(images[0] - images[1]).mean() < 6  # one of them was compressed twice
    assert np.abs((images[0] - images[1]).mean(axis=(0, 1))).max() < 1


def test_one_tissue_in_two_formats_has_the_same_scores():
    """One of them was compressed twice: its pixels differ by 6 levels on average, a tile's reading by 0.005 at most."""
    found = []
    for name in ("dicom_pyramid/level-0-frames-0-30.dcm", "wsi_small/cmu-1-small-region.svs"):
        with open_slide(SlideRef(ROOT / name)) as slide:
            score = score_slide(slide, TinyPredictor(), ScoringSettings(), TissueSettings())
        found.append({(t.col, t.row): v for t, v in zip(score.tiles, score.markers[Marker.KI67].value, strict=True)})
    common = sorted(set(found[0]) & set(found[1]))
    assert len(common) > 0.98 * max(map(len, found))
    values = np.array([[f[place] for place in common] for f in found])
    assert np.abs(values[0] - values[1]).max() <= 0.005
    assert abs(values[0].mean() - values[1].mean()) < 0.002
