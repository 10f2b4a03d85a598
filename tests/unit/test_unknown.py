"""What no camera took is neither glass nor tissue; and what a rule takes away from the tissue is told."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.fixtures.counting import FieldStyle, stained_field
from tests.fixtures.slides import memory_slide, write_tiled_tiff
from virtual_stain.config import Config, TissueSettings
from virtual_stain.errors import SlideError
from virtual_stain.geometry import Box
from virtual_stain.markers import Marker
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.workflows.count_slide import CountRequest, count_slide
from virtual_stain.workflows.slide_info import describe_slide, draw_tissue

SETTINGS = TissueSettings()
MPP = 8.0
PINK = (0.10, 0.35, 0.16)


def section(height=400, width=500, where=None, od=PINK, grain=0.25, seed=0):
    """Textured tissue on glass, uint8[H, W, 3] at 8 µm/px; an ellipse unless `where` says otherwise."""
    rng = np.random.default_rng(seed)
    if where is None:
        y, x = np.mgrid[:height, :width]
        where = ((x / width - 0.5) / 0.36) ** 2 + ((y / height - 0.5) / 0.36) ** 2 < 1
    coarse = rng.normal(0, 1, (height // 2 + 1, width // 2 + 1)).astype(np.float32)
    texture = 1 + grain * cv2.resize(coarse, (width, height))
    image = 241 * 10 ** -(np.asarray(od) * (texture * where)[..., None]) + rng.normal(0, 1, (height, width, 1))
    return np.clip(image, 0, 255).round().astype(np.uint8), where


def area(image, mpp=MPP):
    found = find_tissue(memory_slide(image, mpp), SETTINGS)
    return int(np.count_nonzero(found.mask)), found


@pytest.mark.parametrize(
    "colour", [(0, 0, 0), (3, 2, 4), (90, 90, 90), (128, 128, 128), (190, 190, 190), (200, 160, 210), (60, 80, 160)]
)
def test_a_frame_of_any_colour_is_not_tissue_and_told(colour):
    """Black around the scan: 0.47 mm² of it was tissue, and 25 % of area was added to an H&E section."""
    image, _ = section()
    plain, _ = area(image)
    framed = np.full((560, 760, 3), colour, np.uint8)
    framed[90:490, 130:630] = image
    found, tissue = area(framed)
    assert found == pytest.approx(plain, rel=0.02)
    outside = np.ones(framed.shape[:2], bool)
    outside[90:490, 130:630] = False
    assert not (tissue.mask & outside).any()
    assert tissue.unknown[outside].mean() > 0.97
    assert any(f"{outside.mean():.0%} of the scan was taken by no camera" in w for w in tissue.warnings)


def test_a_frame_after_lossy_compression_is_found(tmp_path):
    image, _ = section()
    framed = np.zeros((560, 760, 3), np.uint8)
    framed[90:490, 130:630] = image
    with open_slide(SlideRef(write_tiled_tiff(tmp_path / "a.tif", framed, MPP, compression="jpeg"))) as slide:
        assert find_tissue(slide, SETTINGS).unknown.mean() == pytest.approx(1 - 400 * 500 / 560 / 760, abs=0.02)


@pytest.mark.parametrize("quality", [95, 50])
def test_a_coloured_frame_has_no_rim_of_tissue_after_compression(quality):
    """Ringing along the frame was tissue: a fifth more area."""
    image, _ = section()
    plain, _ = area(image)
    framed = np.full((560, 760, 3), (200, 160, 210), np.uint8)
    framed[90:490, 130:630] = image
    _, data = cv2.imencode(".jpg", framed[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    found, _ = area(np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]))
    assert found == pytest.approx(plain, rel=0.03)


@pytest.mark.parametrize("sides", [(120, 0, 0, 0), (0, 100, 0, 80), (0, 0, 60, 0)])
def test_padding_on_one_or_two_sides_is_found(sides):
    image, _ = section()
    left, right, top, bottom = sides
    framed = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(128, 128, 128))
    _, tissue = area(framed)
    assert tissue.unknown.mean() == pytest.approx(1 - image.size / framed.size, abs=0.01)


def test_a_scan_without_padding_has_nothing_unknown():
    image, _ = section()
    _, tissue = area(image)
    assert not tissue.unknown.any()
    assert tissue.warnings == ()


def test_fluorescence_is_still_no_brightfield_though_its_ground_is_black():
    image = np.zeros((400, 500, 3), np.uint8)
    cv2.circle(image, (250, 200), 90, (20, 30, 150), -1)
    _, tissue = area(image)
    assert not tissue.brightfield


def test_grey_stored_as_three_equal_channels_is_refused():
    """As one channel it is refused by the file; so the same numbers would come of it."""
    image, _ = section()
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    with pytest.raises(SlideError, match="grey"):
        area(grey)
    empty = np.repeat(grey[:1, :1], 400, axis=0).repeat(400, axis=1)
    assert area(empty)[0] == 0


def missing(path, tiles):
    with tifffile.TiffFile(path, mode="r+b") as file:
        found = file.pages[0].tags
        for name in ("TileOffsets", "TileByteCounts"):
            found[name].overwrite([0 if i in tiles else v for i, v in enumerate(found[name].value)])
    return path


def everywhere(tmp_path, tiles):
    image, _ = section(256, 320, np.ones((256, 320), bool))
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "deflate", "metadata": None}
    tifffile.imwrite(path, image, resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER", **options)
    return missing(path, tiles)


def test_missing_tiles_are_no_glass_and_no_tissue(tmp_path):
    with open_slide(SlideRef(everywhere(tmp_path, [6, 7, 11]))) as slide:
        found = find_tissue(slide, SETTINGS)
        assert found.unknown.sum() == 3 * 64 * 64
        assert not (found.mask & found.unknown).any()
        assert found.mask.mean() == pytest.approx(17 / 20, abs=0.01)
        assert found.unknown_at(np.array([[80.0, 80.0], [10.0, 10.0]])).tolist() == [True, False]
        assert any("of the tissue" in w for w in found.warnings)


def test_a_slide_that_lost_more_than_half_of_its_tissue_is_refused(tmp_path):
    with (
        open_slide(SlideRef(everywhere(tmp_path, range(5, 18)))) as slide,
        pytest.raises(SlideError, match="missing tiles"),
    ):
        find_tissue(slide, SETTINGS)


def test_missing_glass_is_told_and_refuses_nothing(tmp_path):
    image, _ = section(256, 320)
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "deflate", "metadata": None}
    tifffile.imwrite(path, image, resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER", **options)
    plain, _ = area(image)
    with open_slide(SlideRef(missing(path, [0, 4, 15, 19]))) as slide:
        found = find_tissue(slide, SETTINGS)
    assert np.count_nonzero(found.mask) == pytest.approx(plain, rel=0.03)


def test_cells_and_area_of_a_count_end_where_the_picture_ends(tmp_path):
    """A black frame gave 153 "positive cells" on its edge."""
    field = stained_field(300.0, 0.5, style=FieldStyle(spacing_um=12.0)).rgb
    side = field.shape[0]
    framed = np.zeros((side + 400, side + 400, 3), np.uint8)
    framed[200:-200, 200:-200] = field
    path = write_tiled_tiff(tmp_path / "a.tif", framed, 0.5)
    summary = count_slide(CountRequest(SlideRef(path), Marker.KI67, tmp_path / "out"), Config())
    assert summary["area_mm2"] == pytest.approx((side * 0.5 / 1000) ** 2, rel=0.08)  # the overview has pixels of 8 µm
    cells = np.loadtxt(tmp_path / "out" / "cells.csv", delimiter=",", skiprows=1, usecols=(0, 1))
    assert (cells > 200).all()
    assert (cells < 200 + side).all()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["warnings"]


# ---- what rules take away


def strips(shape, boxes):
    where = np.zeros(shape, bool)
    for x, y, w, h in boxes:
        rows = np.arange(h)[:, None]
        columns = np.arange(w)
        wave = 3 * np.sin(columns / 21)
        where[y : y + h, x : x + w] = (rows > 2 + wave) & (rows < h - 3 + wave)
    return where


CORES = {
    "two near the edges": ((500, 1100), [(80, 18, 900, 55), (80, 430, 900, 55)]),
    "three of 6.5 × 0.5 mm": ((500, 1100), [(120, 18, 812, 62), (120, 220, 812, 62), (120, 425, 812, 62)]),
    "upright": ((1100, 500), [(20, 100, 55, 900), (420, 100, 55, 900)]),
}


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("od", [PINK, (0.22, 0.20, 0.14), (0.12, 0.14, 0.20)])
def test_needle_cores_near_the_edge_are_tissue(name, od):
    """Three cores gave 3.38 of 9.27 mm², two gave "no tissue": their shape is that of a cover slip's edge."""
    shape, boxes = CORES[name]
    upright = shape[0] > shape[1]
    where = strips(shape[::-1], [(y, x, h, w) for x, y, w, h in boxes]).T if upright else strips(shape, boxes)
    image, _ = section(*shape, where=where, od=od)
    found, _ = area(image)
    assert found == pytest.approx(where.sum(), rel=0.1)


