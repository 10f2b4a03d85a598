"""Panels: evidence of three kinds, classes of published rule sets, and what cannot be told."""

import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.reports import scored
from virtual_stain.cli.main import _run
from virtual_stain.errors import ConfigError, InputError
from virtual_stain.her2 import read_her2
from virtual_stain.markers import Marker
from virtual_stain.report.panel.evidence import GIVEN, Evidence, Panel, collect, wilson
from virtual_stain.report.panel.rules import apply_rules, load_rule_sets, parse_rule_set
from virtual_stain.report.report import report_json

RULES = {rules.id: rules for rules in load_rule_sets()}
ST_GALLEN, MAISONNEUVE = RULES["subtype-st-gallen-2013"], RULES["luminal-maisonneuve-2014"]


def _panel(*, her2=None, ish=None, **values):
    """Fractions, or (value, low, high), by marker id."""
    evidence = []
    for name, value in values.items():
        number, interval = (value, None) if isinstance(value, float) else (value[0], value[1:])
        evidence.append(Evidence(marker=Marker(name), origin=GIVEN, value=number, interval=interval))
    if her2 or ish:
        evidence.append(Evidence(marker=Marker.HER2, origin=GIVEN, score=her2, ish=ish))
    return Panel(tuple(evidence))


def _report(path, readings, name="A 1", sha256="a" * 64):
    values = {}
    for marker, (value, interval) in readings.items():
        values[marker] = {
            "value_definition": "positive_ratio",
            "global_ratio": value,
            "global_mean": value,
            "top_mean": None if value is None else min(1.0, value + 0.1),
            "expected_tumour_cells": 900.0,
            "interval": interval,
            "flags": ["low_tissue"],
        }
    slide = {"name": name, "content_sha256": sha256}
    path.write_text(json.dumps({"schema_version": 1, "slide": slide, "readings": values}))
    return path


def _summary(path, marker="er", her2=None, **tumour):
    path.parent.mkdir(exist_ok=True)
    value = {"schema_version": 2, "marker": marker, "slide": {"name": "er"}, "tumour": tumour, "warnings": []}
    if her2 is not None:
        value["her2"] = her2
    path.write_text(json.dumps(value))
    return path


# the tables of the sources, at and beside every cut-off
@pytest.mark.parametrize(
    ("values", "subtype", "luminal"),
    [
        ({"er": 0.9, "pr": 0.20, "ki67": 0.19, "her2": "1+"}, "Luminal A-like", "Luminal A-like"),
        (
            {"er": 0.9, "pr": 0.19, "ki67": 0.19, "her2": "0"},
            "Luminal B-like (HER2 negative)",
            "Luminal B-like (HER2 negative)",
        ),
        ({"er": 0.9, "pr": 0.19, "ki67": 0.139, "her2": "0"}, "Luminal B-like (HER2 negative)", "Luminal A-like"),
        (
            {"er": 0.9, "pr": 0.0, "ki67": 0.14, "her2": "0"},
            "Luminal B-like (HER2 negative)",
            "Luminal B-like (HER2 negative)",
        ),
        (
            {"er": 0.01, "pr": 0.9, "ki67": 0.20, "her2": "0"},
            "Luminal B-like (HER2 negative)",
            "Luminal B-like (HER2 negative)",
        ),
        ({"er": 0.01, "pr": 0.9, "ki67": 0.05, "her2": "3+"}, "Luminal B-like (HER2 positive)", MAISONNEUVE.undefined),
        ({"er": 0.009, "pr": 0.009, "ki67": 0.5, "her2": "3+"}, "HER2 positive (non-luminal)", MAISONNEUVE.undefined),
        ({"er": 0.0, "pr": 0.0, "ki67": 0.5, "her2": "0"}, "Triple negative", MAISONNEUVE.undefined),
        ({"er": 0.0, "pr": 0.01, "ki67": 0.5, "her2": "0"}, ST_GALLEN.undefined, MAISONNEUVE.undefined),
        ({"er": 0.9, "pr": 0.2, "ki67": 0.1, "her2": "2+", "ish": "negative"}, "Luminal A-like", "Luminal A-like"),
        (
            {"er": 0.9, "pr": 0.2, "ki67": 0.1, "her2": "2+", "ish": "positive"},
            "Luminal B-like (HER2 positive)",
            MAISONNEUVE.undefined,
        ),
    ],
)
def test_subtypes_are_those_of_the_sources(values, subtype, luminal):
    assert apply_rules(ST_GALLEN, _panel(**values)).outcome == subtype
    assert apply_rules(MAISONNEUVE, _panel(**values)).outcome == luminal


