"""Intensities of HER2 from the count into the label, through a correction, and into the record."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from tests.fixtures.records import TinyRecords, tiny_record
from tests.fixtures.review import tiny_cells, tiny_label, tiny_review
from tests.fixtures.web import client, review_of
from virtual_stain.config import Config
from virtual_stain.counting.cells import UNKNOWN_INTENSITY, CellClass, Cells
from virtual_stain.geometry import Box
from virtual_stain.labels.label import TileLabel, label_id
from virtual_stain.labels.store import TileStore, join_parts, write_tiles
from virtual_stain.markers import Marker
from virtual_stain.records.read import decode_example
from virtual_stain.records.schema import CLASSES_UNKNOWN, problems_of
from virtual_stain.records.write import encode_example
from virtual_stain.review.correction import Correction, cell_names, correct
from virtual_stain.review.gate import Passed
from virtual_stain.review.qupath import TileOut, difference, from_geojson, to_geojson
from virtual_stain.review.verdicts import Decision, Place, Verdict
from virtual_stain.workflows.packing import to_record

CELLS = tiny_cells(np.random.default_rng(3), 40, 256, 0.6, intensities=True)
NAMES = cell_names(CELLS)


def _label() -> TileLabel:
    return tiny_label(np.random.default_rng(1), 2, 3, intensities=True)


def _record(tile: TileLabel, correction: Correction | None = None) -> dict:
    prepared = SimpleNamespace(job=SimpleNamespace(marker=Marker.HER2), verdict="accept")
    job = SimpleNamespace(pair="case-01", patient_id="5a" * 32, prepared=prepared)
    return to_record(job, tile, Passed("accept", "Dr. A", correction), Config())  # type: ignore[arg-type]


def test_a_stored_tile_keeps_the_intensity_of_every_cell_and_a_nuclear_one_has_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, intensities in (("her2", True), ("ki67", False)):
        labels = [tiny_label(rng, i, 0, n=20 * i, intensities=intensities) for i in range(4)]
        parts = [tmp_path / f"{name}-{i}.h5" for i in range(2)]
        for part, some in zip(parts, (labels[:2], labels[2:]), strict=True):
            write_tiles(part, some, "k")
        join_parts(tmp_path / f"{name}.h5", parts, "k")
        with TileStore(tmp_path / f"{name}.h5") as store:
            for read, written in zip(store.tiles(), labels, strict=True):
                assert (read.cells.intensity is None) == (not intensities)
                if intensities:
                    np.testing.assert_array_equal(read.cells.intensity, written.cells.intensity)


def test_another_intensity_is_another_label() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    assert CELLS.intensity is not None
    other = np.where(CELLS.intensity == 3, 2, CELLS.intensity).astype(np.uint8)
    ids = {label_id(image, image, "t", c) for c in (CELLS, dataclasses.replace(CELLS, intensity=other))}
    assert len(ids) == 2


def test_stores_keep_the_name_that_earlier_versions_wrote(tmp_path: Path) -> None:
    """A store is hours of counting: one that was written before the word must be read."""
    write_tiles(tmp_path / "tiles.h5", [_label()], "k")
    with h5py.File(tmp_path / "tiles.h5") as file:
        assert file["cells/grade"][:].tolist() == _label().cells.intensity.tolist()  # type: ignore[union-attr]


def test_cells_with_and_without_intensities_do_not_mix() -> None:
    without = dataclasses.replace(CELLS, intensity=None)
    with pytest.raises(ValueError, match="Received: both"):
        Cells.concatenated([CELLS, without])
    with pytest.raises(ValueError, match="equal length"):
        dataclasses.replace(CELLS, intensity=np.zeros(3, np.uint8))


def test_a_person_gives_classes_or_leaves_them_unknown() -> None:
    assert set(NAMES) == {"negative", "1+", "2+", "3+", "ignored"}
    negative, other = [i for i, n in enumerate(NAMES) if n == "negative"][:2]
    three = NAMES.index("3+")
    correction = Correction.parse(
        {
            "changed": [[negative, "2+"], [three, "negative"], [other, "positive"], [NAMES.index("1+"), "positive"]],
            "added": [[5, 6, "1+"], [7, 8, "negative"], [9, 10, "positive"]],
        }
    )
    assert Correction.parse(correction.to_json()) == correction
    done = correct(CELLS, correction).cells
    assert done.intensity is not None
    assert done.intensity[[negative, three, other, NAMES.index("1+")]].tolist() == [2, 0, UNKNOWN_INTENSITY, 1]
    assert done.intensity[-3:].tolist() == [1, 0, UNKNOWN_INTENSITY]
    assert ((done.intensity > 0) == (done.cell_class == CellClass.POSITIVE)).all()
    assert cell_names(done)[other] == "positive"
    assert cell_names(done)[negative] == "2+"


def test_classes_are_refused_where_the_marker_has_none() -> None:
    nuclear = dataclasses.replace(CELLS, intensity=None)
    assert "no intensities" in (Correction(changed=((0, "2+"),)).problem(nuclear, 256) or "")
    assert "no intensities" in (Correction(added=((1.0, 1.0, "1+"),)).problem(nuclear, 256) or "")
    assert Correction(changed=((0, "2+"),)).problem(CELLS, 256) is None


def test_a_record_holds_the_intensities_of_its_tumour_cells() -> None:
    tile = _label()
    record = _record(tile)
    assert problems_of(record) == []
    counted = tile.cells.tumour & (tile.cells.cell_class != CellClass.OTHER)
    assert tile.cells.intensity is not None
    assert record["cells/intensity"] == tile.cells.intensity[counted].tolist()
    read = decode_example(encode_example(record))
    assert read["cells/intensity"] == record["cells/intensity"]


def test_a_corrected_intensity_reaches_the_record_and_an_unknown_one_takes_all_away() -> None:
    tile = _label()
    names = cell_names(tile.cells)
    at = names.index("negative")
    before = _record(tile)["cells/intensity"]
    known = _record(tile, Correction(changed=((at, "3+"),)))
    assert problems_of(known) == []
    assert sum(a != b for a, b in zip(known["cells/intensity"], before, strict=True)) == 1
    assert known["cells/intensity"].count(3) == before.count(3) + 1
    unknown = _record(tile, Correction(changed=((at, "positive"),)))
    assert problems_of(unknown) == []
    assert "cells/intensity" not in unknown
    assert CLASSES_UNKNOWN in unknown["tile/flags"]
    assert unknown["label/positive"] == known["label/positive"]
    assert unknown["label/weight"] == 1, "the ratio is known all the same"


def test_a_cell_of_unknown_intensity_that_is_ignored_again_does_not_count() -> None:
    tile = _label()
    at = cell_names(tile.cells).index("negative")
    record = _record(tile, Correction(changed=((at, "ignored"),), added=((3.0, 3.0, "2+"),)))
    assert problems_of(record) == []
    assert record["cells/intensity"][-1] == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r.pop("cells/intensity"), "without the flag classes_unknown"),
        (lambda r: r["tile/flags"].append(CLASSES_UNKNOWN), "without the flag classes_unknown"),
        (lambda r: r.update({"label/marker": "pdl1"}), "expected of HER2"),
        (lambda r: r["cells/intensity"].pop(), "values 0 to 3"),
        (lambda r: r["cells/intensity"].__setitem__(0, 4), "values 0 to 3"),
        (lambda r: r["cells/intensity"].__setitem__(0, int(not r["cells/positive"][0])), "exactly where"),
    ],
)
def test_intensities_that_contradict_the_record_are_found(change, sentence: str) -> None:
    settings = TinyRecords(marker="her2", tile_px=64, few_cells_every=0)
    record = tiny_record(np.random.default_rng(0), settings, "case", 0, 0)
    assert problems_of(record) == []
    change(record)
    assert any(sentence in p for p in problems_of(record)), problems_of(record)


def test_the_page_shows_and_takes_intensities(tmp_path: Path) -> None:
    folder = tiny_review(tmp_path, pairs=1, tiles=2, tile_px=128, marker="her2")
    page = client(review_of(folder))
    item = next(i for i in page.get("/api/review/queue").json()["items"] if i["positive"])
    tile = page.get(f"/api/review/tiles/{item['pair']}/{item['col']}/{item['row']}").json()
    assert tile["has_intensities"]
    assert sum(tile["name"].count(k) for k in ("1+", "2+", "3+")) == item["positive"]
    body = {k: item[k] for k in ("pair", "col", "row", "label_id")} | {"reviewer": "Dr. A", "verdict": "accept"}
    body["correction"] = {"changed": [[tile["name"].index("negative"), "3+"]]}
    assert page.post("/api/review/decisions", json=body).status_code == 201
    nuclear = client(review_of(tiny_review(tmp_path / "ki67", pairs=1, tiles=2, tile_px=128)))
    item = nuclear.get("/api/review/queue").json()["items"][0]
    body |= {k: item[k] for k in ("pair", "col", "row", "label_id")}
    answer = nuclear.post("/api/review/decisions", json=body)
    assert answer.status_code == 422
    assert "no intensities" in answer.text


def test_intensities_go_to_qupath_and_back() -> None:
    verdict = Verdict(Place("case", 3, 4), "0123456789abcdef" * 2, Decision.ACCEPT, "Dr. A")
    out = to_geojson([TileOut(verdict.place, verdict.label_id, Box(0, 0, 256, 256), verdict, CELLS)], 256, (0.0, 0.0))
    value = json.loads(out)
    classes = [f["properties"]["classification"]["name"] for f in value["features"][1:]]
    assert classes == ["Negative", "Ignored", "1+", "2+", "3+"]
    (tile,) = from_geojson(out)
    assert difference(CELLS, tile.points) is None
    points = {k: list(v) for k, v in tile.points.items()}
    points["3+"].append(points["1+"].pop(0))
    found = difference(CELLS, {k: np.array(v) for k, v in points.items()})
    assert found == Correction(changed=((NAMES.index("1+"), "3+"),))
