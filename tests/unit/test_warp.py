"""`warp`: tables and QuPath annotations, there and back."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fixtures.registration import plain_registration, toy_transform
from virtual_stain.cli.main import _run
from virtual_stain.errors import InputError
from virtual_stain.geometry import Box
from virtual_stain.registration.bare import BareTissue
from virtual_stain.registration.store import write_registration
from virtual_stain.registration.warp import frame_of, warp_file
from virtual_stain.registration.warp_geojson import WarpFrame

TRANSFORM = toy_transform(33, mirror=True, elastic_px=4.0)


def warp(tmp_path: Path, name: str, text: str, frame: WarpFrame | None = None) -> str:
    (tmp_path / name).write_text(text, encoding="utf-8")
    warp_file(TRANSFORM, tmp_path / name, tmp_path / f"out-{name}", frame or WarpFrame())
    return (tmp_path / f"out-{name}").read_text(encoding="utf-8")


def geojson(tmp_path: Path, value: Any, frame: WarpFrame | None = None) -> Any:
    return json.loads(warp(tmp_path, "a.geojson", json.dumps(value), frame))


def mapped(points: Any) -> np.ndarray:
    return TRANSFORM.to_ihc(np.array(points, np.float64))


def test_table_keeps_order_and_other_columns(tmp_path: Path) -> None:
    out = warp(tmp_path, "cells.csv", 'name,y,x,note\nb,200,100,"a, b"\na,210.5,300.25,\n')
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [r["name"] for r in rows] == ["b", "a"]
    assert rows[0]["note"] == "a, b"
    assert list(rows[0]) == ["name", "y", "x", "note"]
    got = [[float(r["x"]), float(r["y"])] for r in rows]
    assert np.abs(got - mapped([[100, 200], [300.25, 210.5]])).max() < 1e-3


def test_there_and_back(tmp_path: Path) -> None:
    text = "x,y\n100,200\n300.5,222.25\n"
    there = warp(tmp_path, "there.csv", text)
    back = warp(tmp_path, "back.csv", there, WarpFrame(inverse=True))
    got = np.array([[float(v) for v in line.split(",")] for line in back.splitlines()[1:]])
    assert np.abs(got - [[100, 200], [300.5, 222.25]]).max() < 0.01


def test_empty_table_and_byte_order_mark(tmp_path: Path) -> None:
    assert warp(tmp_path, "e.csv", "\ufeffx,y\n") == "x,y\n"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_that_a_table_of_pairs_may_be_were_refused(tmp_path: Path, separator: str) -> None:
    """Semicolons, tabs, X and Y in capitals, a file named .tsv."""
    text = "Name,X,Y\na,100,200\n\nb,300.5,222.25\n".replace(",", separator)
    out = warp(tmp_path, "cells.tsv", text)
    rows = list(csv.reader(io.StringIO(out), delimiter=separator))
    assert rows[0] == ["Name", "X", "Y"]
    assert [r[0] for r in rows[1:]] == ["a", "b"]
    got = np.array([[float(v) for v in r[1:]] for r in rows[1:]])
    assert np.abs(got - mapped([[100, 200], [300.5, 222.25]])).max() < 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "columns x and y"),
        ("", "empty file"),
        ("x,y\n1,2\n3,oops\n", "row 3"),
        ("x,y\n1,nan\n", "row 2"),
        ("x,y\n1\n", "row 2"),
        ("X,y,x\n1,2,3\n", "one column x"),
    ],
)
def test_bad_tables_name_the_row(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        warp(tmp_path, "bad.csv", text)


SQUARE = [[100, 100], [200, 100], [200, 180], [100, 180], [100, 100]]
GEOMETRIES: list[tuple[str, Any]] = [
    ("Point", [120, 130]),
    ("MultiPoint", [[120, 130], [140, 150]]),
    ("LineString", [[120, 130], [140, 150], [160, 150]]),
    ("MultiLineString", [[[120, 130], [140, 150]], [[200, 200], [220, 230]]]),
    ("Polygon", [SQUARE, [[120, 120], [140, 120], [140, 140], [120, 120]]]),
    ("MultiPolygon", [[SQUARE], [[[300, 300], [320, 300], [320, 320], [300, 300]]]]),
]


def flat(value: Any) -> list[list[float]]:
    return [value] if not isinstance(value[0], list) else [p for v in value for p in flat(v)]


@pytest.mark.parametrize(("kind", "coordinates"), GEOMETRIES)
def test_every_geometry(tmp_path: Path, kind: str, coordinates: Any) -> None:
    feature = {
        "type": "Feature",
        "id": "7",
        "bbox": [0, 0, 1, 1],
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"classification": {"name": "Tumour", "color": [1, 2, 3]}, "objectType": "annotation"},
    }
    out = geojson(tmp_path, {"type": "FeatureCollection", "features": [feature], "name": "x"})
    assert out["name"] == "x"
    result = out["features"][0]
    assert result["properties"] == feature["properties"]
    assert result["id"] == "7"
    assert "bbox" not in result
    assert result["geometry"]["type"] == kind
    got, expected = flat(result["geometry"]["coordinates"]), mapped(flat(coordinates))
    if "Polygon" in kind:  # the map is a mirror: rings keep their sense, so their corners come in the other order
        got, expected = sorted(got), np.array(sorted(expected.tolist()))
    assert np.abs(np.array(got) - expected).max() < 1e-3


def area(ring: list[list[float]]) -> float:
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring))


def test_rings_keep_their_sense_through_a_mirror(tmp_path: Path) -> None:
    hole = [[120, 120], [120, 140], [140, 140], [120, 120]]
    out = geojson(tmp_path, {"type": "Polygon", "coordinates": [SQUARE, hole]})["coordinates"]
    assert TRANSFORM.ihc_from_he.mirrored
    assert [area(r) > 0 for r in out] == [True, False]
    assert all(r[0] == r[-1] for r in out)


def test_frame_stands_in_the_file_and_a_contradiction_is_refused(tmp_path: Path) -> None:
    registration = plain_registration(TRANSFORM, bounds=(Box(30, 40, 400, 300), Box(11, 7, 500, 500)))
    frame = frame_of(registration, inverse=False, from_bounds=True)
    cells = {"type": "FeatureCollection", "origin": "bounds", "offset_px0": [30.0, 40.0], "slide": "he", "features": []}
    out = geojson(tmp_path, cells, frame)
    assert (out["origin"], out["offset_px0"], out["slide"]) == ("bounds", [11, 7], "ihc")
    with pytest.raises(InputError, match="origin"):
        geojson(tmp_path, {**cells, "origin": "slide"}, frame)
    with pytest.raises(InputError, match="registered slide"):  # annotations of another scan
        geojson(tmp_path, {**cells, "offset_px0": [11.0, 7.0]}, frame)


def test_many_rings_are_mapped_at_once(tmp_path: Path) -> None:
    ring = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [SQUARE]}}
    document = {"type": "FeatureCollection", "features": [ring] * 3000}
    out = geojson(tmp_path, document, WarpFrame(inverse=True))
    assert len(out["features"]) == 3000
    assert out["features"][0] == out["features"][-1]


def test_rings_stay_closed_and_open_ones_are_closed(tmp_path: Path) -> None:
    for ring in (SQUARE, SQUARE[:-1]):
        out = geojson(tmp_path, {"type": "Polygon", "coordinates": [ring]})
        got = out["coordinates"][0]
        assert got[0] == got[-1]
        assert len(got) == 5


def test_long_edges_are_bent(tmp_path: Path) -> None:
    line = {"type": "LineString", "coordinates": [[60, 210], [440, 210]]}
    out = geojson(tmp_path, line, WarpFrame(step_px0=20.0))["coordinates"]
    assert len(out) == 20
    assert np.abs(np.array(out[10]) - mapped([[260, 210]])[0]).max() < 1e-3


def test_bare_list_null_geometry_collection_and_nucleus(tmp_path: Path) -> None:
    point = {"type": "Point", "coordinates": [120, 130, 5.0]}
    out = geojson(
        tmp_path,
        [
            {"type": "Feature", "geometry": None, "properties": None},
            {"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": [point]}, "properties": {}},
            {"type": "Feature", "geometry": point, "nucleusGeometry": point, "properties": {}},
        ],
    )
    expected = mapped([[120, 130]])[0]
    assert out[0]["geometry"] is None
    assert np.abs(np.array(out[1]["geometry"]["geometries"][0]["coordinates"][:2]) - expected).max() < 1e-3
    assert out[2]["nucleusGeometry"] == out[2]["geometry"]
    assert out[2]["geometry"]["coordinates"][2] == 5.0


def test_frame_of_a_slide_with_bounds(tmp_path: Path) -> None:
    """QuPath counts from the corner of the scanned area, of each slide its own."""
    registration = plain_registration(TRANSFORM, bounds=(Box(30, 40, 400, 300), Box(11, 7, 500, 500)))
    point = {"type": "Point", "coordinates": [120, 130]}
    there = geojson(tmp_path, point, frame_of(registration, inverse=False, from_bounds=True))["coordinates"]
    assert np.abs(there - (mapped([[150, 170]])[0] - [11, 7])).max() < 1e-3
    back = frame_of(registration, inverse=True, from_bounds=True)
    out = geojson(tmp_path, {"type": "Point", "coordinates": there}, back)["coordinates"]
    assert np.abs(np.array(out) - [120, 130]).max() < 0.01
    slide = geojson(tmp_path, point, frame_of(registration, inverse=False, from_bounds=False))["coordinates"]
    assert np.abs(slide - mapped([[120, 130]])[0]).max() < 1e-3


@pytest.mark.parametrize(
    "value",
    [
        {"type": "Circle", "coordinates": [1, 2]},
        {"type": "Point", "coordinates": ["a", "b"]},
        {"type": "Point"},
        {"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]},
        {"type": "Point", "coordinates": [1]},
        {"type": "FeatureCollection", "features": None},
        {"type": "FeatureCollection", "features": 7},
        {"type": "GeometryCollection", "geometries": None},
        7,
    ],
)
def test_bad_geojson_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match=r"a\.geojson"):
        geojson(tmp_path, value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected \\.csv"):
        warp(tmp_path, "x.txt", "x,y\n")


@pytest.mark.parametrize("inverse", [False, True])
def test_points_without_a_counterpart_are_counted(tmp_path: Path, inverse: bool) -> None:
    """Whichever way: what counts is whether the H&E's place has IHC tissue under it."""
    bare = BareTissue(np.array([[False, True]]), (0.0, 0.0), (200.0, 400.0))
    he = np.array([[100.0, 100.0], [300.0, 100.0], [350.0, 220.0]])
    points = mapped(he) if inverse else he
    (tmp_path / "p.csv").write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in points), encoding="utf-8")
    warped = warp_file(TRANSFORM, tmp_path / "p.csv", tmp_path / "q.csv", WarpFrame(inverse), bare)
    assert (warped.points, warped.bare) == (3, 2)


