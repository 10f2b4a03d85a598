"""The pictures: the right colour at the right place, and nothing that breaks on odd slides."""

import io
import json
import warnings

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.reports import overview_picture, scored
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.report.colours import ColourScale
from virtual_stain.report.geojson import tiles_geojson
from virtual_stain.report.headline import headline_text
from virtual_stain.report.heatmap import heatmap_png, histogram_png, scale_bar_um, top_tiles
from virtual_stain.report.report import reading_json
from virtual_stain.value_text import ValueText


def picture(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_the_picture_shows_each_reading_in_its_colour():
    """Two runs that differ in one tile differ in the picture there, and only there."""
    first, second = ([0.1] * 12 for _ in range(2))
    second[5] = 0.19
    a, b = (picture(heatmap_png(scored({Marker.KI67: v}, top_n=1), overview_picture())) for v in (first, second))
    assert a.shape == b.shape
    ys, xs = np.nonzero(np.abs(a - b).max(axis=-1) > 20)
    panel = xs > a.shape[1] * 0.45 if a.shape[1] > a.shape[0] else ys > a.shape[0] * 0.45
    assert panel.mean() > 0.5


@pytest.mark.parametrize(
    "report",
    [
        scored(used=[False] * 12),
        scored(failed=dict.fromkeys(range(3), "damaged")),
        scored({Marker.KI67: [0.2] * 12, Marker.ER: [0.8] * 12}),
        scored(stride_um=19.2),
        scored(name="切片 $x_1$ {0}"),
    ],
    ids=["nothing used", "failed", "two markers", "overlapping", "odd name"],
)
def test_pictures_of_odd_slides(report):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picture(heatmap_png(report, overview_picture())).shape[0] > 300
        for marker in report.readings:
            data = histogram_png(report, marker)
            assert (data is None) == (report.readings[marker].n_tiles == 0)


def test_top_tiles_are_the_highest_used_ones():
    report = scored({Marker.KI67: [0.5, 0.9, 0.1, 0.9, 0.8] + [0.0] * 7}, used=[True, False] + [True] * 10)
    assert top_tiles(report.score.markers[Marker.KI67], 3) == [3, 4, 0]
    assert top_tiles(scored(used=[False] * 12).score.markers[Marker.KI67], 3) == []


@pytest.mark.parametrize(("width_um", "bar"), [(100, 20), (800, 200), (1110, 200), (20_000, 5000), (3.9, 0.5)])
def test_the_scale_bar_is_round_and_at_most_a_quarter(width_um, bar):
    assert scale_bar_um(width_um) == pytest.approx(bar)


def test_a_value_has_one_colour_on_every_slide_and_its_class_holds_it():
    ratio, count = (ColourScale(ValueText(d)) for d in (ValueDefinition.POSITIVE_RATIO, ValueDefinition.POSITIVE_COUNT))
    assert (ratio.top, count.top) == (1.0, 10_000.0)
    names = {0.0: "0–1 %", 0.009: "0–1 %", 0.01: "1–5 %", 0.14: "10–20 %", 0.5: "50–60 %", 1.0: "80–100 %"}
    assert {value: ratio.class_of(value)[0] for value in names} == names
    assert [count.class_of(v)[0] for v in (0.0, 1300.0, 34_000.0)] == ["0–100 /mm²", "1000–2000 /mm²", "≥ 5000 /mm²"]
    assert ratio.rgb([0.0, 1.0]).tolist() == [[68, 1, 84], [253, 231, 37]]
    assert ratio.rgb(0.25).tolist() == ratio.table()[128].tolist(), "the square root of a quarter is a half"
    assert ratio.rgb([0.3, 0.9])[0].tolist() == ratio.rgb(0.3).tolist(), "whatever stands beside it"


def test_the_colour_of_a_reading_is_the_same_beside_low_and_beside_high_ones():
    """Dark violet was 53 % on one slide and 0 on the next: each had a scale of its own."""
    found = []
    for other in (0.1, 0.9):
        report = scored({Marker.KI67: [0.3] + [other] * 11}, top_n=1)
        features = json.loads(tiles_geojson(report))["features"]
        found.append(features[0]["properties"]["classification"])
    assert found[0] == found[1]


def test_the_picture_leads_with_the_global_ratio():
    report = scored({Marker.KI67: [0.1] * 6 + [0.4] * 6}, top_n=3)
    text = headline_text("ki67", reading_json(report, Marker.KI67))
    assert text.startswith("Ki67 global ratio 25.0 % (no interval), top 3 tiles 40.0 % (")
    assert "biased upward" in text