def test_the_grey_edge_of_a_cover_slip_is_no_tissue_and_nothing_is_told():
    image, where = section(500, 1100)
    noise = np.random.default_rng(1).normal(0, 4, (6, 1020, 1))
    image[20:26, 40:1060] = (np.array([150, 150, 151]) + noise).astype(int)
    found, tissue = area(image)
    assert not tissue.mask[:40].any()
    assert found == pytest.approx(where.sum(), rel=0.05)


def test_fragments_that_are_too_small_are_drawn_and_told(tmp_path):
    image, _ = section()
    grid = np.zeros(image.shape[:2], bool)
    for i in range(12):
        grid[20 + 25 * i : 28 + 25 * i, 20:30] = True  # 64 × 80 µm
    small, _ = section(where=grid, od=(0.2, 0.6, 0.3))
    image[grid] = small[grid]
    tissue = find_tissue(memory_slide(image, MPP), SETTINGS)
    assert tissue.removed[grid].mean() > 0.5
    assert (draw_tissue(tissue)[tissue.removed] == (255, 140, 0)).all()
    path = write_tiled_tiff(tmp_path / "a.tif", image, MPP)
    facts = dict(describe_slide(SlideRef(path), SETTINGS).facts)
    assert "too small" in facts["left out"]


def test_fractions_of_a_box_know_nothing_of_the_unknown(tmp_path):
    with open_slide(SlideRef(everywhere(tmp_path, [6]))) as slide:
        found = find_tissue(slide, SETTINGS)
        assert found.fraction_in(Box(64, 64, 64, 64)) == 0
        assert found.fraction_in(Box(128, 64, 64, 64)) > 0.95


@pytest.mark.parametrize("kind", ["tiles", "strips", "png"])
def test_transparent_places_are_no_glass_and_no_tissue(tmp_path, kind):
    """A transparent place of 0.06 mm² within tissue was filled as a hole of the tissue."""
    image, where = section(where=np.ones((400, 500), bool))
    alpha = np.full(where.shape, 255, np.uint8)
    alpha[150:190, 200:225] = 0
    path = tmp_path / ("a.png" if kind == "png" else "a.tif")
    if kind == "png":
        Image.fromarray(np.dstack([image, alpha])).save(path)
    else:
        layout = {"tile": (128, 128)} if kind == "tiles" else {}
        options = {"resolution": (1e4 / MPP,) * 2, "resolutionunit": "CENTIMETER", "metadata": None, **layout}
        rgba = np.dstack([image, alpha])
        tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"], compression="deflate", **options)
    with open_slide(SlideRef(path, (MPP, MPP))) as slide:
        tissue = find_tissue(slide, SETTINGS)
    assert tissue.unknown.sum() == pytest.approx(40 * 25, rel=0.1)
    assert not (tissue.mask & tissue.unknown).any()
