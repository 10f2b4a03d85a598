"""The report: numbers, nulls with a reason, and a page that opens from disk."""

import csv
import dataclasses
import html.parser
import io
import json

import numpy as np
import pytest

from tests.fixtures.reports import scored
from virtual_stain.config import ScoringSettings
from virtual_stain.errors import SlideError
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.report.geojson import tiles_geojson
from virtual_stain.report.html import report_html
from virtual_stain.report.report import make_report, report_json, tiles_csv


def as_json(report):
    return json.loads(json.dumps(report_json(report, {}, {}), allow_nan=False))


def test_readings_of_the_used_tiles():
    report = scored(used=[True] * 10 + [False] * 2, top_n=3)
    reading = as_json(report)["readings"]["ki67"]
    values = [i / 20 for i in range(10)]
    assert reading["top_mean"] == pytest.approx(np.mean(values[-3:]))
    assert reading["global_mean"] == reading["global_ratio"] == pytest.approx(np.mean(values))
    assert (reading["n_tiles"], reading["top_n"]) == (10, 3)
    assert reading["unit"] == "fraction"
    assert reading["value_definition"] == "positive_ratio"


def test_a_value_that_does_not_exist_is_null_with_its_reason():
    value = as_json(scored(used=[False] * 12))
    reading = value["readings"]["ki67"]
    for name in ("top_mean", "global_mean", "global_ratio", "quantiles", "interval", "expected_tumour_cells"):
        assert reading[name] is None
    reasons = {w["code"]: w["message"] for w in value["warnings"]}
    assert "there is no reading" in reasons["no_valid_tiles"]
    assert "0.5" in reasons["no_valid_tiles"]
    assert "no_interval" in reasons


def test_a_count_is_told_in_cells_per_mm2_everywhere():
    density = {Marker.KI67: [100.0 * i for i in range(12)]}
    report = scored(density, definition=ValueDefinition.NEGATIVE_COUNT, top_n=3)
    reading = as_json(report)["readings"]["ki67"]
    assert (reading["value_definition"], reading["unit"]) == ("negative_count", "cells/mm2")
    assert (reading["global_ratio"], reading["global_mean"]) == pytest.approx((550, 550))
    assert reading["top_mean"] == pytest.approx(1000)
    assert reading["interval"] is None
    page = report_html(report, b"png", lambda box: np.zeros((256, 256, 3), np.uint8))
    assert "<b>550 /mm²</b>" in page
    assert "negative_count (cells/mm2)" in page
    assert "550 %" not in page
    assert "Ki67-negative predicted from H&amp;E" in page
    features = json.loads(tiles_geojson(report))["features"]
    assert features[7]["properties"]["classification"]["name"] == "Ki67-negative 600–800 /mm²"
    assert features[7]["properties"]["measurements"]["ki67_negative_count"] == 700.0


def test_flags_and_warnings_say_what_to_beware_of():
    report = scored(failed={2: "region damaged"}, seen=True, low_tissue_mm2=3, few_cells=5000, top_n=30)
    value = as_json(report)
    flags = value["readings"]["ki67"]["flags"]
    expected = {"fewer_than_30_tiles", "fewer_than_5000_tumour_cells", "slide_seen_in_training", "low_tissue"}
    expected.add("training_range_unknown")
    assert set(flags) == expected | {"failed_tiles"}
    assert {w["code"] for w in value["warnings"]} == set(flags) | {"no_interval"}
    assert value["tiles"]["failed"] == 1
    assert value["tiles"]["scored"] == 11
    biased = as_json(scored(top_n=3))
    assert "top_mean_biased" in biased["readings"]["ki67"]["flags"]
    assert "training_slides_unknown" in {w["code"] for w in biased["warnings"]}
    assert "training_slides_unknown" not in {w["code"] for w in as_json(scored(seen=False))["warnings"]}


