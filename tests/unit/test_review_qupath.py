"""QuPath: verdicts and cells out, edited there, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.phantoms import tiny_pair
from tests.fixtures.review import tiny_cells
from virtual_stain.geometry import Box
from virtual_stain.review.correction import Correction, cell_names, correct
from virtual_stain.review.qupath import TileOut, difference, from_geojson, to_geojson
from virtual_stain.review.verdicts import Decision, Place, Verdict

CELLS = tiny_cells(np.random.default_rng(5), 30, 128, 0.5)
BOX = Box(1000.0, 2000.0, 153.6, 153.6)
PLACE = Place("case 1", 3, 4)
ID = "0123456789abcdef" * 2
VERDICT = Verdict(PLACE, ID, Decision.ACCEPT, "Dr. A", "ok")


def _written(verdict: Verdict | None = VERDICT) -> dict:
    return json.loads(to_geojson([TileOut(PLACE, ID, BOX, verdict, CELLS)], 128, (100.0, 200.0)))


def _read(value: object) -> list:
    return from_geojson(json.dumps(value))


def test_a_tile_lies_at_its_place_in_qupaths_frame() -> None:
    tile, *points = _written()["features"]
    assert tile["geometry"]["coordinates"][0][0] == [900.0, 1800.0]
    assert tile["properties"]["classification"]["name"] == "Accept"
    assert tile["id"].replace("-", "") == ID
    assert [p["properties"]["classification"]["name"] for p in points] == ["Positive", "Negative", "Ignored"]
    counts = [cell_names(CELLS).count(k) for k in ("positive", "negative", "ignored")]
    assert [len(p["geometry"]["coordinates"]) for p in points] == counts


def _points(value: dict) -> dict:
    """As the import sees them: tile px."""
    (tile,) = _read(value)
    shift = np.array([100.0 - BOX.x, 200.0 - BOX.y])
    return {k: (v + shift) * 128 / 153.6 for k, v in tile.points.items()}


def test_what_is_not_touched_is_no_correction() -> None:
    assert difference(CELLS, _points(_written())) is None


def test_points_moved_added_and_deleted_are_the_correction() -> None:
    value = _written()
    positive, negative = (f["geometry"]["coordinates"] for f in value["features"][1:3])
    moved, deleted = positive.pop(0), negative.pop(1)
    negative.append(moved)
    positive.append([900 + 64 * 1.2, 1800 + 32 * 1.2])
    found = difference(CELLS, _points(value))
    names = cell_names(CELLS)
    swapped = names.index("positive")
    gone = [i for i, n in enumerate(names) if n == "negative"][1]
    assert found == Correction(((swapped, "negative"),), (gone,), ((64.0, 32.0, "positive"),))
    assert deleted
    done = correct(CELLS, found)
    assert done.counts.positive == CELLS.counts().positive


def test_qupath_may_write_a_list_and_single_points() -> None:
    value = _written()
    first = value["features"][1]
    first["geometry"] = {"type": "Point", "coordinates": first["geometry"]["coordinates"][0]}
    (tile,) = _read([*value["features"], {"type": "Feature", "properties": {"name": "my own"}, "geometry": None}])
    assert (tile.place, tile.label_id, tile.decision, tile.reason) == (PLACE, ID, Decision.ACCEPT, "ok")
    assert len(tile.points["positive"]) == 1


def test_tiles_without_a_verdict_are_still_to_do() -> None:
    assert _read(_written(None)) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": "not a uuid"}, "feature 0"),
        ({"properties": {"name": "case 1 3,4", "classification": {"name": "Perhaps"}}}, "feature 0"),
    ],
)
def test_nonsense_names_its_feature(change: dict, expected: str) -> None:
    value = _written()
    value["features"][0] |= change
    with pytest.raises(ValueError, match=expected):
        _read(value)
    with pytest.raises(ValueError, match="expected GeoJSON"):
        from_geojson("{")
    value = _written()
    value["features"][1]["geometry"] = {"type": "Polygon", "coordinates": []}
    with pytest.raises(ValueError, match="feature 1: geometry: expected points"):
        _read(value)


def test_the_offset_is_the_corner_of_the_scan(tmp_path: Path) -> None:
    """The GeoJSON of a slide with bounds must lie where QuPath, which crops to them, shows the tissue."""
    from virtual_stain.config import TissueSettings
    from virtual_stain.slides.slide import SlideRef, open_slide
    from virtual_stain.slides.tissue import find_tissue

    pair = tiny_pair(tmp_path, size_mm=0.4)
    with open_slide(SlideRef(pair.he)) as slide:
        matrix = find_tissue(slide, TissueSettings()).px0_from_ov.matrix
        assert (matrix[0, 2], matrix[1, 2]) == (slide.bounds.x, slide.bounds.y)
