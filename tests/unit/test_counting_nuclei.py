from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.fixtures.counting import Field, FieldStyle, f1_score, matches, shoelace, stained_field
from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.contours import Contours, solidity
from virtual_stain.counting.count import count_cells, count_image
from virtual_stain.counting.nuclei import _FILLED, _filled
from virtual_stain.counting.seeds import FINE_UM, blur, seed_points
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.counting.stain import estimate_stain
from virtual_stain.errors import ResolutionError
from virtual_stain.markers import Marker

SETTINGS = CountingSettings()
STAIN = SlideStain(background=(236.0, 234.0, 238.0))


def count(field: Field) -> Cells:
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    return count_cells(field.rgb, field.mpp, Marker.KI67, stain, SETTINGS)


@pytest.mark.parametrize("mpp", [0.2, 0.227, 0.25, 0.3, 0.346, 0.46, 0.6])
def test_nuclei_are_found_at_every_usual_pixel_size(mpp: float) -> None:
    field = stained_field(mpp=mpp)
    cells = count(field)
    assert f1_score(cells.xy, field.xy, 3 / mpp) > 0.97
    pairs = matches(cells.xy, field.xy, 3 / mpp)
    positive = cells.cell_class[pairs[:, 0]] == CellClass.POSITIVE
    assert (positive == field.positive[pairs[:, 1]]).all()
    assert np.abs((cells.xy[pairs[:, 0]] - field.xy[pairs[:, 1]]).mean(axis=0) * mpp).max() < 0.15  # no shift


def test_areas_are_in_square_micrometres_whatever_the_pixel_size() -> None:
    median = [float(np.median(count(stained_field(mpp=m)).area_um2)) for m in (0.25, 0.46)]
    assert median[0] == pytest.approx(np.pi * 4.1**2, rel=0.2)
    assert median[1] == pytest.approx(median[0], rel=0.1)


@pytest.mark.parametrize("style", [FieldStyle(negative_od=0.12), FieldStyle(positive_od=1.6), FieldStyle(glass=False)])
def test_pale_negatives_and_dark_positives_are_found_by_one_rule(style: FieldStyle) -> None:
    field = stained_field(style=style)
    assert f1_score(count(field).xy, field.xy, 3 / field.mpp) > 0.95


def test_touching_nuclei_are_told_apart() -> None:
    field = stained_field(style=FieldStyle(spacing_um=9.0, radius_um=(3.9, 4.3)))
    assert f1_score(count(field).xy, field.xy, 3 / field.mpp) > 0.9


