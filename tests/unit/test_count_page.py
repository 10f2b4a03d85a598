"""count.html and what a count is called: the words of each marker, what a page carries, and that it is kept."""

from __future__ import annotations

import datetime
import functools
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.unit.test_count_cli import FIELD, count, write
from virtual_stain.cli.main import _run
from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.outlines import with_legend
from virtual_stain.counting.source_words import source_words
from virtual_stain.counting.stain_plot import class_limits
from virtual_stain.provenance import RunRecord
from virtual_stain.workflows.count_page import count_page
from virtual_stain.workflows.count_words import count_lines, headline_of


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("count page")
    slide = write(folder / "<b>schnitt é 1.png", FIELD.rgb)
    command = ["count", str(slide), "--marker", "er", "--out", str(folder / "out"), "-q", "--jobs", "1", "--mpp", "0.5"]
    assert _run(command) == 0
    return folder / "out"


def _summary(done: Path, **changes: Any) -> dict[str, Any]:
    return {**json.loads((done / "summary.json").read_text()), **changes}


def test_the_page_of_a_slide_stands_alone_and_leads_with_the_value_and_its_interval(done: Path) -> None:
    page = (done / "count.html").read_text()
    summary = _summary(done)
    assert page.count("data:image/") >= 3
    for outside in ("http:", "https:", "<link", "url(", ' src="/'):
        assert outside not in page, outside
    assert "&lt;b&gt;schnitt é 1" in page
    assert "<b>schnitt" not in page
    assert f"{100 * summary['tumour']['ratio']:.1f} %" in page
    assert "95 % interval" in page
    assert page.index("ER positive tumour cells") < page.index("All nuclei")
    assert "nuclear_features_and_neighbourhood" not in page
    for warning in summary["warnings"]:
        assert warning.split("'")[0][:40] in page.replace("&#39;", "'")


def test_h_score_and_allred_are_of_er_and_pr_and_the_labelling_index_of_ki67(done: Path) -> None:
    for marker, shown in (("er", True), ("pr", True), ("ki67", False)):
        names = [line.name for line in count_lines(_summary(done, marker=marker))]
        assert ("H-score" in names) == ("Allred score" in names) == shown, marker
        assert ("H-score" in headline_of(_summary(done, marker=marker))) == shown
    assert headline_of(_summary(done, marker="ki67")).startswith("Ki67 labelling index ")
    assert {"h_score", "allred"} <= set(_summary(done)["tumour"]), "summary.json keeps all"


def test_a_count_without_tumour_cells_has_a_dash_and_says_why(done: Path) -> None:
    summary = _summary(done)
    summary["tumour"] = {**summary["tumour"], "ratio": None, "positive": 0, "negative": 0, "nuclei": 0}
    first = count_lines(summary)[0]
    assert (first.value, first.note) == ("–", "no tumour cells were counted")
    page = count_page(summary, overlay=b"", full=b"", stain=b"", date="2026-01-01", settings={})
    assert "no tumour cells were counted" in page


def test_a_score_of_her2_and_a_tps_stand_first(done: Path) -> None:
    shares = {"0": 0.5, "1+": 0.2, "2+": 0.2, "3+": 0.1}
    her2 = {"score": "2+", "note": "needs ISH", "fractions": shares, "rule": ""}
    lines = count_lines(_summary(done, marker="her2", her2=her2))
    assert (lines[0].name, lines[0].value, lines[0].note) == ("HER2 score", "2+", "needs ISH")
    assert lines[1].value == "50.0 / 20.0 / 20.0 / 10.0 %"
    assert "TPS" in count_lines(_summary(done, marker="pdl1"))[0].name


def test_a_finished_count_whose_page_is_gone_or_changed_is_made_again(tmp_path: Path) -> None:
    slide, out = write(tmp_path / "a.png", FIELD.rgb), tmp_path / "out"
    assert count(slide, out) == 0
    page = (out / "count.html").read_bytes()
    kept = (out / "count.html").stat().st_mtime_ns
    assert count(slide, out) == 0
    assert (out / "count.html").stat().st_mtime_ns == kept
    (out / "count.html").write_text("something else")
    assert count(slide, out) == 0
    assert (out / "count.html").read_bytes() == page


def test_cut_offs_that_coincide_leave_no_1_plus_and_are_named_once() -> None:
    settings = CountingSettings()
    assert class_limits(0.2, settings) == [(0.2, "1+ = positive"), (0.4, "2+"), (0.6, "3+")]
    assert class_limits(0.4, settings) == [(0.4, "2+ = positive; no nucleus is 1+"), (0.6, "3+")]
    same = CountingSettings(intensity_2_od=0.5, intensity_3_od=0.5)
    assert class_limits(0.2, same) == [(0.2, "1+ = positive"), (0.5, "3+; no nucleus is 2+")]
    assert class_limits(0.6, same) == [(0.6, "3+ = positive; no nucleus is 1+ or 2+")]


def test_an_overlay_says_of_what_slide_when_and_how_in_words(done: Path) -> None:
    image = np.full((300, 900, 3), 200, np.uint8)
    plain = with_legend(image, "region_of_interest", has_region=False)
    told = with_legend(image, "region_of_interest", has_region=False, slide="Präparat 7", date="2026-01-01")
    assert told.shape[0] > plain.shape[0], "a line with the slide and the date"
    assert "region that was drawn" in source_words("region_of_interest")
    assert "_" not in source_words("nuclear_features_and_neighbourhood")
    overlay = cv2.imread(str(done / "overlay_full.jpg"))
    height = FIELD.rgb.shape[0]
    bar = overlay[height - 10 : height - 5, 8:40].mean()
    assert bar < 40, "a black scale bar on the lower left"


def test_a_count_on_another_day_had_other_bytes_in_its_pictures(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = done.parent / "<b>schnitt é 1.png"
    of_file = datetime.datetime.fromtimestamp(slide.stat().st_mtime, datetime.UTC).date().isoformat()
    later_unix_s = time.time() + 3 * 86_400
    later = functools.partial(RunRecord, started_unix_s=later_unix_s)
    monkeypatch.setattr("virtual_stain.workflows.count_slide.RunRecord", later)
    command = ["count", str(slide), "--marker", "er", "--out", str(tmp_path), "-q", "--jobs", "1", "--mpp", "0.5"]
    assert _run(command) == 0
    assert f"slide file of {of_file}" in (tmp_path / "count.html").read_text()
    assert json.loads((tmp_path / "run.json").read_text())["started_unix_s"] == pytest.approx(later_unix_s, abs=1)
    names = {p.name for p in done.iterdir() if p.is_file()} - {"run.json"}
    assert {"overlay.jpg", "overlay_full.jpg", "count.html", "stain.png"} <= names
    assert [n for n in sorted(names) if (done / n).read_bytes() != (tmp_path / n).read_bytes()] == []