@pytest.mark.parametrize(
    ("rules", "marker", "value", "name"),
    [
        ("er-asco-cap-2020", "er", 0.0, "ER negative"),
        ("er-asco-cap-2020", "er", 0.01, "ER Low Positive"),
        ("er-asco-cap-2020", "er", 0.10, "ER Low Positive"),
        ("er-asco-cap-2020", "er", 0.101, "ER positive"),
        ("pr-asco-cap-2020", "pr", 0.0099, "PR negative"),
        ("pr-asco-cap-2020", "pr", 0.01, "PR positive"),
        ("ki67-ikwg-2021", "ki67", 0.05, "Ki67 low"),
        ("ki67-ikwg-2021", "ki67", 0.29, "Ki67 between the reliable ends"),
        ("ki67-ikwg-2021", "ki67", 0.30, "Ki67 high"),
        ("pdl1-tps-22c3", "pdl1", 0.0099, "TPS below 1 %"),
        ("pdl1-tps-22c3", "pdl1", 0.01, "TPS 1 to 49 %"),
        ("pdl1-tps-22c3", "pdl1", 0.499, "TPS 1 to 49 %"),
        ("pdl1-tps-22c3", "pdl1", 0.50, "TPS 50 % or more"),
    ],
)
def test_cut_offs_are_those_of_the_sources(rules, marker, value, name):
    assert apply_rules(RULES[rules], _panel(**{marker: value})).outcome == name


@pytest.mark.parametrize(("score", "name"), [("0", "HER2 negative"), ("1+", "HER2 negative"), ("3+", "HER2 positive")])
def test_her2_scores(score, name):
    assert apply_rules(RULES["her2-asco-cap-2018"], _panel(her2=score)).outcome == name


def test_her2_2_plus_is_never_a_final_class():
    found = apply_rules(RULES["her2-asco-cap-2018"], _panel(her2="2+"))
    assert found.outcome is None
    assert found.possible == ("HER2 negative", "HER2 positive")
    assert found.reasons == ("HER2 2+ is equivocal: needs ISH.",)


def test_an_interval_across_a_cut_off_is_indeterminate_and_says_which():
    found = apply_rules(ST_GALLEN, _panel(er=0.9, pr=0.5, her2="0", ki67=(0.17, 0.12, 0.24)))
    assert found.outcome is None
    assert found.possible == ("Luminal A-like", "Luminal B-like (HER2 negative)")
    assert found.reasons == ("the interval of Ki67 (12.0–24.0 %) crosses 20 %.",)
    sure = apply_rules(ST_GALLEN, _panel(er=(0.9, 0.8, 1.0), pr=(0.5, 0.3, 0.6), her2="0", ki67=(0.1, 0.05, 0.19)))
    assert (sure.outcome, sure.reasons) == ("Luminal A-like", ())


def test_an_interval_that_ends_at_a_cut_off_touches_it():
    assert apply_rules(RULES["ki67-ikwg-2021"], _panel(ki67=(0.2, 0.1, 0.30))).outcome is None
    assert apply_rules(RULES["ki67-ikwg-2021"], _panel(ki67=(0.2, 0.05, 0.2))).outcome is None