def test_the_command_says_that_points_have_no_counterpart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = BareTissue(np.array([[False, True]]), (0.0, 0.0), (200.0, 400.0))
    write_registration(plain_registration(TRANSFORM, bare=bare), tmp_path / "pair")
    (tmp_path / "p.csv").write_text("x,y\n100,100\n300,100\n", encoding="utf-8")
    command = ["warp", str(tmp_path / "pair"), str(tmp_path / "p.csv"), "-o", str(tmp_path / "q.csv")]
    assert _run(command) == 0
    said = capsys.readouterr()
    assert "1 points on H&E tissue that has no IHC tissue under it" in said.out + said.err


def test_annotations_of_the_other_slide_were_mapped_the_wrong_way(tmp_path: Path) -> None:
    registration = plain_registration(TRANSFORM)
    there = frame_of(registration, inverse=False, from_bounds=True)
    back = frame_of(registration, inverse=True, from_bounds=True)
    cells = {"type": "FeatureCollection", "slide": "ihc", "features": []}
    with pytest.raises(InputError, match="of the slide 'he'. Received: those of 'ihc'") as caught:
        geojson(tmp_path, cells, there)
    assert "Pass --inverse" in str(caught.value.hint)
    assert geojson(tmp_path, cells, back)["slide"] == "he"
    with pytest.raises(InputError) as caught:
        geojson(tmp_path, {**cells, "slide": "he"}, back)
    assert "Leave out --inverse" in str(caught.value.hint)
    with pytest.raises(InputError) as caught:
        geojson(tmp_path, {**cells, "slide": "block 9"}, there)
    assert "renamed" in str(caught.value.hint)


