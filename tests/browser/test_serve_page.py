"""Scoring in Chromium: submit, wait, look at the result, take the report home."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import accessibility_problems, serving, until
from tests.fixtures.models import tiny_card, write_tiny_bundle
from tests.fixtures.virtual import write_he, write_indirect_bundle
from tests.fixtures.web import TOKEN, serve_config, serve_of
from virtual_stain.exporting.card import ModelCard
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.web.guard import Access
from virtual_stain.web.serve.app import serve_app
from virtual_stain.web.serve.command import open_office
from virtual_stain.web.serve.model_process import write_settings
from virtual_stain.web.serve.supervisor import Supervisor

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve-page")
    serve_config(folder)
    (folder / "out").mkdir()
    return folder


@pytest.fixture(scope="module")
def address(made: Path) -> Iterator[str]:
    out, config = made / "out", serve_config(made)
    office = open_office(out, config)
    write_settings(out, config, office.root.folder, office.models.places, 1)
    with serving(serve_app(office, Access("127.0.0.1"), Supervisor(out))) as url:
        yield url


def test_a_slide_is_submitted_by_keyboard_scored_and_its_report_opens_from_disk(
    page: Page, address: str, axe: str, tmp_path: Path
) -> None:
    page.goto(address)
    page.wait_for_selector("#list input")
    for name in ("broken.svs", "one.tiff"):
        page.locator("#list label", has_text=name).locator("input").focus()
        page.keyboard.press("Space")
    assert page.inner_text("#chosen") == "2 slides"
    page.locator("button.primary").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("tr[data-state=failed]", timeout=60_000)
    page.wait_for_selector("tr[data-state=done]", timeout=90_000)
    assert "broken.svs" in page.inner_text("tr[data-state=failed] .why")
    assert accessibility_problems(page, axe) == []

    page.locator("tr[data-state=done] a").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-ready]")
    assert "Mean of the top" in page.inner_text("#readings")
    assert page.locator("#gallery li").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert accessibility_problems(page, axe) == []
    page.locator("#heat").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#tile[open]")
    until(page, "document.getElementById('tile-picture')?.naturalWidth === 128")  # the model's own pixels
    assert accessibility_problems(page, axe) == []
    page.keyboard.press("Escape")

    with page.expect_download() as waiting:
        page.locator("a[href$='files/report.html']").click()
    report = tmp_path / "taken home.html"
    waiting.value.save_as(report)
    page.goto(report.as_uri())
    assert "one" in page.title() + page.inner_text("body")
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")


@contextmanager
def result_of(page: Page, folder: Path, card: ModelCard | None) -> Iterator[None]:
    """The result page of the slide one.tiff, read by a tiny model of this card; None: by one of the indirect path."""
    config = serve_config(folder)
    if card is None:
        write_he(folder / "slides" / "one.tiff")
        write_indirect_bundle(folder / "other")
        config = dataclasses.replace(config, scoring=dataclasses.replace(config.scoring, any_stain=True))
    else:
        write_tiny_bundle(folder / "other", card)
    config = dataclasses.replace(config, web=dataclasses.replace(config.web, models=(f"n={folder / 'other'}",)))
    out = folder / "out"
    out.mkdir()
    office = open_office(out, config)
    write_settings(out, config, office.root.folder, office.models.places, 1)
    with serving(serve_app(office, Access("127.0.0.1"), Supervisor(out))) as url:
        job = page.request.post(f"{url}api/jobs", data={"slides": ["one.tiff"], "model": "n"}).json()["jobs"][0]["id"]
        end = time.monotonic() + 120
        while page.request.get(f"{url}api/jobs/{job}").json()["state"] not in ("done", "failed"):
            assert time.monotonic() < end
            time.sleep(0.2)
        page.goto(f"{url}jobs/{job}")
        page.wait_for_selector("body[data-ready]")
        yield


def test_a_her2_score_stands_first_and_its_share_is_called_stained(page: Page, tmp_path: Path) -> None:
    with result_of(page, tmp_path, tiny_card(markers=(Marker.HER2,))):
        readings = page.inner_text("#readings")
        assert readings.index("HER2 score") < readings.index("HER2-stained tumour cells (1+ to 3+)")
        assert "3+" in readings
        assert "Tumour cells 0 / 1+ / 2+ / 3+" in readings


def test_the_virtual_slide_is_one_of_three_views_and_says_that_it_is_a_prediction(
    page: Page, axe: str, tmp_path: Path
) -> None:
    with result_of(page, tmp_path, None):
        assert "Counted on the virtual picture" in page.inner_text("#readings")
        pictures = {}
        for view in ("heat", "he", "virtual"):
            page.locator(f"#views input[value={view}]").check()
            if view != "heat":
                page.wait_for_selector(f"#heat[data-view={view}]")
            pictures[view] = page.locator("#heat").screenshot()
            assert page.locator("#virtual-note").is_visible() == (view == "virtual")
        assert len(set(pictures.values())) == 3
        assert "not a stain" in page.inner_text("#virtual-note")
        assert accessibility_problems(page, axe) == []
        page.locator("#heat").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_selector("#tile[open]")
        until(page, "document.getElementById('tile-picture')?.naturalWidth === 128")
        assert "Virtual" in (page.get_attribute("#tile-picture", "alt") or "")


def test_a_count_is_shown_per_area_and_says_of_what(page: Page, tmp_path: Path) -> None:
    with result_of(page, tmp_path, tiny_card(value_definition=ValueDefinition.NEGATIVE_COUNT)):
        readings = page.inner_text("#readings")
        assert "Ki67-negative tumour cells per mm²" in readings
        assert "1,500 /mm²" in readings, "mean redness 150 of 255 is 1500 of 2550"
        assert "%" not in readings
        assert "2,000 /mm²" in page.inner_text("#gallery")
        assert "per mm²" in (page.get_attribute("#histogram", "aria-label") or "")


def test_a_running_server_shows_the_report_in_a_sandbox(page: Page, address: str) -> None:
    submitted = page.request.post(f"{address}api/jobs", data={"slides": ["one.tiff"], "model": "tiny"})
    number = submitted.json()["jobs"][0]["id"]
    end = time.monotonic() + 120
    while page.request.get(f"{address}api/jobs/{number}").json()["state"] not in ("done", "failed"):
        assert time.monotonic() < end
        time.sleep(0.2)
    page.goto(f"{address}api/jobs/{number}/files/report.html?show=true")
    assert page.locator("img").count() > 0
    assert page.evaluate("window.origin") == "null"


def test_the_token_is_asked_for_and_then_kept(page: Page, made: Path, axe: str, tmp_path: Path) -> None:
    with serving(serve_of(made, token=TOKEN)) as url:
        page.goto(url)
        assert page.url.endswith("/login")
        assert accessibility_problems(page, axe) == []
        page.keyboard.type("wrong token")
        page.keyboard.press("Enter")
        page.wait_for_selector(".error")
        page.locator("#token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("#list input")
        assert TOKEN not in str(page.context.cookies())


@pytest.mark.parametrize("screen", [(1366, 768), (2560, 1440)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_the_queue_fits_the_screen(page: Page, address: str, screen: tuple[int, int]) -> None:
    page.set_viewport_size({"width": screen[0], "height": screen[1]})
    page.goto(address)
    page.wait_for_selector("#list input")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    box = page.locator("button.primary").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= screen[1]
