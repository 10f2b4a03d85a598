"""The tissue mask on drawn slides, and questions about boxes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.slides import memory_slide
from virtual_stain.config import TissueSettings
from virtual_stain.errors import NoTissueError
from virtual_stain.geometry import Affine2D, Box
from virtual_stain.slides.glass import glass_color
from virtual_stain.slides.resolution import Mpp
from virtual_stain.slides.tissue import TissueMap, find_tissue, require_tissue
from virtual_stain.slides.tissue_mask import tissue_mask
from virtual_stain.slides.unknown import is_brightfield

SETTINGS = TissueSettings()
MPP_UM = 8.0
SHAPE = (500, 700)  # 4.0 × 5.6 mm at 8 µm/px
HE_OD = (0.10, 0.30, 0.18)
COUNTERSTAIN_OD = (0.055, 0.045, 0.035)
DAB_OD = (0.20, 0.35, 0.50)


def _slide(glass=(242, 242, 242), seed=0):
    rng = np.random.default_rng(seed)
    return np.clip(np.array(glass) + rng.normal(0, 0.8, (*SHAPE, 1)), 0, 255)


def _disk(centre, radius):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.hypot(x - centre[0], y - centre[1]) < radius


def _stain(image, where, od, grain, seed=1):
    """Beer–Lambert with the grain that nuclei leave at 8 µm/px."""
    noise = np.random.default_rng(seed).normal(1, grain, (*SHAPE, 1))
    absorbed = image * 10 ** -(np.array(od) * np.clip(noise, 0, 3))
    return np.where(where[..., None], absorbed, image)


def _rgb(image):
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _iou(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


TISSUE = _disk((300, 250), 150)


@pytest.mark.parametrize("glass", [(242, 242, 242), (255, 255, 255), (205, 208, 203), (236, 230, 242)])
@pytest.mark.parametrize(("od", "grain"), [(HE_OD, 0.3), (COUNTERSTAIN_OD, 0.5), (DAB_OD, 0.3)])
def test_tissue_is_found_on_any_glass_and_stain(glass, od, grain):
    mask = tissue_mask(_rgb(_stain(_slide(glass), TISSUE, od, grain)), MPP_UM, SETTINGS)
    assert _iou(mask, TISSUE) > 0.93


@pytest.mark.parametrize("glass", [(242, 242, 242), (255, 255, 255), (190, 190, 190), (236, 230, 242)])
def test_glass_alone_is_no_tissue(glass):
    assert not tissue_mask(_rgb(_slide(glass)), MPP_UM, SETTINGS).any()


def test_shadow_streak_and_grey_glass_are_no_tissue():
    image = _stain(_slide(), TISSUE, HE_OD, 0.3)
    image[:, 550:] *= 0.93  # grey glass
    y = np.arange(SHAPE[0])[:, None, None]
    image *= 1 - 0.06 * np.exp(-(((y - 60) / 12) ** 2)) * np.array([0.3, 0.6, 1.0])  # a faint brown streak
    image *= 1 - 0.10 * np.linspace(0, 1, SHAPE[0])[:, None, None] ** 4  # shadow towards the edge
    assert _iou(tissue_mask(_rgb(image), MPP_UM, SETTINGS), TISSUE) > 0.93


PENS = {"green": (40, 150, 130), "blue": (30, 80, 170), "red": (205, 30, 45), "black": (25, 23, 22)}


@pytest.mark.parametrize("color", PENS)
def test_pen_is_no_tissue_and_costs_none_beside_it(color):
    image = _rgb(_stain(_slide(), TISSUE, HE_OD, 0.3))
    for line in (((40, 30), (660, 60)), ((660, 60), (620, 470)), ((90, 480), (560, 430))):
        cv2.line(image, *line, PENS[color], 40, cv2.LINE_AA)
    image = cv2.GaussianBlur(image, (0, 0), 2)  # pen lies out of focus
    pen = np.zeros(SHAPE, np.uint8)
    for line in (((40, 30), (660, 60)), ((660, 60), (620, 470)), ((90, 480), (560, 430))):
        cv2.line(pen, *line, 1, 40)
    mask = tissue_mask(image, MPP_UM, SETTINGS)
    assert mask[(pen > 0) & ~TISSUE].mean() < 0.02
    clear = TISSUE & (cv2.dilate(pen, np.ones((51, 51))) == 0)
    assert mask[clear].mean() > 0.98


def test_cover_slip_edge_and_dust_are_no_tissue():
    image = _rgb(_stain(_slide(), TISSUE, HE_OD, 0.3))
    cv2.line(image, (20, 0), (35, 499), (60, 60, 60), 6)
    cv2.line(image, (0, 480), (699, 488), (150, 148, 146), 4)
    for i in range(60):
        cv2.circle(image, (520 + (i % 10) * 17, 40 + (i // 10) * 60), 2, (120, 115, 110), -1)
    mask = tissue_mask(image, MPP_UM, SETTINGS)
    assert mask[~TISSUE].mean() < 0.02
    assert _iou(mask, TISSUE) > 0.93


def test_fat_beside_tissue_is_kept():
    image = _stain(_slide(), _disk((200, 250), 120), HE_OD, 0.3)
    walls = np.zeros(SHAPE, np.float32)
    for x in range(300, 560, 9):
        for y in range(150, 350, 9):
            cv2.circle(walls, (x + (y // 9 % 2) * 4, y), 5, 1, 1)
    image *= 10 ** -(walls[..., None] * np.array([0.03, 0.10, 0.06]))
    mask = tissue_mask(_rgb(image), MPP_UM, SETTINGS)
    assert mask[160:340, 330:540].mean() > 0.9
    assert mask[160:340, 600:].mean() < 0.05


def test_lumens_are_filled_and_large_holes_stay():
    where = TISSUE & ~_disk((250, 220), 12) & ~_disk((350, 280), 50)
    mask = tissue_mask(_rgb(_stain(_slide(), where, HE_OD, 0.3)), MPP_UM, SETTINGS)
    assert mask[_disk((250, 220), 10)].all()
    assert not mask[_disk((350, 280), 40)].any()


@pytest.mark.parametrize("mpp_um", [0.5, 2.0, 8.0, 20.0])
def test_the_mask_is_the_same_at_any_pixel_size(mpp_um):
    image = _rgb(_stain(_slide(), TISSUE, HE_OD, 0.3))
    factor = MPP_UM / mpp_um
    crop = image[200:260, 110:200] if mpp_um < 1 else image  # the edge of the disk
    resized = cv2.resize(crop, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    mask = tissue_mask(resized, mpp_um, SETTINGS)
    truth = TISSUE[200:260, 110:200] if mpp_um < 1 else TISSUE
    back = cv2.resize(mask.astype(np.uint8), truth.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    assert mask.shape == resized.shape[:2]
    assert _iou(back, truth) > 0.9


def test_a_picture_full_of_tissue_is_tissue():
    everywhere = np.ones(SHAPE, bool)
    assert tissue_mask(_rgb(_stain(_slide(), everywhere, HE_OD, 0.3)), MPP_UM, SETTINGS).mean() > 0.99


def test_padding_is_not_taken_for_the_glass():
    image = _rgb(_slide((236, 230, 220)))
    image[:, :300] = 255  # a scanner's filling: the real glass beside it is yellowish
    assert glass_color(image, MPP_UM) == pytest.approx((236, 230, 220), abs=1)
    assert not tissue_mask(image, MPP_UM, SETTINGS).any()


CASTS = [(0.95, 1.0, 1.0), (1.0, 1.0, 0.95), (0.86, 1.0, 1.0), (1.0, 0.86, 1.0), (1.0, 1.0, 0.86), (0.8, 1.0, 1.0)]
CASTS += [(1.0, 0.8, 1.0), (1.0, 0.8, 0.8), (0.8, 1.0, 0.8), (0.8, 0.8, 1.0), (0.88, 0.94, 1.0), (1.0, 0.9, 0.8)]


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize(("od", "grain"), [(HE_OD, 0.3), (COUNTERSTAIN_OD, 0.5), (DAB_OD, 0.3)])
def test_a_colour_cast_does_not_make_the_glass_tissue(cast, od, grain):
    """A cast of 12 % once made the mask the whole scan, without a word."""
    image = _stain(_slide(), TISSUE, od, grain)
    plain = tissue_mask(_rgb(image), MPP_UM, SETTINGS)
    tinted = tissue_mask(_rgb(image * np.array(cast)), MPP_UM, SETTINGS)
    assert _iou(plain, TISSUE) > 0.93
    assert _iou(tinted, plain) > 0.98


@pytest.mark.parametrize("cast", [(0.8, 0.9, 1.0), (1.0, 0.86, 1.0), (0.85, 1.0, 0.85)])
def test_padding_stays_white_under_a_cast(cast):
    image = _rgb(_stain(_slide(), TISSUE, HE_OD, 0.3) * np.array(cast))
    image[:, :80] = 255
    image = cv2.GaussianBlur(image, (0, 0), 0.7)  # as compression mixes it with the picture
    image[:, :78] = 255
    assert glass_color(image, MPP_UM) == pytest.approx(242 * np.array(cast), abs=1.5)
    assert _iou(tissue_mask(image, MPP_UM, SETTINGS), TISSUE) > 0.93


@pytest.mark.parametrize("cast", [(1.0, 1.0, 1.0), (0.88, 0.94, 1.0), (1.0, 0.9, 0.8), (1.0, 0.8, 1.0)])
@pytest.mark.parametrize(("od", "grain"), [((0.01, 0.09, 0.05), 0.2), (COUNTERSTAIN_OD, 0.5), ((0.03, 0.06, 0.1), 0.3)])
def test_a_tinted_picture_full_of_pale_tissue_is_tissue(cast, od, grain):
    """Pale stroma from edge to edge is as bright and as large as glass; its texture tells."""
    noise = cv2.GaussianBlur(np.random.default_rng(4).normal(0, 1, SHAPE), (0, 0), 2)
    absorbed = np.clip(1 + grain * noise / noise.std(), 0, 3)[..., None] * np.array(od)
    image = _rgb(_slide() * np.array(cast) * 10**-absorbed)
    assert tissue_mask(image, MPP_UM, SETTINGS).mean() > 0.95


def test_smooth_colours_that_run_on_are_no_glass():
    """Tissue without texture, as at coarse pixel sizes: no gap lies below its palest part."""
    pale = np.linspace(0.05, 0.35, SHAPE[1])[None, :, None] * np.array((0.3, 1.0, 0.6))
    image = _rgb(np.full((*SHAPE, 3), 242.0) * 10**-pale)
    assert glass_color(image, MPP_UM) == pytest.approx((240, 240, 240))
    assert tissue_mask(image, MPP_UM, SETTINGS).mean() > 0.95


def test_a_scan_called_tissue_from_edge_to_edge_is_warned_of():
    image = _rgb(_stain(_slide(), np.ones(SHAPE, bool), HE_OD, 0.3))
    scan = memory_slide(image, 8.0)
    (text,) = find_tissue(scan, SETTINGS).warnings
    assert "100% of the scan is called tissue" in text
    scan._source.format = "image/png"  # a crop of nothing but tissue is a picture like any other
    assert find_tissue(scan, SETTINGS).warnings == ()
    assert find_tissue(memory_slide(image[:200, :300], 8.0), SETTINGS).warnings == ()  # 3.8 mm²: a field
    assert find_tissue(memory_slide(image, None), SETTINGS).warnings == ()
    section = memory_slide(_rgb(_stain(_slide(), TISSUE, HE_OD, 0.3)), 8.0)
    assert find_tissue(section, SETTINGS).warnings == ()


def test_fluorescence_is_told_apart():
    dark = np.random.default_rng(0).integers(0, 12, (*SHAPE, 3)).astype(np.uint8)
    dark[TISSUE] += np.array([0, 0, 120], np.uint8)
    assert not is_brightfield(dark)
    assert is_brightfield(_rgb(_stain(_slide(), np.ones(SHAPE, bool), (0.4, 0.7, 0.4), 0.3)))
    assert is_brightfield(np.full((*SHAPE, 3), 255, np.uint8))
    found = find_tissue(memory_slide(dark, 8.0), SETTINGS)
    assert not found.brightfield
    assert not found.mask.any()
    with pytest.raises(NoTissueError, match="no brightfield tissue"):
        require_tissue(Path("dapi.ndpi"), found)


def test_an_empty_slide_is_refused_where_tissue_is_needed():
    found = find_tissue(memory_slide(_rgb(_slide()), 8.0), SETTINGS)
    with pytest.raises(NoTissueError, match="no tissue was found") as caught:
        require_tissue(Path("glass.svs"), found)
    assert "vstain info" in str(caught.value)


def test_area_and_place_of_the_tissue_of_a_slide_with_bounds():
    image = _rgb(_stain(_slide(), TISSUE, HE_OD, 0.3))
    slide = memory_slide(image, 8.0, Box(100, 50, 600, 450))
    found = find_tissue(slide, SETTINGS)
    assert found.px0_from_ov.apply([[0, 0]]).tolist() == [[100, 50]]
    assert found.mask.shape == (450, 600)
    assert _iou(found.mask, TISSUE[50:, 100:]) > 0.93
    assert found.area_um2(slide.mpp) == pytest.approx(TISSUE[50:, 100:].sum() * 64, rel=0.05)


def test_a_slide_without_pixel_size_still_has_tissue():
    found = find_tissue(memory_slide(_rgb(_stain(_slide(), TISSUE, HE_OD, 0.3)), None), SETTINGS)
    assert _iou(found.mask, TISSUE) > 0.9


def _map(mask, scale=(32.0, 16.0), shift=(100.0, 40.0)):
    overview = np.zeros((*mask.shape, 3), np.uint8)
    return TissueMap(mask, Affine2D.scale_and_shift("px0", "ov", scale, shift), overview, True)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    x=st.floats(-100, 900),
    y=st.floats(-100, 500),
    width=st.floats(1, 700),
    height=st.floats(1, 500),
)
def test_fractions_are_exact_areas(seed, x, y, width, height):
    """Against a sum over overview pixels of the overlap of two rectangles."""
    mask = np.random.default_rng(seed).random((20, 25)) < 0.4
    box = Box(x, y, width, height)
    total = 0.0
    for row, col in np.argwhere(mask):
        common = box.intersection(Box(100 + 32 * col, 40 + 16 * row, 32, 16))
        total += common.area if common else 0.0
    found = _map(mask)
    assert found.fraction_in(box) == pytest.approx(total / box.area, abs=1e-6)
    assert found.any_in(box) == (total > 1e-3 * 512 or found.fraction_in(box) > 0)


def test_questions_about_boxes():
    mask = np.zeros((20, 25), bool)
    mask[5, 7] = True
    found = _map(mask)
    pixel = Box(100 + 32 * 7, 40 + 16 * 5, 32, 16)
    assert found.fraction_in(pixel) == 1.0
    assert found.fraction_in(Box(pixel.x, pixel.y, 64, 16)) == 0.5
    assert found.any_in(Box(pixel.x1 - 0.5, pixel.y1 - 0.5, 100, 100))
    assert not found.any_in(Box(pixel.x1, pixel.y, 100, 100))
    assert found.area_um2(Mpp(0.25, 0.5, "override")) == 32 * 16 * 0.125


def test_a_short_black_stroke_into_crowded_tissue_costs_little_of_it():
    """Half on glass, half on dark H&E: the stroke goes, and the tissue beside it stays."""
    crowded = (0.35, 0.55, 0.32)
    image = _rgb(_stain(_slide(), TISSUE, crowded, 0.2))
    cv2.line(image, (60, 250), (260, 250), (52, 53, 55), 14, cv2.LINE_AA)
    stroke = np.zeros(SHAPE, np.uint8)
    cv2.line(stroke, (60, 250), (260, 250), 1, 14)
    mask = tissue_mask(image, MPP_UM, SETTINGS)
    assert mask[stroke > 0].mean() < 0.02
    assert mask[TISSUE & (cv2.dilate(stroke, np.ones((41, 41))) == 0)].mean() > 0.98


def test_folds_and_pigment_are_no_pen():
    image = _rgb(_stain(_slide(), TISSUE, HE_OD, 0.3))
    cv2.line(image, (200, 200), (400, 320), (70, 20, 75), 8)
    for i in range(12):
        cv2.circle(image, (220 + 15 * i, 300), 3, (20, 18, 16), -1)
    assert _iou(tissue_mask(image, MPP_UM, SETTINGS), TISSUE) > 0.95