def test_points_far_outside_the_scan_were_mapped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registration = plain_registration(TRANSFORM)  # 500 × 420 px
    frame = frame_of(registration, inverse=False, from_bounds=True)
    with pytest.raises(
        InputError, match=r"far\.csv: expected points on the scan of he .*Received: 50000, 50000, and 1 more"
    ):
        warp(tmp_path, "far.csv", "x,y\n1,2\n50000,50000\n-900,3\n", frame)
    with pytest.raises(InputError, match="Received: 50000, 3"):
        geojson(tmp_path, {"type": "Point", "coordinates": [50000, 3]}, frame)
    write_registration(registration, tmp_path / "pair")
    (tmp_path / "p.csv").write_text("x,y\n100,100\n510,100\n", encoding="utf-8")  # a little beyond the rim
    assert _run(["warp", str(tmp_path / "pair"), str(tmp_path / "p.csv"), "-o", str(tmp_path / "q.csv")]) == 0
    said = capsys.readouterr()
    assert "1 points outside the scan" in said.out + said.err


@pytest.mark.parametrize("where", ["geometry", "properties"])
def test_a_mapped_ellipse_was_drawn_into_its_bounding_box(tmp_path: Path, where: str) -> None:
    """QuPath makes an ellipse of the box around the corners where isEllipse stands there; a turned one is none."""
    feature: dict[str, Any] = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
        "properties": {"objectType": "annotation"},
    }
    feature[where]["isEllipse"] = True
    out = geojson(tmp_path, feature)
    assert "isEllipse" not in out[where]
    assert out["properties"]["objectType"] == "annotation"


