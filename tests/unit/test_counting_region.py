from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from virtual_stain.counting.region import read_region
from virtual_stain.errors import InputError
from virtual_stain.geometry import Box

BOUNDS = Box(50.0, 60.0, 1000.0, 800.0)
SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
HOLE = [[40, 40], [60, 40], [60, 60], [40, 60], [40, 40]]


def feature(coordinates: Any, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def write(path: Path, *features: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}), encoding="utf-8")
    return path


def test_a_polygon_counts_from_the_corner_of_the_scan_as_qupath_does(tmp_path: Path) -> None:
    path = write(tmp_path / "tumour é.geojson", feature([SQUARE, HOLE]))
    points = np.array([[100.0, 70.0], [100.0, 110.0], [10.0, 10.0], [155.0, 110.0]])
    assert read_region(path, BOUNDS).contains(points).tolist() == [True, False, False, False]
    assert read_region(path, BOUNDS, "slide").contains(points - (50, 60)).tolist() == [True, False, False, False]


def test_several_polygons_are_joined_and_not_cut_out_of_each_other(tmp_path: Path) -> None:
    moved = [[x + 50, y] for x, y in SQUARE]
    path = write(tmp_path / "a.json", feature([[SQUARE], [moved]], "MultiPolygon"))
    inside = read_region(path, BOUNDS, "slide").contains(np.array([[75.0, 50.0], [125.0, 50.0], [175.0, 50.0]]))
    assert inside.tolist() == [True, True, False]


def test_classes_say_what_is_tumour(tmp_path: Path) -> None:
    other = [[x + 200, y] for x, y in SQUARE]
    tumour = feature([SQUARE], classification={"name": "Tumor"})
    plain, ignored = feature([other]), feature([other], classification={"name": "Ignore*"})
    points = np.array([[50.0, 50.0], [250.0, 50.0]])
    for features, expected in (([tumour, plain], [True, False]), ([feature([SQUARE]), ignored], [True, False])):
        path = write(tmp_path / "a.geojson", *features)
        assert read_region(path, BOUNDS, "slide").contains(points).tolist() == expected


def test_an_excluded_class_is_cut_out_of_the_tumour(tmp_path: Path) -> None:
    """Ignore tumor fold counted as tumour, and an ignored area within the region stayed in it."""
    fold = feature([HOLE], classification={"name": "Ignore tumor fold"})
    for drawn in (feature([SQUARE], classification={"name": "Tumour: Positive"}), feature([SQUARE])):
        region = read_region(write(tmp_path / "a.geojson", drawn, fold), BOUNDS, "slide")
        assert region.contains(np.array([[10.0, 10.0], [50.0, 50.0]])).tolist() == [True, False]


@pytest.mark.parametrize(
    "name", ["Non-tumor", "Peritumoral stroma", "No Tumour", "Tumor-free", "tumoral", "Tumor necrosis"]
)
def test_a_class_that_only_contains_tumor_is_no_tumour(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.geojson", feature([SQUARE], classification={"name": name}))
    with pytest.raises(InputError, match=rf"a\.geojson.*{name}") as caught:
        read_region(path, BOUNDS)
    assert caught.value.hint


def declare(path: Path, **head: Any) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", **head, "features": [feature([SQUARE])]}))
    return path


@pytest.mark.parametrize(
    ("declared", "requested", "head"),
    [
        ("slide", "bounds", {}),
        ("bounds", "slide", {}),
        ("bounds", "slide", {"offset_px0": [50.4, 60.0]}),
        ("slide", "bounds", {"offset_px0": [0, 0]}),
    ],
)
def test_the_origin_that_a_region_declares_was_ignored(
    tmp_path: Path, declared: str, requested: str, head: dict[str, Any]
) -> None:
    path = declare(tmp_path / "a.geojson", origin=declared, **head)
    inside = read_region(path, BOUNDS, requested).contains(np.array([[10.0, 10.0], [110.0, 130.0]]))
    assert inside.tolist() == [declared == "slide", declared == "bounds"]


@pytest.mark.parametrize("offset", [[51.0, 60.0], [0, 0], [50.0], "50", [float("nan"), 60.0]])
def test_a_region_with_the_offset_of_another_slide_is_refused(tmp_path: Path, offset: Any) -> None:
    with pytest.raises(InputError, match="offset_px0") as caught:
        read_region(declare(tmp_path / "a.geojson", offset_px0=offset), BOUNDS)
    assert "--geojson-origin" in str(caught.value.hint)


def test_a_mask_covers_the_scan(tmp_path: Path) -> None:
    mask = np.zeros((80, 100), np.uint8)
    mask[:40, :50] = 255
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), mask)
    points = np.array([[51.0, 61.0], [549.0, 459.0], [551.0, 459.0], [49.0, 61.0], [5000.0, 61.0]])
    assert read_region(path, BOUNDS).contains(points).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.geojson", "{broken", "expected GeoJSON"),
        ("a.geojson", "[]", "at least one area"),
        ("a.geojson", '{"type": "Polygon"}', "FeatureCollection"),
        ("a.geojson", '[{"geometry": {"type": "Polygon"}, "properties": [1]}]', "properties are named"),
        ("a.geojson", json.dumps({"type": "FeatureCollection", "features": [{"a": 1}]}), "with a geometry"),
        ("a.png", "no picture", "mask picture"),
        ("a.png", "", "mask picture"),
    ],
)
def test_a_file_that_is_no_region_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_region(tmp_path / name, BOUNDS)


