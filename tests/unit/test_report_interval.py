"""Interval, out of training range, engine and schema of a report."""

import dataclasses
import json
from pathlib import Path

import jsonschema_rs
import numpy as np
import pytest

from tests.fixtures.reports import scored
from virtual_stain.appearance import Appearance
from virtual_stain.config import ScoringSettings
from virtual_stain.intervals import OutOfFold, fit_interval
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.report import report as module
from virtual_stain.report.html import report_html
from virtual_stain.report.report import make_report, report_json
from virtual_stain.report.table import scores_csv
from virtual_stain.scoring.inputs import ScoreInput
from virtual_stain.slides.slide import SlideRef

SCHEMA = Path(module.__file__).parent / "schemas" / "report.v1.schema.json"


def payload():
    rng = np.random.default_rng(1)
    truth = rng.uniform(0.02, 0.7, 40)
    read = np.clip(truth + rng.normal(0, 0.05, 40), 0, 1)
    return fit_interval(
        OutOfFold(f"p{i}", "s", i % 5, float(r), float(t)) for i, (r, t) in enumerate(zip(read, truth, strict=True))
    )


def again(report, *, settings=None, looks=None, engine=None, **card):
    """The same scores under another card."""
    score = dataclasses.replace(
        report.score,
        card=dataclasses.replace(report.score.card, **card),
        looks=looks or {},
        engine=engine or {"name": "tensorflow", "precision": "float32", "device": "CPU"},
    )
    return make_report(report.slide, score, report.model_sha256, settings or report.settings, seen=False)


def value(report):
    return report_json(report, {"x": 1}, {"a.csv": {"sha256": "ab" * 32, "bytes": 3}})


def check(report):
    """The report's value, which the published schema must accept."""
    result = json.loads(json.dumps(value(report), allow_nan=False))
    jsonschema_rs.validator_for(json.loads(SCHEMA.read_text())).validate(result)
    return result


def test_a_reading_has_its_interval():
    result = check(again(scored(), intervals={"ki67": payload()}))
    reading = result["readings"]["ki67"]
    interval = reading["interval"]
    assert interval["low"] < reading["global_ratio"] < interval["high"]
    assert interval["reading"] == "global_ratio"
    assert interval["level"] == 0.9
    assert "no_interval" not in {w["code"] for w in result["warnings"]}


@pytest.mark.parametrize("flaw", ["no residuals", "outside", "centre", "few patients"])
def test_where_an_interval_would_not_hold_there_is_none_and_a_reason(flaw):
    intervals, settings, looks, reach = {"ki67": payload()}, None, {}, None
    if flaw == "no residuals":
        intervals = {}
    elif flaw == "few patients":
        intervals = {"ki67": fit_interval([OutOfFold("p", "s", 0, 0.1, 0.1)])}
    elif flaw == "centre":
        settings = ScoringSettings(crops="center")
    else:
        looks = {i: Appearance(0.9, 0.2, 0.01, -1.0, 0.8) for i in range(12)}
        keys = ("eosin_od", "other_od", "focus", "density")
        reach = {"n_slides": 3, "hematoxylin_od": [0.1, 0.5], "n_tiles": [1, None], **{k: [-9, 9] for k in keys}}
    report = again(scored(), intervals=intervals, training_range=reach, looks=looks, settings=settings)
    result = check(report)
    assert result["readings"]["ki67"]["interval"] is None
    codes = [w["code"] for w in result["warnings"]]
    assert "no_interval" in codes
    if flaw == "outside":
        assert "stain_outside_training" in result["readings"]["ki67"]["flags"]
        message = next(w["message"] for w in result["warnings"] if w["code"] == "stain_outside_training")
        assert "optical density of haematoxylin 0.9 (training slides: 0.1 to 0.5)" in message
    if flaw == "centre":
        assert "center_crops" in codes


def test_an_interval_beyond_its_patients_says_so():
    narrow = payload() | {"reading_range": [0.9, 0.95]}
    result = check(again(scored(), intervals={"ki67": narrow}))
    assert result["readings"]["ki67"]["interval"] is not None
    (warning,) = [w for w in result["warnings"] if w["code"] == "interval_extrapolated"]
    assert "90.0 to 95.0 %" in warning["message"]
    inside = check(again(scored(), intervals={"ki67": payload() | {"reading_range": [0.0, 1.0]}}))
    assert "interval_extrapolated" not in {w["code"] for w in inside["warnings"]}


