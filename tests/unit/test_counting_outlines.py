"""What the overlays show: which cells entered the percentage, and the region that decided."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely

from tests.fixtures.counting import FieldStyle, shoelace, stained_field
from virtual_stain.cli.main import _run
from virtual_stain.counting.outlines import REGION_COLOUR, Outline, draw_cell, draw_region, with_legend
from virtual_stain.counting.region import MaskRegion, PolygonRegion, Region
from virtual_stain.counting.region_border import border_of
from virtual_stain.counting.region_model import CheckedRegion
from virtual_stain.geometry import Box, Points

ANGLE = np.arange(32) * (2 * np.pi / 32)
CIRCLE = np.array([40.0, 40.0]) + 15 * np.stack([np.cos(ANGLE), np.sin(ANGLE)], axis=1)


def white() -> np.ndarray:  # type: ignore[type-arg]
    return np.full((80, 80, 3), 255, np.uint8)


def along(image: np.ndarray) -> float:  # type: ignore[type-arg]
    """Share of the circle that is drawn."""
    angle = np.arange(720) * (np.pi / 360)
    x, y = np.floor(np.array([[40.0], [40.0]]) + 15 * np.stack([np.cos(angle), np.sin(angle)])).astype(int)
    return float((image[y, x].min(axis=1) < 200).mean())


@pytest.mark.parametrize("kind", [0, 1])
def test_tumour_cells_and_others_were_drawn_alike(kind: int) -> None:
    """Nothing in the close-up showed which cells the percentage was of."""
    solid, dashed = white(), white()
    draw_cell(solid, Outline(kind, True, CIRCLE), CIRCLE, 2)
    draw_cell(dashed, Outline(kind, False, CIRCLE), CIRCLE, 2)
    assert along(solid) == 1.0
    assert 0.3 < along(dashed) < 0.75
    # drawn in pieces all around
    quarters = [dashed[:40, :40], dashed[:40, 40:], dashed[40:, :40], dashed[40:, 40:]]
    assert all((q.min(axis=2) < 200).sum() > 5 for q in quarters)


def test_a_square_that_stands_for_a_point_is_dashed_on_every_side() -> None:
    image, ring = white(), np.array([(20.0, 20.0), (60.0, 20.0), (60.0, 60.0), (20.0, 60.0)])
    draw_cell(image, Outline(0, False, ring), ring, 2)
    dark = image.min(axis=2) < 200
    for side in (dark[19:21, 22:58].any(axis=0), dark[59:61, 22:58].any(axis=0), dark[22:58, 19:21].any(axis=1)):
        assert 0.2 < side.mean() < 0.9


def test_a_region_much_larger_than_the_picture_is_drawn_where_it_crosses_it() -> None:
    image = white()
    draw_region(image, [np.array([(-5e5, 30.5), (5e5, 30.5), (5e5, 9e5), (-5e5, 9e5)])], 2)
    green = np.abs(image.astype(int) - REGION_COLOUR).max(axis=2) < 60
    assert green[30].all()
    assert not green[:28].any()
    assert not green[34:].any()


def test_a_legend_leaves_the_pixels_where_they_are() -> None:
    for width in (80, 900):
        image = np.arange(80 * width * 3, dtype=np.uint32).reshape(80, width, 3).astype(np.uint8)
        with_region = with_legend(image, "région_model:x", has_region=True)
        assert (with_region[:80, :width] == image).all()
        assert with_region.shape[0] > 80
        assert with_region.shape[1] >= 460
    assert (np.abs(with_region.astype(int) - REGION_COLOUR).max(axis=2) < 30).any()


class OnlyPoints:
    def contains(self, points: Points) -> np.ndarray:  # type: ignore[type-arg]
        return (points >= (300, 250)).all(axis=1) & (points < (700, 650)).all(axis=1)


def _mask() -> MaskRegion:
    mask = np.zeros((90, 100), bool)
    mask[20:60, 20:60] = True
    return MaskRegion(mask, Box(100, 50, 1000, 900))


SQUARE = np.array([(300.0, 250.0), (700.0, 250.0), (700.0, 650.0), (300.0, 650.0)])


@pytest.mark.parametrize(
    "region",
    [
        PolygonRegion(shapely.Polygon(SQUARE)),
        _mask(),
        OnlyPoints(),
        CheckedRegion("m", OnlyPoints()),
        CheckedRegion("m", _mask()),
    ],
    ids=lambda r: type(r).__name__,
)
def test_every_kind_of_region_has_its_border(region: Region) -> None:
    (ring,) = border_of(region, Box(100, 50, 1000, 900))
    assert abs(shoelace(ring)) == pytest.approx(160_000, rel=0.01)
    assert ring.min(axis=0) == pytest.approx([300, 250], abs=2)
    assert ring.max(axis=0) == pytest.approx([700, 650], abs=2)


def test_a_border_runs_along_the_scan_where_all_of_it_is_region_and_around_what_is_cut_out() -> None:
    whole = MaskRegion(np.ones((4, 6), bool), Box(10, 20, 600, 400))
    (ring,) = border_of(whole, Box(10, 20, 600, 400))
    assert [*ring.min(axis=0), *ring.max(axis=0)] == [10, 20, 610, 420]
    cut = shapely.union(shapely.Polygon(SQUARE, [(SQUARE - 500) * 0.5 + 500]), shapely.box(0, 0, 100, 100))
    assert len(border_of(PolygonRegion(cut), Box(0, 0, 900, 900))) == 3
    assert border_of(MaskRegion(np.zeros((4, 6), bool), Box(0, 0, 6, 4)), Box(0, 0, 6, 4)) == []


def test_the_region_of_interest_was_on_no_picture(tmp_path: Path) -> None:
    field = stained_field(120.0, 0.5, style=FieldStyle(spacing_um=12.0))
    slide, roi = tmp_path / "a.png", tmp_path / "roi.png"
    cv2.imwrite(str(slide), field.rgb[:, :, ::-1])
    mask = np.zeros(field.rgb.shape[:2], np.uint8)
    mask[:, :101] = 255
    cv2.imwrite(str(roi), mask)
    words = ["count", str(slide), "--marker", "ki67", "--mpp", "0.5", "-q", "--jobs", "1"]
    for name, more in (("with", ["--roi", str(roi)]), ("without", [])):
        assert _run([*words, "--out", str(tmp_path / name), *more]) == 0
        picture = cv2.imread(str(tmp_path / name / "overlay_full.jpg"))[:, :, ::-1].astype(int)
        green = np.abs(picture[:240, :240] - REGION_COLOUR).max(axis=2) < 70
        assert (green[:, 99:103].any(axis=1).mean() > 0.9) == (name == "with")
        assert not green[:, 110:230].any()
