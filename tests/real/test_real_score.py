"""Scoring of real slides and crops, with a network of redness: geometry, files and refusals, not the numbers."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.models import TinyPredictor, expected_reading, tiny_card, write_tiny_bundle
from virtual_stain.errors import NoTissueError, ResolutionError
from virtual_stain.geometry import Box, Size
from virtual_stain.scoring.inputs import collect_inputs
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.window import read_window
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import ScoreOptions

pytestmark = pytest.mark.real
ROOT = Path(os.environ.get("VSTAIN_REALDATA", ""))
if not os.environ.get("VSTAIN_REALDATA"):
    pytest.skip("VSTAIN_REALDATA does not name the folder of real slides", allow_module_level=True)

SLIDES = {
    "cmu-1-small-region": (ROOT / "wsi_small/cmu-1-small-region.svs", None),
    "L1": (ROOT / "histomicstk_he/L1.png", (0.5, 0.5)),
    "Easy1": (ROOT / "histomicstk_he/Easy1.png", (0.5, 0.5)),
}
# the window of the real thing: 307.2 µm, 1024 px
CARD = tiny_card(window_um=307.2, tile_px=1024)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    write_tiny_bundle(folder / "model", CARD)
    results = {}
    for name, (path, mpp) in SLIDES.items():
        inputs = collect_inputs([path], None, out=folder / "out", mpp=mpp)
        (results[name],) = score_slides(inputs, ScoreOptions(model=str(folder / "model"), jobs=2))
    return folder / "out", results


@pytest.mark.parametrize("name", SLIDES)
def test_every_output_is_written_and_the_tiles_lie_on_the_slide(scored, name):
    out, results = scored
    report = results[name].report
    assert report["tiles"]["failed"] == 0
    assert report["readings"]["ki67"]["n_tiles"] > 0
    for kind in ("heatmap.png", "report.html", "geojson", "tiles.csv"):
        assert (out / f"{name}.{kind}").stat().st_size > 300
    width, height = report["slide"]["width_px0"], report["slide"]["height_px0"]
    value = json.loads((out / f"{name}.geojson").read_text())
    assert len(value["features"]) == report["tiles"]["scored"]
    for feature in value["features"]:
        ring = np.array(feature["geometry"]["coordinates"][0]) + value["offset_px0"]
        assert (ring[0] == ring[-1]).all()
        x, y = ring[:, 0], ring[:, 1]
        assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0
        assert ring.min() >= 0
        assert x.max() <= width
        assert y.max() <= height


@pytest.mark.parametrize("name", SLIDES)
def test_the_table_holds_what_the_pixels_there_say(scored, name):
    out, _ = scored
    path, mpp = SLIDES[name]
    rows = list(csv.DictReader((out / f"{name}.tiles.csv").read_text().splitlines()))
    with open_slide(SlideRef(path, mpp)) as slide:
        for row in rows[:: max(1, len(rows) // 4)]:
            box = Box(*(float(row[k]) for k in ("x", "y", "width", "height")))
            assert box.width * slide.mpp.x == pytest.approx(307.2, abs=0.01)
            expected = expected_reading(read_window(slide, box, Size(1024, 1024)))
            assert float(row["ki67"]) == pytest.approx(expected["ki67"], abs=2e-4)


@pytest.mark.parametrize(
    ("file", "error"),
    [("test3-DAPI-2-_387_.ndpi", NoTissueError), ("tcga-cr-7395-01a-01-ts1.svs", ResolutionError)],
)
def test_slides_that_cannot_be_read_are_refused_with_the_reason(tmp_path, file, error):
    inputs = collect_inputs([ROOT / "wsi_small" / file], None, out=tmp_path, mpp=None)
    with pytest.raises(error):
        score_slides(inputs, ScoreOptions(model="unused"), predictor=TinyPredictor(CARD))
