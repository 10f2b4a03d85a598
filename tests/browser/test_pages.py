"""Every page that the program writes or serves: valid HTML, WCAG, no scrolling sideways, nothing from elsewhere."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.browser.conftest import accessibility_problems, html_problems, serving, until
from tests.fixtures.registration import toy_pair, toy_transform
from tests.fixtures.reports import overview_picture, scored
from tests.fixtures.review import tiny_review
from tests.fixtures.web import TOKEN, review_of, serve_config, serve_of
from tests.unit.test_build_records_summary import _manifest as manifest
from tests.unit.test_build_records_summary import _table as tile_table
from tests.unit.test_count_cli import FIELD, count, write
from tests.unit.test_evaluate import RULE, table
from virtual_stain.cli.main import _run
from virtual_stain.evaluation.figures import marker_figures
from virtual_stain.evaluation.html import evaluation_html
from virtual_stain.evaluation.plots import draw_plots
from virtual_stain.markers import ValueDefinition
from virtual_stain.report.heatmap import heatmap_png
from virtual_stain.report.html import report_html
from virtual_stain.report.report import report_json
from virtual_stain.web.guard import Access
from virtual_stain.web.serve.app import serve_app
from virtual_stain.web.serve.command import open_office
from virtual_stain.web.serve.jobs import NewJob
from virtual_stain.workflows.summary import Used, write_summary

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTHS = (1366, 1200, 810, 390)


def _evaluation(patients: int) -> str:
    rng = np.random.default_rng(2)
    n = 8 * patients
    names = np.repeat([f"p{i:02d}" for i in range(patients)], 8)
    level = np.repeat(rng.uniform(0.02, 0.6, patients), 8)
    positive = np.round(100 * level)
    read = np.clip(0.1 + 0.6 * level + rng.normal(0, 0.05, n), 0, 1)
    columns = {"pair": names, "patient": names, "positive": positive, "cells": np.full(n, 100.0), "value": read}
    tiles = table(n, **columns)
    figures = {"ki67": marker_figures(tiles, RULE, resamples=20)}
    value: dict[str, Any] = {
        "markers": figures, "value_definition": "positive_ratio", "unit": "fraction", "run": "runs/ki67",
        "held_out": "test fold 0", "duplicate_tissue": [], "kind": "run", "fold": 0, "best_step": 1,
        "runs": [{"name": "ki67", "fold": 0, "best_step": 100}], "rule": dataclasses.asdict(RULE),
    }  # fmt: skip
    return evaluation_html(value, draw_plots(tiles, figures, ValueDefinition.POSITIVE_RATIO))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    report = scored()
    pages = {
        "report": report_html(
            report, heatmap_png(report, overview_picture()), lambda box: np.zeros((256, 256, 3), np.uint8)
        ),
        "evaluation of 2": _evaluation(2),
        "evaluation of 48": _evaluation(48),
    }
    paths = {name: folder / f"{name}.html" for name in pages}
    for name, text in pages.items():
        paths[name].write_text(text, encoding="utf-8")
    assert count(write(folder / "slide.png", FIELD.rgb), folder / "count") == 0
    used = Used(tile_table(), (0, 1, 2), ("dab_default",))
    return {
        **paths,
        "count": folder / "count" / "count.html",
        "summary": write_summary(folder, manifest(), {"case-1": used}, {"case-1": folder}),
        "panel": _panel(folder),
        **_registrations(folder / "cohort"),
    }


def _panel(folder: Path) -> Path:
    """Predicted and given evidence, HER2 indeterminate."""
    report = folder / "p.report.json"
    report.write_text(json.dumps(report_json(scored(), {}, {})))
    given = ["--given", "er=60%", "--given", "pr=35%", "--given", "her2=2+"]
    assert _run(["panel", str(report), *given, "--out", str(folder / "panel"), "--title", "Präparat <7>"]) == 0
    return folder / "panel" / "panel.html"


def _registrations(folder: Path) -> dict[str, Path]:
    """A pair that is found, and one whose IHC slide is damaged."""
    folder.mkdir()
    pair = toy_pair(folder, toy_transform(20))
    (folder / "cut.png").write_bytes(pair.ihc.read_bytes()[:9000])
    rows = [
        "pair,patient,marker,he,ihc,he_mpp,ihc_mpp",
        "good,1,ki67,he.png,ihc.png,4,4",
        "cut,2,ki67,he.png,cut.png,4,4",
    ]
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    assert _run(["register", str(folder / "pairs.csv"), "--out", str(folder / "out"), "-q", "--jobs", "1"]) == 6
    page = folder / "out" / "good" / "registration.html"
    return {"registration": page, "registrations": folder / "out" / "index.html"}


def test_pages_from_disk_are_valid_html(written: dict[str, Path]) -> None:
    assert html_problems(*written.values()) == []


def test_served_pages_are_valid_html(tmp_path: Path, page: Page) -> None:
    folder = tiny_review(tmp_path / "records", pairs=1, tiles=4, tile_px=256)
    paths = []
    open_app = serve_of(tmp_path / "s")
    closed_app = serve_of(tmp_path / "s", token=TOKEN)
    with serving(review_of(folder)) as review, serving(closed_app) as closed, serving(open_app) as serve:
        addresses = {"review": review, "login": f"{closed}login", "serve": serve, "result": f"{serve}jobs/1"}
        for name, url in addresses.items():
            paths.append(tmp_path / f"{name}.html")
            paths[-1].write_text(page.request.get(url).text(), encoding="utf-8")
    assert html_problems(*paths) == []


def test_pages_from_disk_meet_wcag_and_never_scroll_sideways(page: Page, written: dict[str, Path], axe: str) -> None:
    for name, path in written.items():
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 844})
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
            if width >= 1200:
                inside = "[...document.querySelectorAll('.scroll')].every((e) => e.scrollWidth <= e.clientWidth)"
                assert page.evaluate(inside), (name, width)
        assert accessibility_problems(page, axe) == [], name


def test_an_evaluation_on_two_patients_draws_no_auc_and_says_that_they_are_too_few(written: dict[str, Path]) -> None:
    few, many = (written[f"evaluation of {n}"].read_text() for n in (2, 48))
    assert "2 patients are too few" in few
    assert "<th>AUC</th>" not in few
    assert "In 48 patients that the model had not seen, its Ki67 reading was off by" in many
    assert "for 95 of 100 patients expect it between" in many
    assert "<th>AUC</th>" in many
    assert many.index("off by") < many.index("Pearson"), "the sentence comes first"


def test_the_overlay_of_a_counted_slide_zooms_by_mouse_and_by_keyboard(page: Page, written: dict[str, Path]) -> None:
    page.goto(written["count"].as_uri())
    style = "document.getElementById('picture').style.transform"
    until(page, f"{style}.includes('scale')")
    seen = [page.evaluate(style)]
    page.locator("#zoom").focus()
    for key in ("+", "+", "ArrowRight", "ArrowDown", "-", "0"):
        page.keyboard.press(key)
        seen.append(page.evaluate(style))
    assert seen[0] == seen[-1], "0 shows the whole picture again"
    assert len(set(seen)) >= 4
    page.locator("#zoom").hover()
    page.mouse.wheel(0, -300)
    until(page, f"{style} !== {seen[-1]!r}")
    page.click("#part")
    until(page, "document.getElementById('part').getAttribute('aria-pressed') === 'true'")


def test_all_of_260_jobs_are_seen_and_the_first_can_be_cancelled(page: Page, tmp_path: Path) -> None:
    config = serve_config(tmp_path, max_queued_slides=500)
    (tmp_path / "out").mkdir()
    office = open_office(tmp_path / "out", config)
    office.jobs.submit([NewJob("one.tiff", f"m{i:03d}", "tiny") for i in range(1, 261)], limit=500)
    with serving(serve_app(office, Access("127.0.0.1"), None)) as url:
        page.goto(url)
        page.wait_for_selector("#jobs tr")
        seen: set[int] = set()
        for _ in range(3):
            ids = page.evaluate("[...document.querySelectorAll('#jobs tr')].map((r) => Number(r.dataset.job))")
            seen |= set(ids)
            assert "of 260; 260 wait or run" in page.inner_text("#which")
            if page.is_enabled("#older"):
                page.click("#older")
                until(page, f"!document.querySelector('[data-job=\"{ids[0]}\"]')")
        assert seen == set(range(1, 261))
        page.click("[data-job='1'] button")
        page.wait_for_selector("[data-job='1'][data-state=cancelled]")


def test_the_queue_shows_reading_flags_and_time_and_nothing_can_be_sent_without_a_slide(
    page: Page, tmp_path: Path
) -> None:
    from tests.browser.test_serve_page import result_of
    from tests.fixtures.models import tiny_card

    with result_of(page, tmp_path, tiny_card()):
        first = page.inner_text("#readings")
        assert first.index("Global ratio") < first.index("Mean of the top")
        assert "never evaluated" in page.inner_text("#evidence")
        assert "One scale for all slides: 0 to 100 %" in page.inner_text("#scale-note")
        assert page.get_attribute("#heat", "data-scale-bar") in ("20 µm", "10 µm")
        picture = "document.getElementById('heat')"
        assert page.evaluate(f"{picture}.clientWidth > {picture}.parentElement.clientWidth - 100"), "its card is filled"
        page.goto(page.url.rsplit("jobs/", 1)[0])
        page.wait_for_selector("tr[data-state=done]")
        row = page.inner_text("tr[data-state=done]")
        assert "Ki67 global ratio 5" in row
        assert "(no interval)" in row
        assert "model little or never evaluated" in row
        assert "took" in row
        assert page.is_disabled("#score")
        page.locator("#list input").first.check()
        assert page.is_enabled("#score")
        before = page.locator("#jobs tr").count()
        page.locator("#list input").first.uncheck()
        assert page.is_disabled("#score")
        time.sleep(0.1)
        assert page.locator("#jobs tr").count() == before