def test_a_missing_marker_matters_only_where_it_decides():
    without_pr = apply_rules(ST_GALLEN, _panel(er=0.9, ki67=0.3, her2="0"))
    assert without_pr.outcome == "Luminal B-like (HER2 negative)"
    open_ = apply_rules(ST_GALLEN, _panel(er=0.9, ki67=0.1, her2="0"))
    assert open_.outcome is None
    assert open_.reasons == ("PR is not known.",)
    assert apply_rules(ST_GALLEN, _panel(pdl1=0.5)) is None


def test_a_class_without_intervals_says_so():
    found = apply_rules(ST_GALLEN, _panel(er=0.9, ki67=0.3, her2="0"))
    assert found.reasons == ("Ki67, ER without an interval: how sure this class is cannot be said.",)


_fractions = st.one_of(st.sampled_from([0.0, 0.01, 0.05, 0.10, 0.14, 0.20, 0.30, 1.0]), st.floats(0, 1))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([ST_GALLEN, MAISONNEUVE]), st.lists(_fractions, min_size=6, max_size=6), st.booleans())
def test_every_class_that_is_possible_is_found_and_no_other(rules, numbers, equivocal):
    names = ("er", "pr", "ki67")
    ranges = {name: tuple(sorted(numbers[2 * i : 2 * i + 2])) for i, name in enumerate(names)}
    panel = _panel(her2="2+" if equivocal else "0", **{m: (low, low, high) for m, (low, high) in ranges.items()})
    found = set(apply_rules(rules, panel).possible)
    # a dense grid with every cut-off: what is met there is possible
    grids = {}
    for name, (low, high) in ranges.items():
        marker = Marker(name)
        inside = [c for c in rules.cutoffs(marker) if low <= c <= high]
        near = [c + d for c in inside for d in (-1e-9, 1e-9) if low <= c + d <= high]
        grids[marker] = [*np.linspace(low, high, 5).clip(low, high), *inside, *near]
    met = {
        rules.classify(dict(zip(grids, values, strict=True)) | {Marker.HER2: status})
        for values in itertools.product(*grids.values())
        for status in (("negative", "positive") if equivocal else ("negative",))
    }
    assert met == found


def test_every_rule_set_is_cited_and_covers_each_class_once():
    assert set(RULES) == {
        "er-asco-cap-2020",
        "her2-asco-cap-2018",
        "ki67-ikwg-2021",
        "luminal-maisonneuve-2014",
        "pdl1-tps-22c3",
        "pr-asco-cap-2020",
        "subtype-st-gallen-2013",
    }
    for rules in RULES.values():
        assert re.search(r"\b20\d\d; \d+: ", rules.citation), rules.id
        assert rules.read in ("abstract", "secondary sources")
        assert len({o.name for o in rules.outcomes}) == len(rules.outcomes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "schema = 2",
        'schema = 1\nid="x"\nversion="1"\ntitle="t"\ncitation="c"\nread="r"\nundefined="u"\n'
        '[[outcome]]\nname="n"\nwhen=[{er={from=2}}]',
        "[[outcome",
    ],
)
def test_a_broken_rule_set_is_refused_by_name(text):
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        parse_rule_set(text, "mine.toml")


def test_evidence_of_all_three_kinds(tmp_path):
    report = _report(tmp_path / "a.report.json", {"ki67": (0.17, {"low": 0.1, "high": 0.3, "level": 0.9})})
    summary = _summary(tmp_path / "er-count" / "summary.json", positive=90, negative=10)
    panel = collect([report, summary], ["pr=35%", "her2=2+", "her2-ish=negative"])
    assert [e.marker.value for e in panel.evidence] == ["ki67", "er", "pr", "her2"]
    ki67, er, pr, her2 = panel.evidence
    assert (ki67.value, ki67.interval) == (0.17, (0.1, 0.3))
    assert "90%" in ki67.interval_note
    assert er.value == 0.9
    assert er.interval == pytest.approx((0.826, 0.945), abs=0.001)
    assert (pr.value, pr.interval) == (0.35, None)
    assert (her2.score, her2.ish) == ("2+", "negative")
    assert any("Ki67: little tissue" in text for text in panel.warnings)
    top = collect([report], [], reading="top_mean").evidence[0]
    assert top.interval is None  # it belongs to global_ratio


