"""The pictures: the right colour at the right place, and nothing that breaks on odd slides."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.reports import overview_picture, scored
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.report.colours import ColourScale
from virtual_stain.report.heatmap import heatmap_png, histogram_png, scale_bar_um, top_tiles
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


def test_the_colour_scale_holds_the_values_and_is_one_of_few():
    ratio, count = ValueText(ValueDefinition.POSITIVE_RATIO), ValueText(ValueDefinition.POSITIVE_COUNT)
    tops = {0.2: [0.1, 0.2], 0.5: [0.21, np.nan], 1.0: [0.7]}
    assert all(ColourScale.for_values(values, ratio).top == top for top, values in tops.items())
    assert ColourScale.for_values([], ratio).top == 0.2
    assert ColourScale.for_values([1300.0], count).top == 2000
    assert [ColourScale.for_values([v], count).top for v in (0.0, 34_000.0, 1e6)] == [200, 50_000, 1e6]
    assert ColourScale(2000, count).class_of(1300.0)[0] == "1200–1400 /mm²"
    scale = ColourScale(0.5, ratio)
    assert scale.class_of(0.0)[0] == "0–5 %"
    assert scale.class_of(0.5)[0] == "45–50 %"
    assert scale.rgb([0.0, 0.5]).tolist() == [[68, 1, 84], [253, 231, 37]]
