"""GeoJSON that QuPath opens at the right place."""

import json
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.reports import BOUNDS, scored
from virtual_stain.counting.region import read_region
from virtual_stain.errors import InputError
from virtual_stain.geometry import Box
from virtual_stain.markers import Marker
from virtual_stain.report.geojson import tiles_geojson


def rings(value):
    return [np.array(f["geometry"]["coordinates"][0]) for f in value["features"]]


def shoelace(ring):
    x, y = ring[:, 0], ring[:, 1]
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


@pytest.mark.parametrize("origin", ["bounds", "slide"])
def test_rings_are_closed_positive_and_inside_the_scan(origin):
    value = json.loads(tiles_geojson(scored(), origin))
    offset = np.array(value["offset_px0"])
    for ring in rings(value):
        assert (ring[0] == ring[-1]).all()
        assert len(ring) == 5
        assert shoelace(ring) > 0
        corners = ring + offset
        assert corners.min(axis=0) == pytest.approx(np.maximum(corners.min(axis=0), (BOUNDS.x, BOUNDS.y)))
        assert corners.max(axis=0) == pytest.approx(np.minimum(corners.max(axis=0), (BOUNDS.x1, BOUNDS.y1)))


def test_the_default_frame_is_qupaths_and_the_offset_is_written():
    """A slide with bounds: QuPath shows it cropped, so its first tile starts at 0, 0 and not at the bounds' corner."""
    qupath = json.loads(tiles_geojson(scored()))
    whole = json.loads(tiles_geojson(scored(), "slide"))
    assert (qupath["origin"], qupath["offset_px0"]) == ("bounds", [1000.0, 500.0])
    assert (whole["origin"], whole["offset_px0"]) == ("slide", [0.0, 0.0])
    assert rings(qupath)[0][0].tolist() == [0.0, 0.0]
    assert rings(whole)[0][0].tolist() == [1000.0, 500.0]
    assert rings(qupath)[1][0].tolist() == [384.0, 0.0]


def test_classes_measurements_and_ids():
    report = scored(used=[True] * 10 + [False] * 2, failed={3: "damaged"})
    features = json.loads(tiles_geojson(report))["features"]
    assert len(features) == 12
    assert len({str(uuid.UUID(f["id"])) for f in features}) == 12
    names = [f["properties"]["classification"]["name"] for f in features]
    assert names[0] == "Ki67 0–1 %"
    assert names[9] == "Ki67 40–50 %"
    assert names[3] == "not read"
    assert names[10] == "Ki67 not used"
    assert all(len(f["properties"]["classification"]["color"]) == 3 for f in features)
    assert {f["properties"]["objectType"] for f in features} == {"tile"}
    measured = [f["properties"]["measurements"] for f in features]
    assert measured[1] == {"ki67": 0.05, "ki67_tumour_cells": 120.0, "tissue_fraction": 0.8, "used": 1.0}
    assert "ki67" not in measured[3], "QuPath refuses null: what does not exist is left out"
    assert tiles_geojson(report) == tiles_geojson(report)


def test_every_marker_is_measured():
    values = {Marker.KI67: [0.1] * 12, Marker.ER: [0.9] * 12}
    feature = json.loads(tiles_geojson(scored(values)))["features"][0]
    assert set(feature["properties"]["measurements"]) >= {"ki67", "er", "er_tumour_cells"}


def test_another_origin_is_refused():
    with pytest.raises(ValueError, match="bounds, slide"):
        tiles_geojson(scored(), "middle")


def _of_ring(path: Path, ring: list[list[float]]) -> Path:
    geometry = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": "Tumor"}}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def test_a_tangle_of_a_ring_is_refused_before_it_is_cut_into_pieces(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(0, 900, (2000, 2)).tolist()
    path = _of_ring(tmp_path / "a.geojson", [*points, points[0]])
    with pytest.raises(InputError, match="cross each other about"):
        read_region(path, Box(0, 0, 1000, 1000))


def test_the_time_of_an_outline_grew_with_the_square_of_its_points(tmp_path: Path) -> None:
    angle = np.linspace(0, 2 * np.pi, 60_000, endpoint=False)
    ring = (500 + 400 * np.stack([np.cos(angle), np.sin(angle)], axis=1)).tolist()
    path = _of_ring(tmp_path / "a.geojson", [*ring, ring[0]])
    began = time.process_time()
    read_region(path, Box(0, 0, 1000, 1000))
    assert time.process_time() - began < 3
