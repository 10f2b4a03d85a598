"""What `vstain score` writes: names, columns and keys that others script against."""

import csv
import json

import pytest

from tests.fixtures.models import TinyPredictor, block_slide, coloured_is_tissue, tiny_card
from virtual_stain.markers import Marker
from virtual_stain.scoring import score as score_module
from virtual_stain.scoring.inputs import collect_inputs
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import ScoreOptions

READING = ["value_definition", "unit", "top_mean", "top_n", "global_mean", "global_ratio", "quantiles", "n_tiles"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    path = block_slide(folder / "slide.tiff", [[150, 170, None], [120, None, 200]])
    predictor = TinyPredictor(tiny_card(markers=(Marker.KI67, Marker.ER)))
    inputs = collect_inputs([path], None, out=folder / "out", mpp=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder))
        patch.setattr(score_module, "find_tissue", coloured_is_tissue)
        score_slides(inputs, ScoreOptions(model="unused"), predictor=predictor)
    return folder / "out"


def test_file_names(outputs):
    names = {p.name for p in outputs.iterdir() if p.name[0] != "."}
    kinds = ("report.json", "tiles.csv", "heatmap.png", "geojson", "report.html")
    assert names == {f"slide.{kind}" for kind in kinds} | {"run.json"}


def test_tile_table(outputs):
    rows = list(csv.reader((outputs / "slide.tiles.csv").read_text().splitlines()))
    columns = "col,row,x,y,width,height,ki67,ki67_tumour_cells,er,er_tumour_cells,tissue_fraction,used,flags"
    assert ",".join(rows[0]) == columns + ",used_ki67,used_er"  # these two with several markers only
    for row in rows[1:]:
        assert all(len(number.split(".")[1]) == 3 for number in row[2:6])
        assert row[11] in ("0", "1")
        assert 0 <= float(row[6]) <= 1
    places = [(int(r[1]), int(r[0])) for r in rows[1:]]
    assert places == sorted(places), "row by row from the top left"


def test_report(outputs):
    report = json.loads((outputs / "slide.report.json").read_text())
    for key in ("schema_version", "slide", "model", "readings", "tiles", "warnings", "timing", "software"):
        assert key in report
    assert set(report["model"]) == {"name", "version", "sha256"}
    assert list(report["readings"]) == ["ki67", "er"]
    for reading in report["readings"].values():
        assert list(reading)[: len(READING)] == READING
        assert {"interval", "flags"} <= set(reading)
    assert {"scored", "glass", "failed"} <= set(report["tiles"])
    assert report["tiles"]["scored"] == len((outputs / "slide.tiles.csv").read_text().splitlines()) - 1
    assert report["tiles"]["scored"] + report["tiles"]["glass"] == 6
    assert all(set(w) == {"code", "message"} for w in report["warnings"])


def test_geojson(outputs):
    value = json.loads((outputs / "slide.geojson").read_text())
    assert value["type"] == "FeatureCollection"
    assert {"origin", "offset_px0", "features"} <= set(value)
    for feature in value["features"]:
        ring = feature["geometry"]["coordinates"][0]
        assert feature["geometry"]["type"] == "Polygon"
        assert ring[0] == ring[-1]