def test_the_page_shows_the_interval_and_the_engine():
    engine = {"name": "tensorflow", "precision": "bfloat16", "checked_tiles": 4, "largest_difference": 0.00123}
    report = again(scored(), intervals={"ki67": payload()}, engine=engine)
    text = report_html(report, b"", lambda box: np.zeros((256, 256, 3), np.uint8))
    assert "90 % interval of the global ratio for a new patient" in text
    assert "largest difference to float32 on the centres of 4 tiles 0.0012" in text
    assert "no interval: the model carries no out-of-fold residuals" in report_html(
        again(scored()), b"", lambda box: np.zeros((256, 256, 3), np.uint8)
    )


def test_a_fast_engine_that_was_not_trusted_is_told():
    engine = {"name": "tensorflow", "precision": "float32", "checked_tiles": 4, "largest_difference": 0.03}
    result = check(again(scored(), engine=engine))
    assert "bfloat16_not_used" in {w["code"] for w in result["warnings"]}


@pytest.mark.parametrize(
    "report",
    [
        scored(),
        scored(used=[False] * 12),
        scored({Marker.KI67: [0.1] * 12, Marker.ER: [0.5] * 12}),
        scored(failed={2: "x"}),
        scored({Marker.KI67: [0.1] * 12, Marker.HER2: [0.5] * 12}),
        scored({Marker.HER2: [0.5] * 12}, used=[False] * 12),
    ],
    ids=["plain", "no reading", "two markers", "failed tile", "intensities", "no intensities"],
)
def test_every_kind_of_report_follows_the_published_schema(report):
    written = check(again(report))  # raises where the schema is not followed
    assert set(written["readings"]) == {m.value for m in report.readings}
    assert all(r["n_tiles"] == report.readings[Marker(m)].n_tiles for m, r in written["readings"].items())


def test_the_schema_refuses_what_is_not_a_report():
    validator = jsonschema_rs.validator_for(json.loads(SCHEMA.read_text()))
    good = json.loads(json.dumps(value(again(scored()))))
    for change in ({"schema_version": 2}, {"extra": 1}, {"readings": {}}):
        assert not validator.is_valid(good | change)
    good["readings"]["ki67"]["global_mean"] = 1.5
    assert not validator.is_valid(good)


def test_the_schema_takes_counts_above_one_where_the_unit_says_so():
    report = scored({Marker.KI67: [900.0] * 12}, definition=ValueDefinition.POSITIVE_COUNT)
    check(report)
    confused = json.loads(json.dumps(value(report)))
    confused["readings"]["ki67"]["unit"] = "fraction"
    assert not jsonschema_rs.validator_for(json.loads(SCHEMA.read_text())).is_valid(confused)


def test_the_table_over_all_slides_has_a_row_for_each_whatever_became_of_it():
    from virtual_stain.provenance import Outcome
    from virtual_stain.workflows.score_slides import Scored

    report = again(scored(), intervals={"ki67": payload()})
    items = [ScoreInput(SlideRef(Path(f"/s/{n}.svs")), Path("o")) for n in ("a", "b, ä", "c")]
    results = [
        Scored(Outcome("a", True), Path("o"), value(report)),
        Scored(Outcome("b, ä", False, "damaged\n  → copy it"), Path("o")),
    ]
    import csv
    import io

    rows = list(csv.DictReader(io.StringIO(scores_csv(items, results, report.score.card))))
    assert [(r["slide"], r["status"]) for r in rows] == [("a", "ok"), ("b, ä", "failed"), ("c", "pending")]
    assert float(rows[0]["ki67_global_ratio"]) == pytest.approx(report.readings[Marker.KI67].global_ratio, abs=1e-5)
    assert 0 < float(rows[0]["ki67_interval_low"]) < float(rows[0]["ki67_interval_high"])
    assert rows[1]["reason"] == "damaged → copy it"
    assert rows[1]["ki67_global_ratio"] == rows[2]["ki67_flags"] == ""
