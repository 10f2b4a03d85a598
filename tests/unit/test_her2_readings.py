"""From the shares of the intensities of tiles to a slide's score, and what is written about it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.models import INTENSITY_SHARES, TinyPredictor, tiny_card
from tests.fixtures.reports import scored
from virtual_stain.errors import ModelError
from virtual_stain.evaluation.intensities import intensity_figures
from virtual_stain.evaluation.predict import TileTable
from virtual_stain.evaluation.slide_figures import ReadingRule
from virtual_stain.her2 import HER2_RULE, NEEDS_ISH, Her2Reading, her2_fractions, her2_score
from virtual_stain.markers import Marker
from virtual_stain.provenance import Outcome
from virtual_stain.report.geojson import tiles_geojson
from virtual_stain.report.report import report_json, tiles_csv
from virtual_stain.report.table import scores_csv
from virtual_stain.scoring.inputs import ScoreInput
from virtual_stain.scoring.score import _predict
from virtual_stain.slides.slide import SlideRef
from virtual_stain.workflows.score_slides import Scored
from virtual_stain.workflows.score_words import summary


@pytest.mark.parametrize(
    ("fractions", "score"),
    [
        ((1.0, 0.0, 0.0, 0.0), "0"),
        ((0.90, 0.10, 0.0, 0.0), "0"),
        ((0.89, 0.11, 0.0, 0.0), "1+"),
        ((0.50, 0.40, 0.10, 0.0), "1+"),
        ((0.50, 0.39, 0.11, 0.0), "2+"),
        ((0.99, 0.0, 0.0, 0.01), "2+"),
        ((0.40, 0.40, 0.10, 0.10), "2+"),
        ((0.89, 0.0, 0.0, 0.11), "3+"),
    ],
)
def test_the_rule_at_its_limits(fractions, score):
    assert her2_score(fractions) == score
    assert Her2Reading.of(fractions).needs_ish == (score == "2+")


def test_tiles_weigh_what_they_expect_of_tumour_cells():
    shares = np.array([[0.1, 0.0, 0.0], [0.2, 0.3, 0.4]])
    found = her2_fractions(shares, np.array([30.0, 10.0]))
    np.testing.assert_allclose(found, (0.7, 0.125, 0.075, 0.1))
    assert her2_fractions(shares, np.zeros(2)) is None
    assert her2_fractions(np.zeros((0, 3)), np.zeros(0)) is None
    assert Her2Reading.of(None).to_dict("nothing") == {"score": None, "reason": "nothing", "rule": HER2_RULE}


STAINED = [i / 20 for i in range(12)]
SHARE = sum(STAINED) / 12  # all tiles expect as many cells


def test_the_report_holds_score_shares_and_the_warning_that_goes_with_2_plus():
    value = report_json(scored({Marker.HER2: STAINED}), {}, {})
    found = value["readings"]["her2"]["her2"]
    expected = [1 - SHARE, *(SHARE * s for s in INTENSITY_SHARES)]
    np.testing.assert_allclose(list(found["fractions"].values()), expected, atol=1e-6)
    assert (found["score"], found["note"], found["rule"]) == ("2+", NEEDS_ISH, HER2_RULE)
    codes = [w["code"] for w in value["warnings"]]
    assert "her2_equivocal" in codes
    assert "her2_expected_shares" in codes
    assert "her2" not in report_json(scored(), {}, {})["readings"]["ki67"]


def test_without_a_tile_that_carries_a_reading_there_is_no_score():
    value = report_json(scored({Marker.HER2: STAINED}, used=[False] * 12), {}, {})
    found = value["readings"]["her2"]["her2"]
    assert found["score"] is None
    assert "fractions" not in found
    assert found["reason"] == "no tile carries a reading"


def test_tiles_and_measurements_carry_the_classes():
    report = scored({Marker.KI67: [0.2] * 12, Marker.HER2: STAINED}, failed={3: "x"})
    rows = list(csv.DictReader(io.StringIO(tiles_csv(report.score))))
    assert list(rows[0])[6:13] == [*Marker.KI67.outputs, *Marker.HER2.outputs]
    for i, row in enumerate(rows):
        found = [row[name] for name in Marker.HER2.intensity_outputs]
        wanted = [""] * 3 if i == 3 else [f"{STAINED[i] * s:.6f}" for s in INTENSITY_SHARES]
        assert found == wanted
    measured = json.loads(tiles_geojson(report))["features"]
    assert measured[5]["properties"]["measurements"]["her2_class_2"] == pytest.approx(STAINED[5] * 0.3)
    assert "her2_class_2" not in measured[3]["properties"]["measurements"]


def test_the_table_and_the_terminal_say_the_score():
    report = scored({Marker.HER2: STAINED})
    item = ScoreInput(SlideRef(Path("/s/a.svs")), Path("o"))
    result = Scored(Outcome("a", True), Path("o"), report_json(report, {}, {}))
    (row,) = csv.DictReader(io.StringIO(scores_csv([item], [result], report.score.card)))
    assert row["her2_score"] == "2+"
    assert f"HER2 score 2+ ({NEEDS_ISH})" in summary(result)
    assert "HER2-stained global ratio 27.5 %" in summary(result), "a share is not called HER2 alone"


def test_a_model_whose_class_is_no_fraction_is_refused():
    card = tiny_card(markers=(Marker.HER2,))
    predictor = TinyPredictor(card)
    tile = np.full((128, 128, 3), 100, np.uint8)
    assert set(_predict(predictor, [tile], card.outputs)) == set(Marker.HER2.outputs)
    answer = predictor.predict
    predictor.predict = lambda tiles: answer(tiles) | {"her2_class_3": np.array([1.2], np.float32)}
    with pytest.raises(ModelError, match=r"her2_class_3 from 0 to 1\. Received: 1\.2"):
        _predict(predictor, [tile], card.outputs)
    predictor.predict = lambda tiles: {k: v for k, v in answer(tiles).items() if k != "her2_class_1"}
    with pytest.raises(ModelError, match="answer her2_class_1"):
        _predict(predictor, [tile], card.outputs)


def table(**changes) -> TileTable:
    """Four tiles of two slides; the last has no known intensities."""
    n = 4
    cells = np.array([100.0, 300.0, 50.0, 50.0])
    intensities = np.array([[10.0, 0, 0], [60.0, 30, 30], [0.0, 0, 30], [np.nan] * 3])
    columns = {
        "pair": np.array(["a", "a", "b", "b"]),
        "patient": np.array(["p", "p", "q", "q"]),
        "marker": np.array(["her2"] * n),
        "col": np.arange(n),
        "row": np.zeros(n, np.int64),
        "tissue_fraction": np.ones(n),
        "weight": np.ones(n),
        "usable": np.ones(n),
        "clear": np.ones(n),
        "positive": np.array([10.0, 120, 30, 20]),
        "cells": cells,
        "counted": np.array([10.0, 120, 30, 20]),
        "whole": cells,
        "value": np.array([0.2, 0.4, 0.5, 0.5]),
        "expected_cells": np.array([100.0, 100, 60, 20]),
        "intensities": intensities,
        "intensity_shares": np.array([[0.1, 0.05, 0.05], [0.2, 0.1, 0.1], [0.1, 0.1, 0.3], [0.1, 0.1, 0.3]]),
        "registration_um": np.full(n, 5.0),
        "fold": np.zeros(n, np.int64),
    }
    return dataclasses.replace(TileTable(**columns), **changes)


RULE = ReadingRule(min_tissue_fraction=0.5, min_tumour_cells=50, top_n=30)


def test_an_evaluation_compares_shares_by_hand():
    found = intensity_figures(table(), RULE)
    a, b = found["slides"]
    # read: used tiles by expected cells; counted: cells of the tiles with intensities
    np.testing.assert_allclose(list(a["read"]["fractions"].values()), [0.7, 0.15, 0.075, 0.075])
    np.testing.assert_allclose(list(a["counted"]["fractions"].values()), [270 / 400, 70 / 400, 30 / 400, 30 / 400])
    assert (a["read"]["score"], a["counted"]["score"]) == ("2+", "2+")
    np.testing.assert_allclose(list(b["read"]["fractions"].values()), [0.5, 0.1, 0.1, 0.3])
    np.testing.assert_allclose(list(b["counted"]["fractions"].values()), [0.4, 0, 0, 0.6], atol=1e-9)
    assert found["score_agreement"] == {
        "n": 2,
        "equal": 2,
        "scores": ["0", "1+", "2+", "3+"],
        "counted_by_read": [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    }
    assert found["tiles"]["n"] == 3
    errors = np.array([[0.1, 0, 0.05, 0.05], [0, 0, 0, 0], [0.1, 0.1, 0.1, 0.3]])
    np.testing.assert_allclose(list(found["tiles"]["mae"].values()), errors.mean(axis=0), atol=1e-9)
    slide_errors = np.array([[0.025, 0.025, 0, 0], [0.1, 0.1, 0.1, 0.3]])
    np.testing.assert_allclose(list(found["slide_mae"].values()), slide_errors.mean(axis=0), atol=1e-9)


def test_a_slide_without_counted_classes_or_readings_has_no_score_and_does_not_count():
    unknown = intensity_figures(table(intensities=np.full((4, 3), np.nan)), RULE)
    assert unknown["score_agreement"]["n"] == 0
    assert unknown["tiles"]["mae"] is None
    assert unknown["slides"][0]["counted"] == {"score": None, "reason": "no tile has counted intensities"}
    unread = intensity_figures(table(expected_cells=np.ones(4)), RULE)
    assert unread["slides"][0]["read"] == {"score": None, "reason": "no tile carries a reading"}
    assert unread["slide_mae"] is None