@pytest.mark.parametrize(("intensities", "score"), [([3, 3, 0, 0], "3+"), ([2, 0, 0, 0], "2+"), ([], None)])
def test_a_counted_her2_score_is_taken_as_it_was_read(tmp_path, intensities, score):
    value = read_her2(np.array(intensities, np.uint8)).to_dict("no cells")
    panel = collect([_summary(tmp_path / "her2" / "summary.json", "her2", value)], ["er=1"])
    her2 = panel.of(Marker.HER2)
    assert (her2 and her2.score) == score
    if score == "2+":
        assert apply_rules(RULES["her2-asco-cap-2018"], panel).outcome is None


def test_a_report_is_read_as_it_is_written(tmp_path):
    path = tmp_path / "a.report.json"
    report = scored()
    path.write_text(json.dumps(report_json(report, {}, {})))
    (ki67,) = collect([path], []).evidence
    assert ki67.value == report.readings[Marker.KI67].global_ratio
    assert ki67.slide_sha256 == report.slide.content_sha256


def test_a_reading_that_does_not_exist_is_not_known_and_said(tmp_path):
    panel = collect([_report(tmp_path / "a.report.json", {"ki67": (None, None)})], ["er=1"])
    assert panel.of(Marker.KI67) is None
    assert any("has no reading" in text for text in panel.warnings)