def test_objects_in_an_object_kept_their_old_places(tmp_path: Path) -> None:
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [120, 130]}, "properties": {}}
    deep = {**point, "properties": {"childObjects": [point]}}
    out = geojson(tmp_path, {**point, "properties": {"childObjects": [deep]}, "childObjects": [point]})
    expected = mapped([[120, 130]])[0]
    children = [out["childObjects"][0], out["properties"]["childObjects"][0]]
    children.append(children[1]["properties"]["childObjects"][0])
    for child in children:
        assert np.abs(np.array(child["geometry"]["coordinates"]) - expected).max() < 1e-3


def test_objects_in_a_collection_of_its_own_and_without_a_shape_are_read_as_everywhere(tmp_path: Path) -> None:
    """`--roi` took both, and `warp`, which had a reader of its own, refused them."""
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [120, 130]}, "properties": {}}
    empty = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[]]}, "properties": {}}
    inner = {"type": "FeatureCollection", "features": [point]}
    out = geojson(tmp_path, [{**point, "properties": {"childObjects": inner}}, empty])
    child = out[0]["properties"]["childObjects"]["features"][0]
    assert np.abs(np.array(child["geometry"]["coordinates"]) - mapped([[120, 130]])[0]).max() < 1e-3
    assert out[1]["geometry"] == empty["geometry"]
    with pytest.raises(InputError, match=r"feature 0: expected a list of childObjects \(child objects\)"):
        geojson(tmp_path, [{**point, "properties": {"childObjects": 7}}])


def test_a_measurement_that_is_no_number_was_a_traceback(tmp_path: Path) -> None:
    """QuPath writes bare NaN, and reads it."""
    feature = {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [120, 130]},
        "properties": {"measurements": {"a": float("nan"), "b": 1.5}},
    }
    out = geojson(tmp_path, feature)["properties"]["measurements"]
    assert np.isnan(out["a"])
    assert out["b"] == 1.5


def test_a_byte_order_mark_before_geojson_was_refused(tmp_path: Path) -> None:
    text = "\ufeff" + json.dumps({"type": "Point", "coordinates": [120, 130]})
    assert json.loads(warp(tmp_path, "b.geojson", text))["type"] == "Point"


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("x,y\n100,100\n", encoding="utf-8")
    warp_file(TRANSFORM, tmp_path / "p.csv", tmp_path / "new" / "folder" / "q.csv", WarpFrame())
    assert (tmp_path / "new" / "folder" / "q.csv").exists()


def test_an_unproven_pair_of_an_older_file_is_rejected_as_well(tmp_path: Path) -> None:
    """Without pixel sizes it had no verdict at all."""
    proven = plain_registration(TRANSFORM, verdict=None)
    unproven = dataclasses.replace(
        proven, error_median_um=None, error_median_px0=None, flags=("no_consensus", "no_mpp")
    )
    assert not proven.rejected
    write_registration(unproven, tmp_path / "pair")
    (tmp_path / "p.csv").write_text("x,y\n100,100\n", encoding="utf-8")
    assert _run(["warp", str(tmp_path / "pair"), str(tmp_path / "p.csv"), "-o", str(tmp_path / "q.csv"), "-q"]) == 3
    assert not (tmp_path / "q.csv").exists()