@pytest.mark.parametrize(("positive_fraction", "expected"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_ratio_of_all_negative_all_positive_and_half(positive_fraction: float, expected: float) -> None:
    counts = count(stained_field(positive_fraction=positive_fraction)).counts(tumour_only=False)
    assert counts.ratio == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("grey", [255, 240, 128, 0])
def test_a_blank_picture_has_no_cells_and_no_ratio(grey: int) -> None:
    image = np.full((300, 300, 3), grey, np.uint8)
    cells = count_cells(image, 0.3, Marker.KI67, estimate_stain([image], SETTINGS, 0.3), SETTINGS)
    assert len(cells) == 0
    assert cells.counts().ratio is None


def test_noise_on_glass_is_no_nucleus() -> None:
    noise = np.random.default_rng(0).normal(235, 3, (400, 400, 3))
    image = np.clip(noise, 0, 255).astype(np.uint8)
    assert len(count_cells(image, 0.3, Marker.KI67, estimate_stain([image], SETTINGS, 0.3), SETTINGS)) == 0


@pytest.mark.parametrize("pen", [(20, 140, 60), (20, 40, 160), (200, 30, 40)])
def test_pen_is_no_nucleus(pen: tuple[int, int, int]) -> None:
    field = stained_field()
    marked = field.rgb.copy()
    yy, xx = np.mgrid[: marked.shape[0], : marked.shape[1]]
    spots = [(480, 60), (480, 160), (480, 260)]
    for x, y in spots:
        marked[(xx - x) ** 2 + (yy - y) ** 2 < 14**2] = pen
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    cells = count_cells(marked, field.mpp, Marker.KI67, stain, SETTINGS)
    at_spots = matches(cells.xy, np.array(spots, np.float64), 5 / field.mpp)[:, 0]
    assert len(at_spots) == len(spots)
    assert (cells.cell_class[at_spots] == CellClass.OTHER).all()
    assert not cells.tumour[at_spots].any()


def test_small_round_and_long_nuclei_are_no_tumour_cells() -> None:
    big = stained_field(positive_fraction=0, style=FieldStyle(radius_um=(4.4, 4.8)))
    small = stained_field(positive_fraction=0, style=FieldStyle(radius_um=(2.4, 2.6)))
    stain = estimate_stain([big.rgb], SETTINGS, big.mpp)
    assert count_cells(big.rgb, big.mpp, Marker.ER, stain, SETTINGS).tumour.mean() > 0.95
    assert count_cells(small.rgb, small.mpp, Marker.ER, stain, SETTINGS).tumour.mean() < 0.1
    long = stained_field(positive_fraction=0, style=FieldStyle(radius_um=(2.4, 2.5), spacing_um=16))
    stretched = np.repeat(long.rgb, 4, axis=0)
    assert count_cells(stretched, long.mpp, Marker.ER, stain, SETTINGS).tumour.mean() < 0.1


def test_a_region_of_interest_decides_what_is_tumour() -> None:
    field = stained_field()
    roi = np.zeros(field.rgb.shape[:2], bool)
    roi[:, :200] = True
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    cells = count_cells(field.rgb, field.mpp, Marker.KI67, stain, SETTINGS, roi)
    assert np.array_equal(cells.tumour, cells.xy[:, 0] < 200)


@pytest.mark.parametrize("mpp", [0.9, 0.01])
def test_pixels_that_cannot_be_counted_are_refused(mpp: float) -> None:
    with pytest.raises(ResolutionError, match="to count nuclei"):
        count_cells(np.zeros((9, 9, 3), np.uint8), mpp, Marker.KI67, STAIN, SETTINGS)


def test_outlines_are_simple_rings_around_their_nuclei() -> None:
    field = stained_field()
    measured = count_image(field.rgb, (0.3, 0.3), Marker.KI67, STAIN, SETTINGS).measured
    rings = measured.nuclei.polygon
    assert len(rings) == len(measured) > 50
    work_mpp = 0.3 * measured.factor[0]
    for ring, area, centre in zip(rings, measured.area_um2, measured.xy / measured.factor[0], strict=True):
        assert len(ring) >= 4
        assert shoelace(ring) * work_mpp**2 == pytest.approx(float(area), rel=1e-5)
        assert (ring.min(axis=0) < centre).all()
        assert (ring.max(axis=0) > centre).all()


def test_square_pixels_are_not_assumed() -> None:
    field = stained_field(mpp=0.25)
    squeezed = field.rgb[:, ::2]
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    cells = count_image(squeezed, (0.5, 0.25), Marker.KI67, stain, SETTINGS).cells
    assert f1_score(cells.xy * (2, 1), field.xy, 3 / field.mpp) > 0.95
    assert float(np.median(cells.area_um2)) == pytest.approx(np.pi * 4.1**2, rel=0.2)


def _drawn(shapes: list[tuple[int, tuple[float, float], tuple[float, float]]], side_um: float = 60.0) -> np.ndarray:
    """uint8[H, W, 3] at 0.25 µm/px: ellipses (grey, middle, half axes, µm) on glass, the later over the earlier."""
    image = np.full((round(side_um * 4),) * 2 + (3,), 240, np.uint8)
    for grey, (x, y), (a, b) in shapes:
        middle, axes = (round(4 * x), round(4 * y)), (round(4 * a), round(4 * b))
        cv2.ellipse(image, middle, axes, 0, 0, 360, (grey, grey + 10, grey + 45), -1, cv2.LINE_AA)
    noise = np.random.default_rng(0).normal(0, 1.5, image.shape)
    return np.clip(np.round(cv2.GaussianBlur(image, (0, 0), 1.2) + noise), 0, 255).astype(np.uint8)


def _crowd() -> list[tuple[int, tuple[float, float], tuple[float, float]]]:
    """Solid nuclei along two sides, by which the slide is known."""
    return [(150, (6 + 12.0 * i, y), (4, 4)) for i in range(5) for y in (6.0, 54.0)]


def test_an_empty_place_beside_a_dark_fibre_is_no_nucleus() -> None:
    """Its outline took the fibre for half a rim: what an outline encloses must itself be dark."""
    signal = np.zeros((60, 60), np.float32)
    signal[20:40, 20:26] = 1.0  # a fibre, 3 µm wide
    signal[20:40, 40:56] = 1.0  # a nucleus
    for x, whole in ((28, False), (48, True)):
        circle = Contours(np.array([[x, 30.0]]), np.full((1, 32), 4.0, np.float32), np.ones((1, 32), np.float32))
        assert (_filled(signal, circle, 0.5, 0.3)[0] >= _FILLED) == whole


def test_a_nucleus_that_is_a_thin_wall_around_a_pale_middle_stays_whole() -> None:
    """A wall of 1 µm is a third of the area: the whole was taken for an empty place, and its pieces were nuclei."""
    middles = [(x, y) for x in (12.0, 30.0, 48.0) for y in (20.0, 36.0)]
    walls = [(150, at, (6.0, 5.5)) for at in middles]
    pale = [(225, at, (5.0, 4.5)) for at in middles]
    image = _drawn([*_crowd(), *(shape for pair in zip(walls, pale, strict=True) for shape in pair)])
    cells = count_cells(image, 0.25, Marker.KI67, estimate_stain([image], SETTINGS, 0.25), SETTINGS)
    for x, y in middles:
        here = np.hypot(cells.xy[:, 0] / 4 - x, cells.xy[:, 1] / 4 - y) < 7
        assert here.sum() == 1
        assert cells.area_um2[here][0] == pytest.approx(np.pi * 6.0 * 5.5, rel=0.25)


def test_the_pale_middle_of_a_nucleus_is_a_seed() -> None:
    """The Laplacian of Gaussian has its maxima on a thin rim, so that nothing was looked for around the middle."""
    y, x = np.mgrid[:80, :80]
    distance = np.hypot(x - 40, y - 40) * 0.5
    rim = np.exp(-np.square((distance - 5) / 1.0)).astype(np.float32) * (1 + 0.5 * (x > 40)).astype(np.float32)
    _, points = seed_points(rim, blur(rim, FINE_UM / 0.5), 0.5)
    assert np.hypot(*(points - 40).T).min() * 0.5 < 1.5


def test_solidity_is_the_share_of_the_convex_hull() -> None:
    angle = np.arange(32) * (2 * np.pi / 32)
    waist = np.where(np.arange(32) % 16 == 0, 0.3, 1.0)
    corners = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = solidity(np.stack([corners * 5, corners * waist[:, None] * 5]))
    assert found[0] == pytest.approx(1, abs=0.01)
    hull = cv2.contourArea(cv2.convexHull(corners.astype(np.float32)))
    waisted = cv2.contourArea((corners * waist[:, None]).astype(np.float32))
    assert found[1] == pytest.approx(waisted / hull, abs=0.03)


def test_of_a_nucleus_at_the_border_only_what_is_in_the_picture_is_measured() -> None:
    """Mirror images beyond the border doubled the area of cut nuclei, and put outlines outside the picture."""
    image = _drawn([*_crowd(), (150, (0.0, 30.0), (4.5, 4.5)), (150, (60.0, 30.0), (4.5, 4.5))])
    measured = count_image(image, (0.25, 0.25), Marker.KI67, estimate_stain([image], SETTINGS, 0.25), SETTINGS).measured
    cut = np.flatnonzero((measured.xy[:, 1] > 100) & (measured.xy[:, 1] < 140))
    assert len(cut) == 2
    assert measured.area_um2[cut] == pytest.approx(np.pi * 4.5**2 / 2, rel=0.2)
    for ring in measured.nuclei.polygon:
        assert ring.min() >= -0.01
        assert ring.max() <= 60 / 0.5 + 0.01


def test_debris_of_necrosis_is_no_tumour() -> None:
    """Pyknotic nuclei and their fragments beside a tumour: few and small pieces, though some lie in heaps."""
    debris, called_tumour = 0, 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        nest = [(150, (x, y), (4.6, 4.2)) for x in np.arange(6.0, 70, 12) for y in np.arange(6.0, 120, 12)]
        pieces = [
            (int(rng.uniform(110, 150)), (rng.uniform(80, 117), rng.uniform(3, 117)), tuple(rng.uniform(0.7, 2.1, 2)))
            for _ in range(130)
        ]
        image = _drawn([*nest, *pieces], side_um=120)
        cells = count_cells(image, 0.25, Marker.KI67, estimate_stain([image], SETTINGS, 0.25), SETTINGS)
        dead = cells.xy[:, 0] > 76 / 0.25
        assert cells.tumour[~dead].mean() > 0.95
        debris, called_tumour = debris + int(dead.sum()), called_tumour + int(cells.tumour[dead].sum())
    assert debris > 60
    assert called_tumour < 0.15 * debris