def test_a_doubtful_tissue_mask_is_a_flag_of_every_reading():
    report = scored()
    doubtful = dataclasses.replace(report.score.tissue, warnings=("tissue: 100% of the scan is called tissue.",))
    score = dataclasses.replace(report.score, tissue=doubtful)
    value = as_json(make_report(report.slide, score, report.model_sha256, report.settings, seen=False))
    assert "tissue_mask" in value["readings"]["ki67"]["flags"]
    assert {"code": "tissue_mask", "message": doubtful.warnings[0]} in value["warnings"]
    assert "tissue_mask" not in as_json(report)["readings"]["ki67"]["flags"]


def test_overlapping_windows_do_not_multiply_the_cells():
    plain, dense = as_json(scored()), as_json(scored(stride_um=19.2))
    assert plain["readings"]["ki67"]["expected_tumour_cells"] == pytest.approx(12 * 120)
    assert dense["readings"]["ki67"]["expected_tumour_cells"] == pytest.approx(12 * 120 / 4)
    assert dense["readings"]["ki67"]["global_ratio"] == pytest.approx(plain["readings"]["ki67"]["global_ratio"])
    assert "overlapping_windows" in dense["readings"]["ki67"]["flags"]


def test_the_tile_table_lists_every_tissue_tile():
    report = scored(used=[True] * 11 + [False], failed={2: "damaged"})
    rows = list(csv.DictReader(io.StringIO(tiles_csv(report.score))))
    assert len(rows) == 12
    assert rows[1] == {
        "col": "1",
        "row": "0",
        "x": "1384.000",
        "y": "500.000",
        "width": "384.000",
        "height": "384.000",
        "ki67": "0.050000",
        "ki67_tumour_cells": "120.000",
        "tissue_fraction": "0.8000",
        "used": "1",
        "flags": "",
    }
    assert (rows[2]["ki67"], rows[2]["used"], rows[2]["flags"]) == ("", "0", "read_failed")
    assert rows[11]["used"] == "0"


class _Page(html.parser.HTMLParser):
    """Collects addresses and checks that every element is closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page(report, read=None):
    read = read or (lambda box: np.full((256, 256, 3), 128, np.uint8))
    parser = _Page()
    parser.feed(report_html(report, b"png", read))
    assert not parser.open
    return parser


def test_the_page_holds_everything_itself_and_says_what_it_is_not():
    parser = page(scored(top_n=3, gallery_tiles=4))
    assert len(parser.addresses) == 1 + 1 + 4
    assert all(a.startswith("data:image/") for a in parser.addresses)
    assert "Research use only" in parser.text
    assert "27.5 %" in parser.text
    assert "biased upward" in parser.text


def test_a_name_is_text_and_never_markup():
    parser = page(scored(name="<script>alert(1)</script>"))
    assert "<script>alert(1)</script>" in parser.text


def test_the_page_of_a_slide_without_readings():
    parser = page(scored(used=[False] * 12))
    assert "–" in parser.text
    assert len(parser.addresses) == 1


def test_two_markers_have_a_section_each():
    parser = page(scored({Marker.KI67: [0.1] * 12, Marker.ER: [0.9] * 12}, gallery_tiles=0))
    assert "Ki67 predicted" in parser.text
    assert "ER predicted" in parser.text


def test_the_page_says_how_far_off_the_model_is_or_that_nobody_knows():
    report = scored(gallery_tiles=0)
    assert "not known" in page(report).text
    tiles, slides = {"mae": 0.05, "n_labelled": 90, "n_patients": 3}, {"mae": 0.031, "n": 4}
    figures = {"held_out": "test fold", "markers": {"ki67": {"tiles": tiles, "slides": slides}}}
    card = dataclasses.replace(report.score.card, training={"evaluation": figures})
    text = page(dataclasses.replace(report, score=dataclasses.replace(report.score, card=card))).text
    assert "error of a slide 3.1 points (4 slides)" in text


def test_a_gallery_tile_that_cannot_be_read_is_an_error_of_the_slide():
    def broken(box):
        raise SlideError("gone")

    with pytest.raises(SlideError):
        page(scored(), broken)


def test_settings_out_of_range_are_refused():
    for field, value in {"top_n": 0, "batch_size": -1, "read_timeout_s": 0.0, "gallery_tiles": -1}.items():
        with pytest.raises(ValueError, match=field):
            ScoringSettings(**{field: value})