def test_predictions_of_different_slides_are_doubted(tmp_path):
    a = _report(tmp_path / "a.report.json", {"ki67": (0.1, None)})
    b = _report(tmp_path / "b.report.json", {"er": (0.1, None)}, name="B", sha256="b" * 64)
    assert any("different H&E slides (A 1, B)" in text for text in collect([a, b], []).warnings)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["er"], "expected MARKER=VALUE"),
        (["er=110%"], "expected a fraction"),
        (["er=nan"], "expected a fraction"),
        (["er=0.5", "ER=0.4"], "stands twice"),
        (["her2=0.5"], "expected one of: 0 1"),
        (["her2-ish=maybe"], "expected one of: positive negative"),
        (["her2=3+", "her2-ish=negative"], "with HER2 2"),
        (["xy=1"], "Expected a marker"),
        ([], "expected a report"),
    ],
)
def test_given_values_that_mean_nothing_are_refused(words, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        collect([], words)


def test_one_marker_from_two_sources_is_not_chosen_between(tmp_path):
    report = _report(tmp_path / "a.report.json", {"er": (0.1, None)})
    with pytest.raises(ConfigError, match=r"ER: expected one source\. Received 2: a\.report\.json, er=5%"):
        collect([report], ["er=5%"])


@pytest.mark.parametrize(
    "content",
    ['{"schema_version": 2, "readings": {}}', "[]", "no json", '{"schema_version": 1, "readings": {"ki67": {}}}'],
)
def test_files_of_another_kind_are_refused_by_name(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"x\.json"):
        collect([path], [])


def test_a_fraction_is_not_taken_for_a_her2_score(tmp_path):
    with pytest.raises(InputError, match="a share is no score"):
        collect([_report(tmp_path / "a.report.json", {"her2": (0.4, None)})], [])


@pytest.mark.parametrize(
    ("stained", "score", "outcome"),
    [(0.02, "0", "HER2 negative"), (0.3, "2+", None), (0.9, "3+", "HER2 positive"), (None, None, None)],
)
def test_a_predicted_her2_score_is_taken_as_the_report_says_it(tmp_path, stained, score, outcome):
    report = scored({Marker.HER2: [0.0 if stained is None else stained] * 12}, used=[stained is not None] * 12)
    path = tmp_path / "a.report.json"
    path.write_text(json.dumps(report_json(report, {}, {})))
    panel = collect([path], ["er=1"])
    her2 = panel.of(Marker.HER2)
    assert (her2 and her2.score) == score
    finding = apply_rules(RULES["her2-asco-cap-2018"], panel)
    assert (finding and finding.outcome) == outcome
    if outcome:
        assert finding.reasons == ("HER2 without an interval: how sure this class is cannot be said.",)
    if score == "2+":
        assert finding.reasons == ("HER2 2+ is equivocal: needs ISH.",)


@pytest.mark.parametrize(("stained", "joins"), [(0.3, True), (0.9, False)])
def test_ish_belongs_to_the_2_plus_of_a_report_and_to_no_other_score(tmp_path, stained, joins):
    path = tmp_path / "a.report.json"
    path.write_text(json.dumps(report_json(scored({Marker.HER2: [stained] * 12}), {}, {})))
    if not joins:
        with pytest.raises(ConfigError, match="HER2: expected one source"):
            collect([path], ["her2-ish=negative"])
        return
    (her2,) = collect([path], ["her2-ish=negative"]).evidence
    assert (her2.score, her2.ish, her2.source) == ("2+", "negative", "a.report.json, her2-ish=negative")
    assert apply_rules(RULES["her2-asco-cap-2018"], Panel((her2,))).outcome == "HER2 negative"


def test_wilson_intervals():
    assert wilson(0, 100) == pytest.approx((0.0, 0.0370), abs=1e-4)
    assert wilson(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert wilson(100, 100)[1] == 1.0


def test_the_command_writes_a_page_that_holds_everything(tmp_path, capsys):
    report = _report(
        tmp_path / "a.report.json", {"ki67": (0.17, {"low": 0.1, "high": 0.3, "level": 0.9})}, name="<b>Ä 1</b>"
    )
    out = tmp_path / "out"
    arguments = ["panel", str(report), "--given", "er=92%", "--given", "her2=2+", "--out", str(out)]
    assert _run(arguments) == 0
    assert "indeterminate" in capsys.readouterr().out
    value = json.loads((out / "panel.json").read_text())
    assert value["findings"]["her2-asco-cap-2018"]["class"] == "indeterminate"
    assert value["findings"]["er-asco-cap-2020"]["class"] == "ER positive"
    assert value["evidence"]["ki67"]["interval"] == {"low": 0.1, "high": 0.3}
    page = (out / "panel.html").read_text()
    assert "<b>Ä" not in page
    assert "http" not in re.sub(r"doi:\S+", "", page)  # nothing is loaded from elsewhere
    assert "needs ISH" in page
    assert _run(arguments) == 3  # a panel lies there
    assert _run([*arguments, "--force"]) == 0
    assert _run(["panel", "--out", str(out)]) == 2


def test_ten_cells_made_a_tps_of_a_hundred_percent(tmp_path):
    """The rule's own note asks for 100 viable tumour cells, and a count of 10 got the class "TPS 50 % or more"."""
    rules = {r.id: r for r in load_rule_sets()}["pdl1-tps-22c3"]
    few = collect([_summary(tmp_path / "few" / "summary.json", "pdl1", positive=10, negative=0)], [])
    finding = apply_rules(rules, few)
    assert finding.outcome is None
    assert "10 tumour cells: at least 100" in finding.reasons[0]
    enough = collect([_summary(tmp_path / "enough" / "summary.json", "pdl1", positive=90, negative=10)], [])
    assert apply_rules(rules, enough).outcome == "TPS 50 % or more"
    given = collect([], ["pdl1=90%"])
    assert apply_rules(rules, given).outcome == "TPS 50 % or more", "how many cells a person counted is not known"
