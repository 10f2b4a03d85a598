"""Micro-arrays are told by rows and columns; what is no grid of like pieces is none."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fixtures.slides import memory_slide, write_tiled_tiff
from tests.unit.test_unknown import section
from virtual_stain.config import TissueSettings
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.spots import find_spots
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.workflows.slide_info import describe_slide

MPP = 8.0


def array(missing=(), degrees=0.0, rows=4, columns=6):
    """Spots of about 0.8 mm, 1.4 mm apart, at 8 µm/px: (picture, centres by (row, column))."""
    rng = np.random.default_rng(2)
    height, width = 175 * rows + 250, 175 * columns + 250
    where = np.zeros((height, width), np.uint8)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    centres = {}
    for row in range(rows):
        for column in range(columns):
            x, y = turn @ (212 + 175 * column, 212 + 175 * row, 1.0)
            if (row + 1, column + 1) not in missing:
                centres[row + 1, column + 1] = (x, y)
                cv2.circle(where, (round(x), round(y)), int(rng.integers(45, 55)), 1, -1)
    return section(height, width, where=where.astype(bool))[0], centres


@pytest.mark.parametrize("degrees", [0.0, 7.0, -12.0])
def test_spots_have_their_row_and_column(degrees):
    missing = ((1, 3), (4, 6), (2, 2))
    image, centres = array(missing, degrees)
    slide = memory_slide(image, MPP)
    spots = find_spots(find_tissue(slide, TissueSettings()), slide.mpp)
    assert {(s.row, s.column) for s in spots} == set(centres)
    for spot in spots:
        assert np.hypot(*np.subtract(spot.centre_px0, centres[spot.row, spot.column])) < 4
        assert spot.diameter_um == pytest.approx(800, rel=0.2)
        assert spot.tissue_um2 == pytest.approx(np.pi * 400**2, rel=0.3)


def test_a_section_and_needle_cores_are_no_array():
    fragments = np.zeros((500, 700), bool)
    for x, y, r in ((90, 90, 40), (300, 130, 55), (520, 210, 60), (200, 320, 45), (430, 400, 38), (620, 420, 52)):
        fragments |= (np.arange(700) - x) ** 2 + (np.arange(500)[:, None] - y) ** 2 < r**2
    for where in (None, fragments):
        image, _ = section(500, 700, where=where)
        slide = memory_slide(image, MPP)
        assert find_spots(find_tissue(slide, TissueSettings()), slide.mpp) == ()


def test_info_lists_the_spots_and_writes_their_table(tmp_path: Path):
    image, centres = array(((2, 5),))
    path = write_tiled_tiff(tmp_path / "a.tif", image, MPP)
    report = describe_slide(SlideRef(path), TissueSettings(), tmp_path / "a")
    facts = dict(report.facts)
    assert facts["spots"] == "23 of a tissue micro-array of 4 rows and 6 columns"
    assert facts["row 2"].startswith("columns 1 (0.")
    assert ", 5 (" not in facts["row 2"]
    with (tmp_path / "a.spots.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {(int(r["row"]), int(r["column"])) for r in rows} == set(centres)
    with open_slide(SlideRef(path)) as slide:
        assert slide.mpp is not None
