"""Objects of QuPath's GeoJSON: nested, without a shape, on several planes; the same for every reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from virtual_stain.counting.given_files import read_given_cells
from virtual_stain.counting.region import PolygonRegion, read_region
from virtual_stain.errors import InputError
from virtual_stain.geometry import Box

BOUNDS = Box(0, 0, 2048, 2048)


def square(x: float, y: float, side: float) -> dict[str, Any]:
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    return {"type": "Polygon", "coordinates": [ring]}


def annotation(geometry: Any, name: str | None = None, children: Any = None, where: str = "properties") -> Any:
    feature: dict[str, Any] = {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}}
    if name:
        feature["properties"]["classification"] = {"name": name}
    if children is not None:
        (feature["properties"] if where == "properties" else feature)["childObjects"] = children
    return feature


def write(path: Path, *features: Any) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}), encoding="utf-8")
    return path


def region(path: Path, *features: Any) -> PolygonRegion:
    found = read_region(write(path / "a.geojson", *features), BOUNDS)
    assert isinstance(found, PolygonRegion)
    return found


TUMOUR, NECROSIS = square(200, 200, 1600), square(600, 600, 800)


@pytest.mark.parametrize("where", ["properties", "feature"])
def test_a_child_that_is_left_out_is_cut_out_of_its_parent(tmp_path: Path, where: str) -> None:
    """A Necrosis inside a Tumor was passed over: 0.54 mm² instead of 0.41."""
    nested = region(tmp_path, annotation(TUMOUR, "Tumor", [annotation(NECROSIS, "Necrosis")], where))
    flat = region(tmp_path, annotation(TUMOUR, "Tumor"), annotation(NECROSIS, "Necrosis"))
    assert nested.shape.area == flat.shape.area == 1600**2 - 800**2


def test_the_class_of_a_child_is_not_that_of_its_parent(tmp_path: Path) -> None:
    """An annotation without a class that holds a Tumor counted as a whole: 0.89 mm² instead of 0.54."""
    assert region(tmp_path, annotation(square(0, 0, 2048), None, [annotation(TUMOUR, "Tumor")])).shape.area == 1600**2


def test_what_lies_in_an_object_goes_before_it_at_every_depth(tmp_path: Path) -> None:
    island = annotation(square(900, 900, 100), "Tumor")
    drawn = annotation(TUMOUR, "Tumor", [annotation(NECROSIS, "Necrosis", [island])])
    assert region(tmp_path, drawn).shape.area == 1600**2 - 800**2 + 100**2


def test_annotations_in_cores_of_a_micro_array_are_found(tmp_path: Path) -> None:
    core = annotation(square(0, 0, 2048), None, [annotation(TUMOUR, "Tumor")])
    core["properties"]["objectType"] = "tma_core"
    assert region(tmp_path, core).shape.area == 1600**2


@pytest.mark.parametrize(
    "nothing",
    [None, {"type": "Polygon", "coordinates": []}, {"type": "Polygon", "coordinates": [[]]},
     {"type": "MultiPolygon", "coordinates": []}, {"type": "GeometryCollection", "geometries": []}],
)  # fmt: skip
def test_an_object_without_a_shape_is_told_and_the_others_are_read(tmp_path: Path, nothing: Any) -> None:
    found = region(tmp_path, annotation(TUMOUR, "Tumor"), annotation(nothing, "Tumor"))
    assert found.shape.area == 1600**2
    assert found.notes == ("region: 1 object has no shape, passed over: feature 1",)


def test_a_ring_that_crosses_itself_is_read_by_the_even_odd_rule(tmp_path: Path) -> None:
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]]}
    found = region(tmp_path, annotation(bow, "Tumor"))
    assert found.shape.area == pytest.approx(5000)
    assert found.contains(np.array([[10.0, 50.0], [50.0, 10.0]])).tolist() == [True, False]


def test_a_third_number_of_a_position_is_passed_over(tmp_path: Path) -> None:
    solid = {"type": "Polygon", "coordinates": [[[x, y, 3.5] for x, y in TUMOUR["coordinates"][0]]]}
    assert region(tmp_path, annotation(solid, "Tumor")).shape.area == 1600**2


def on_plane(geometry: dict[str, Any], z: int) -> dict[str, Any]:
    return {**geometry, "plane": {"c": -1, "z": z, "t": 0}}


def test_objects_on_several_planes_are_refused_and_on_one_are_read(tmp_path: Path) -> None:
    assert region(tmp_path, annotation(on_plane(TUMOUR, 2), "Tumor")).shape.area == 1600**2
    with pytest.raises(InputError, match=r"one plane.*z=0 t=0, z=2 t=0"):
        region(tmp_path, annotation(on_plane(TUMOUR, 2), "Tumor"), annotation(NECROSIS, "Necrosis"))


def test_children_that_are_no_list_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"feature 0.*child objects"):
        region(tmp_path, annotation(TUMOUR, "Tumor", "none"))


def cell(x: float, y: float, name: str = "Positive", **more: Any) -> dict[str, Any]:
    properties = {"objectType": "cell", "classification": {"name": name}}
    return {"type": "Feature", "geometry": square(x, y, 20), "properties": properties, **more}


def cells(path: Path, *features: Any) -> Any:
    return read_given_cells(write(path / "cells.geojson", *features), BOUNDS, (0.46, 0.46))


def test_cells_within_an_annotation_are_found(tmp_path: Path) -> None:
    nested = cells(tmp_path, annotation(TUMOUR, "Tumor", [cell(300, 300), cell(400, 400, "Negative")]))
    assert nested.xy.tolist() == [[310.0, 310.0], [410.0, 410.0]]


def test_cells_without_a_shape_are_told_and_the_others_are_read(tmp_path: Path) -> None:
    found = cells(tmp_path, cell(300, 300), cell(0, 0) | {"geometry": None})
    assert len(found) == 1
    assert found.notes == ("cells: 1 of 2 objects have no shape and are passed over",)
    with pytest.raises(InputError, match="none of them with a shape"):
        cells(tmp_path, cell(0, 0) | {"geometry": None})


def test_cells_on_several_planes_would_be_counted_once_a_plane(tmp_path: Path) -> None:
    other = cell(300, 300)
    other["geometry"] = on_plane(other["geometry"], 1)
    with pytest.raises(InputError, match=r"one plane"):
        cells(tmp_path, cell(300, 300), other)