def test_regions_without_an_area_or_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_region(tmp_path / "missing.geojson", BOUNDS)
    with pytest.raises(InputError, match="at least one area"):
        read_region(write(tmp_path / "a.geojson", feature([1, 2], "Point")), BOUNDS)
    with pytest.raises(InputError, match="at least one area"):
        read_region(write(tmp_path / "a.geojson", feature([SQUARE], objectType="detection")), BOUNDS)
    with pytest.raises(InputError, match="at least three points"):
        read_region(write(tmp_path / "a.geojson", feature([[[0, 0], [1, 1]]])), BOUNDS)
    for shape, message in (((80, 200), "in proportion"), ((80, 100), "at least one area")):
        cv2.imwrite(str(tmp_path / "m.png"), np.zeros(shape, np.uint8))
        with pytest.raises(InputError, match=message):
            read_region(tmp_path / "m.png", BOUNDS)


@pytest.mark.parametrize(
    "kind", [{"id": "PathDetectionObject"}, {"id": "PathCellObject"}, {"id": "PathTileObject"}, {"object_type": "cell"}]
)
def test_a_detection_of_older_qupath_became_the_region(tmp_path: Path, kind: dict[str, str]) -> None:
    detection, area = feature([HOLE], classification={"name": "Tumor"}), feature([SQUARE])
    (detection if "id" in kind else detection["properties"]).update(kind)
    inside = read_region(write(tmp_path / "a.geojson", detection, area), BOUNDS, "slide").contains
    assert inside(np.array([[10.0, 10.0], [50.0, 50.0]])).tolist() == [True, True]
    with pytest.raises(InputError, match="at least one area"):
        read_region(write(tmp_path / "a.geojson", detection), BOUNDS)


def test_a_derived_class_that_stands_as_names_lost_its_meaning(tmp_path: Path) -> None:
    """`classification.names`: a fold was left in the tumour, and what was no tumour came into it."""
    tumour = feature([SQUARE], classification={"names": ["Tumor", "Positive"]})
    everything = feature([[[x * 5, y * 5] for x, y in SQUARE]], classification={"names": ["Region"]})
    fold = feature([HOLE], classification={"names": ["Ignore*", "fold"]})
    region = read_region(write(tmp_path / "a.geojson", tumour, everything, fold), BOUNDS, "slide")
    assert region.contains(np.array([[10.0, 10.0], [50.0, 50.0], [300.0, 300.0]])).tolist() == [True, False, False]


@pytest.mark.parametrize("ring", [[[x + 5000, y] for x, y in SQUARE], [[x - 900, y - 900] for x, y in SQUARE]])
def test_a_region_outside_the_scan_read_as_no_tumour_cells(tmp_path: Path, ring: list[list[int]]) -> None:
    with pytest.raises(InputError, match=r"on the scan, level-0 px 50 to 1050 across.*outside it") as caught:
        read_region(write(tmp_path / "a.geojson", feature([ring])), BOUNDS)
    assert f"{ring[0][0] + 50} to {ring[0][0] + 150} across" in str(caught.value)


def test_a_region_that_names_another_slide_was_taken(tmp_path: Path) -> None:
    path = declare(tmp_path / "a.geojson", slide="block7")
    assert read_region(path, BOUNDS, slide="block7").contains(np.array([[70.0, 80.0]])).all()
    with pytest.raises(InputError, match=r"'block8'. Received: one of the slide 'block7'"):
        read_region(path, BOUNDS, slide="block8")


def test_a_region_with_a_byte_order_mark_was_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.geojson", feature([SQUARE]))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_region(path, BOUNDS).contains(np.array([[70.0, 80.0]])).all()


def test_a_mask_too_large_to_be_read_ended_as_a_bug(tmp_path: Path) -> None:
    """A PNG of 33,000² px by its head: OpenCV throws before it looks at a pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 33_000, 33_000, 8, 0, 0, 0, 0))
    path = tmp_path / "mask.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"2\^30 pixels") as caught:
        read_region(path, Box(0, 0, 33_000, 33_000))
    assert "downsample" in str(caught.value.hint)
