"""`vstain info`: facts or a reason for every file, and the exit code that goes with it."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.fixtures.slides import memory_slide, write_tiled_tiff
from virtual_stain.cli.main import _run
from virtual_stain.config import TissueSettings
from virtual_stain.geometry import Box
from virtual_stain.slides.slide import SlideRef
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.workflows import slide_info
from virtual_stain.workflows.slide_info import describe_slide, draw_tissue


@pytest.fixture
def rgb():
    """A pink disk of 2.4 mm on glass at 4 µm/px."""
    image = np.full((800, 900, 3), 243, np.uint8)
    cv2.circle(image, (450, 400), 300, (205, 120, 170), -1)
    noise = np.random.default_rng(0).normal(0, 6, image.shape)
    return np.clip(image + noise * (image < 240), 0, 255).astype(np.uint8)


@pytest.fixture
def good(tmp_path, rgb):
    large = cv2.resize(rgb, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    return write_tiled_tiff(tmp_path / "gut (1).tif", large, 2.0, levels=(1, 2), compression="jpeg")


def test_facts_of_a_usable_slide(good, capsys):
    assert _run(["info", str(good)]) == 0
    out = capsys.readouterr().out
    for fact in ("generic-tiff", "1800 × 1600 px (3.60 × 3.20 mm)", "900 × 800", "2 µm/px (openslide)", "mm²"):
        assert fact in out
    area = float(out.split("tissue")[1].split("mm²")[0])
    assert area == pytest.approx(np.pi * 1.2**2, rel=0.05)
    assert "PROBLEM" not in out


def test_a_scan_called_tissue_from_edge_to_edge_is_warned_of(tmp_path, capsys):
    grain = np.random.default_rng(1).normal(1, 0.2, (500, 600, 1))
    pink = np.clip(np.array((205, 120, 170)) * grain, 0, 255).astype(np.uint8)
    large = cv2.resize(pink, None, fx=3, fy=3, interpolation=cv2.INTER_LINEAR)
    scan = write_tiled_tiff(tmp_path / "full.tif", large, 2.0, levels=(1, 2), compression="jpeg")
    Image.fromarray(large).save(tmp_path / "crop.png", dpi=(12700, 12700))  # 2 µm/px
    assert _run(["info", str(scan)]) == 0
    assert "warning     tissue: 100% of the scan is called tissue" in capsys.readouterr().out
    _run(["info", str(tmp_path / "crop.png"), "--mpp", "2"])
    out = capsys.readouterr().out
    assert "100% of the scan" in out
    assert "called tissue" not in out


def test_the_override_is_shown_as_such(good, capsys):
    assert _run(["info", str(good), "--mpp", "1.0,1.1"]) == 0
    out = capsys.readouterr().out
    assert "1 × 1.1 µm/px (override)" in out
    assert "the file also says 2 µm/px" in out


@pytest.mark.parametrize("value", ["nan", "0", "-0.25", "5000", "a", "1,2,3"])
def test_an_unusable_override_is_refused(good, value, capsys):
    assert _run(["info", str(good), "--mpp", value]) in (2, 3)
    assert "Received" in "".join(capsys.readouterr())


def test_a_slide_without_pixel_size_says_what_to_pass(tmp_path, rgb, capsys):
    path = tmp_path / "a.png"
    Image.fromarray(rgb).save(path)
    assert _run(["info", str(path)]) == 3
    out = capsys.readouterr().out
    assert "image/png" in out
    assert "unknown" in out
    assert "--mpp 0.25" in out
    assert "% of the scan" in out
    assert _run(["info", str(path), "--mpp", "1.0"]) == 0


def test_a_coarse_slide_is_for_registration_only(tmp_path, rgb, capsys):
    path = tmp_path / "a.png"
    Image.fromarray(rgb).save(path)
    assert _run(["info", str(path), "--mpp", "4"]) == 0
    assert "vstain register and warp only" in capsys.readouterr().out


def test_fluorescence_and_glass_say_why(tmp_path, capsys):
    dark = np.zeros((300, 300, 3), np.uint8)
    dark[100:200, 100:200, 2] = 90
    assert _run(["info", str(write_tiled_tiff(tmp_path / "dapi.tif", dark, 0.5))]) == 3
    assert "no brightfield tissue" in capsys.readouterr().out
    glass = np.full((300, 300, 3), 240, np.uint8)
    assert _run(["info", str(write_tiled_tiff(tmp_path / "glass.tif", glass, 0.5))]) == 3
    assert "no tissue was found" in capsys.readouterr().out


def test_one_bad_file_does_not_stop_the_others_and_pictures_are_written(good, tmp_path, capsys):
    (tmp_path / "notes.svs").write_text("not a slide" * 50)
    missing = tmp_path / "missing.ndpi"
    code = _run(["info", str(missing), str(tmp_path / "notes.svs"), str(good), str(good), "--out", str(tmp_path / "o")])
    captured = capsys.readouterr()
    assert code == 6
    assert "2 of 4 slides" in captured.err
    assert captured.out.count("PROBLEM") == 2
    names = sorted(p.name for p in (tmp_path / "o").iterdir())
    pictures = [f"gut (1){n}.{kind}.jpg" for n in ("", "-2") for kind in ("overview", "tissue")]
    assert names == sorted([*pictures, "run.json"])
    outcomes = json.loads((tmp_path / "o" / "run.json").read_text())["outcomes"]
    assert [o["ok"] for o in outcomes] == [False, False, True, True]
    assert "no such file" in outcomes[0]["reason"]


def test_the_tissue_picture_darkens_glass_only(rgb):
    found = find_tissue(memory_slide(rgb, 4.0), TissueSettings())
    picture = draw_tissue(found)
    kept = cv2.erode(found.mask.astype(np.uint8), np.ones((5, 5))) > 0
    assert np.array_equal(picture[kept], found.overview[kept])
    assert picture[0, 0].max() < 180


def test_bounds_are_told(monkeypatch, rgb):
    slide = memory_slide(rgb, 1.0, Box(100, 50, 700, 700))
    monkeypatch.setattr(slide_info, "open_slide", lambda ref: slide)
    report = describe_slide(SlideRef(slide.path), TissueSettings())
    assert ("scanned", "700 × 700 px at x=100 y=50") in report.facts


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_an_error(good, tmp_path, capsys):
    (tmp_path / "o").mkdir(mode=0o500)
    assert _run(["info", str(good), "--out", str(tmp_path / "o")]) == 3
    assert "permission denied" in capsys.readouterr().err


def test_a_file_in_the_way_of_the_folder_is_an_error(good, tmp_path, capsys):
    (tmp_path / "o").write_text("")
    assert _run(["info", str(good), "--out", str(tmp_path / "o")]) == 3
    assert "cannot be written" in capsys.readouterr().err


def test_a_folder_stands_for_its_slides(good, capsys):
    (good.parent / "notes.txt").write_text("no slide")
    assert _run(["info", str(good.parent)]) == 0
    out, err = capsys.readouterr()
    assert str(good) in out
    assert "notes.txt" in err


def test_a_slide_that_was_cut_off_says_copy_it_again(good, capsys):
    good.write_bytes(good.read_bytes()[:60])
    assert _run(["info", str(good)]) == 3
    assert "copy it again" in capsys.readouterr().out
