"""Holes that touch, cross or lie elsewhere; collections within collections; coordinates that are no pixels."""

from __future__ import annotations

import pytest

from virtual_stain.errors import InputError
from virtual_stain.geojson import objects_of, polygons_of


def square(x, y, side):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def area_of(tmp_path, *rings, wrap=lambda feature: feature, **head):
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": list(rings)}}
    document = {"type": "FeatureCollection", "features": [wrap(feature)], **head}
    (found,) = objects_of(document, tmp_path / "a.geojson")
    return polygons_of(found, tmp_path / "a.geojson").area


SHELL = square(100, 100, 400)


@pytest.mark.parametrize(
    ("holes", "area"),
    [
        ([square(200, 200, 100)], 150_000),
        ([square(100, 200, 100)], 150_000),  # shares a side with the outline: it was filled
        ([[[100, 300], [200, 250], [200, 350], [100, 300]]], 155_000),  # touches it in a point
        ([square(200, 200, 100), square(300, 200, 100)], 140_000),
        ([square(200, 200, 100), square(250, 200, 100)], 145_000),
        ([square(450, 200, 80)], 160_000 - 50 * 80),  # reaches over the edge
        ([SHELL], 0),  # was the whole square
    ],
)
def test_holes_are_cut_out_wherever_they_touch(tmp_path, holes, area):
    assert area_of(tmp_path, SHELL, *holes) == pytest.approx(area)


@pytest.mark.parametrize(
    "holes", [[square(700, 700, 100)], [square(50, 50, 600)], [square(200, 200, 200), square(250, 250, 50)]]
)
def test_holes_outside_around_or_within_each_other_were_added_to_the_area(tmp_path, holes):
    with pytest.raises(InputError, match="feature 0: expected holes within the outline"):
        area_of(tmp_path, SHELL, *holes)


def test_a_collection_within_a_collection_is_read(tmp_path):
    def wrap(feature):
        return {"type": "FeatureCollection", "features": [feature]}

    assert area_of(tmp_path, SHELL, wrap=wrap) == 160_000


@pytest.mark.parametrize(("name", "unit"), [("unit", "um"), ("units", "µm")])
def test_coordinates_that_say_they_are_micrometres_are_not_pixels(tmp_path, name, unit):
    with pytest.raises(InputError, match="level-0 px"):
        area_of(tmp_path, SHELL, **{name: unit})
