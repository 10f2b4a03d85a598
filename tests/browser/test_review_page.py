"""The review page in Chromium: by keyboard and by mouse, on a small and on a large screen, with a server that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import accessibility_problems, serving, until
from tests.fixtures.review import PhantomRecords, tiny_review
from tests.fixtures.web import review_of
from virtual_stain.config import Config
from virtual_stain.records.manifest import read_manifest, shard_paths
from virtual_stain.records.read import iterate_shard
from virtual_stain.records.verify import verify_records
from virtual_stain.review.store import ReviewStore
from virtual_stain.workflows.build_records import BuildOptions, build_records

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCREENS = [(1366, 768), (2560, 1440)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_review(tmp_path / "records", pairs=2, tiles=12, tile_px=256)


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with serving(review_of(folder)) as url:
        yield url


def begin_review(page: Page, address: str, name: str = "Dr. A") -> None:
    page.goto(address)
    page.wait_for_selector("#ask-name[open]")
    page.locator("#name").fill(name)  # a key pressed before the new page has the focus would be lost
    page.locator("#name").press("Enter")
    until(page, "!document.querySelector('dialog[open]') && window.vstain.painted.length > 0")


def _painted(page: Page, action: str) -> None:
    """Presses a key and waits until another tile is painted."""
    before = page.evaluate("window.vstain.painted.length")
    page.keyboard.press(action)
    until(page, f"window.vstain.painted.length > {before}")


def _saved(page: Page) -> None:
    until(page, "window.vstain.state.queue.length === 0 && !window.vstain.state.sending")


def _shown(page: Page) -> dict:
    return dict(page.evaluate("window.vstain.state.items[window.vstain.state.index]"))


def _records(folder: Path) -> dict[tuple[str, int, int], dict]:
    found = (r for path in shard_paths(folder, read_manifest(folder).pairs) for r in iterate_shard(path))
    return {(r["tile/pair"], r["tile/col"], r["tile/row"]): r for r in found}


def test_ten_tiles_by_keyboard_one_corrected_one_rejected_and_the_shards_change_exactly_there(
    page: Page, phantom_records: PhantomRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSTAIN_PATIENT_KEY", str(phantom_records.key))
    folder = phantom_records.copy(tmp_path / "records")
    with serving(review_of(folder)) as address:
        begin_review(page, address)
        page.keyboard.press("b")  # all of them at first, so that there is something that can change
        page.wait_for_selector("#ask-batch[open]")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=tiles accepted")
        build_records(phantom_records.pairs_csv, folder, Config(), BuildOptions())
        before = _records(folder)
        seen, corrected, rejected = [], None, None
        for number in range(10):
            item = _shown(page)
            seen.append((item["pair"], item["col"], item["row"]))
            if number == 1:
                page.keyboard.press("e")  # the cross hair
                page.keyboard.press("Tab")  # … on a cell
                page.keyboard.press("Enter")  # … which becomes another class
                page.keyboard.press("Escape")
                assert page.is_visible("#edited")
                corrected = seen[-1]
            if number == 3:
                page.keyboard.press("r")
                page.wait_for_selector("#ask-reason[open]")
                page.keyboard.press("5")
                rejected = seen[-1]
            else:
                page.keyboard.press("a")
            _saved(page)
            _painted(page, "ArrowRight")
    assert len(set(seen)) == 10
    build_records(phantom_records.pairs_csv, folder, Config(), BuildOptions())
    after = _records(folder)
    assert set(before) - set(after) == {rejected}
    assert [key for key in after if after[key] != before[key]] == [corrected]
    record = after[corrected]
    assert record["tile/flags"][-1] == "corrected"
    totals = [r["label/positive"] + r["label/negative"] for r in (before[corrected], record)]
    moved = abs(before[corrected]["label/positive"] - record["label/positive"])
    assert sum(record["cells/corrected"]) == 1 or totals[0] - totals[1] == 1
    assert moved <= 1
    verify_records(folder)
    verdicts = [d.verdict for d in ReviewStore(folder / "review.sqlite").decisions()]
    assert [v.reason for v in verdicts if v.decision.value == "reject"] == ["artefact: fold, pen, blur, bubble"]


def test_mouse_a_click_changes_a_cell_and_the_ratio_follows_at_once(page: Page, address: str, folder: Path) -> None:
    begin_review(page, address)
    first = _shown(page)
    spot = page.evaluate(
        """() => {
          const { view, loader } = window.vstain;
          const cell = view.tile.cells.all().find((c) => c.name === 'positive');
          const { canvas } = view.sides[1];
          const box = canvas.getBoundingClientRect();
          const at = (v, middle, size) => ((v - middle) * view.zoom + size / 2) * (box.width / canvas.width);
          return [box.left + at(cell.x, view.x, canvas.width), box.top + at(cell.y, view.y, canvas.height)];
        }"""
    )
    before = page.inner_text("#ratio")
    page.mouse.click(*spot)
    assert page.inner_text("#ratio") != before
    assert page.is_visible("#edited")
    facts = page.inner_text("#facts")
    assert f"{first['positive'] - 1}" in facts
    assert f"{first['negative'] + 1}" in facts
    _painted(page, "ArrowRight")
    _painted(page, "ArrowLeft")  # what is not saved yet is still there
    assert page.is_visible("#edited")
    _painted(page, "a")
    _saved(page)
    (decision,) = ReviewStore(folder / "review.sqlite").decisions()
    assert decision.verdict.correction is not None
    assert [kind for _, kind in decision.verdict.correction.changed] == ["negative"]
    _painted(page, "u")
    again = _shown(page)
    assert (again["pair"], again["col"], again["row"]) == (first["pair"], first["col"], first["row"])
    assert (again["status"], page.inner_text("#ratio")) == ("open", before)


def test_a_reason_is_the_one_that_was_typed_and_of_the_tile_that_was_shown(
    page: Page, address: str, folder: Path
) -> None:
    begin_review(page, address)
    first = _shown(page)
    page.keyboard.press("r")
    page.locator("#own-reason").fill("too thick")
    page.keyboard.press("Enter")  # not the first of the reasons above
    second = _shown(page)
    page.keyboard.press("r")
    page.keyboard.press("5")
    page.keyboard.press("ArrowRight")  # at once
    _saved(page)
    found = [d.verdict for d in ReviewStore(folder / "review.sqlite").decisions()]
    assert [v.reason for v in found] == ["too thick", "artefact: fold, pen, blur, bubble"]
    assert [(v.place.pair, v.place.col, v.place.row) for v in found] == [
        (i["pair"], i["col"], i["row"]) for i in (first, second)
    ]


def test_both_tiles_zoom_and_move_together_and_the_map_jumps(page: Page, address: str) -> None:
    begin_review(page, address)
    box = page.locator("#he").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -400)
    until(page, "window.vstain.view.zoom > window.vstain.view.fit * 1.2")
    shifted = page.evaluate("window.vstain.view.x < window.vstain.view.tilePx / 2")
    assert shifted  # about the pointer, not about the middle
    page.keyboard.press("0")
    assert page.evaluate("window.vstain.view.zoom === window.vstain.view.fit")
    current = _shown(page)
    page.keyboard.press("m")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft" if current["col"] == 3 else "ArrowRight")
    before = page.evaluate("window.vstain.painted.length")
    page.keyboard.press("Enter")
    until(page, f"window.vstain.painted.length > {before}")
    moved = _shown(page)
    assert (moved["pair"], moved["row"]) == (current["pair"], current["row"])


@pytest.mark.parametrize("screen", SCREENS, ids=lambda s: f"{s[0]}x{s[1]}")
def test_everything_is_on_the_screen(page: Page, address: str, screen: tuple[int, int]) -> None:
    page.set_viewport_size({"width": screen[0], "height": screen[1]})
    begin_review(page, address)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    for name in ("accept", "reject", "skip", "undo", "previous", "next", "he", "ihc", "map", "who"):
        box = page.locator(f"#{name}").bounding_box()
        assert box is not None, name
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= screen[0], name
        assert box["y"] + box["height"] <= screen[1], name
    sides = [page.locator(f"#{s}").bounding_box() for s in ("he", "ihc")]
    assert min(b["width"] for b in sides if b) > screen[0] * 0.35
    _painted(page, "ArrowRight")


def test_the_page_meets_wcag_aa(page: Page, address: str, axe: str) -> None:
    if not axe:
        pytest.skip("axe-core is not installed: make axe (needs npm)")
    page.goto(address)
    page.wait_for_selector("#ask-name[open]")
    assert accessibility_problems(page, axe) == []
    page.locator("#name").fill("Dr. A")
    page.locator("#name").press("Enter")
    until(page, "!document.querySelector('dialog[open]') && window.vstain.painted.length > 0")
    page.keyboard.press("f")
    assert accessibility_problems(page, axe) == []
    page.keyboard.press("Escape")
    for key, dialog in (("r", "ask-reason"), ("b", "ask-batch"), ("?", "help")):
        page.keyboard.press(key)
        page.wait_for_selector(f"#{dialog}[open]")
        assert accessibility_problems(page, axe) == [], dialog
        page.keyboard.press("Escape")
        until(page, "!document.querySelector('dialog[open]')")  # Chromium closes it a moment after the key
    page.keyboard.press("a")
    _saved(page)
    assert accessibility_problems(page, axe) == []


def test_every_control_is_reached_with_the_tab_key(page: Page, address: str) -> None:
    begin_review(page, address)
    wanted = {"who", "open-help", "he", "ihc", "map", "accept", "reject", "skip", "undo", "previous", "next"}
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert wanted <= reached


def test_a_server_that_is_killed_loses_nothing_and_the_page_goes_on(page: Page, folder: Path) -> None:
    server = _start(folder, 0)
    try:
        port = int(server.address.rstrip("/").rsplit(":", 1)[1])
        begin_review(page, server.address)
        _painted(page, "a")
        _painted(page, "a")
        _saved(page)
        server.stop()
        page.keyboard.press("a")  # nobody is there to save it
        page.wait_for_selector("#banner.bad")
        assert "not saved yet" in page.inner_text("#banner")
        server = _start(folder, port)
        _saved(page)
        page.wait_for_selector("#banner", state="hidden")
        decisions = ReviewStore(folder / "review.sqlite").decisions()
        assert len(decisions) == 3
        assert len({d.verdict.place for d in decisions}) == 3
    finally:
        server.stop()


class _Running:
    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address

    def stop(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def _start(folder: Path, port: int) -> _Running:
    command = [sys.executable, "-c", "from virtual_stain.cli.main import run; run()", "review", str(folder)]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--no-browser"], stdout=subprocess.PIPE, text=True, env=_environment()
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    deadline = time.monotonic() + 30
    assert "http://" in line, line
    address = next(word for word in line.split() if word.startswith("http://"))
    assert time.monotonic() < deadline
    return _Running(process, address)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def test_a_cell_without_an_intensity_is_marked_and_gets_one_by_clicks(page: Page, tmp_path: Path) -> None:
    folder = tiny_review(tmp_path / "records", pairs=1, tiles=4, tile_px=256, marker="her2")
    with serving(review_of(folder)) as address:
        begin_review(page, address)
        page.click("[data-tool=positive]")
        page.click("#ihc")
        until(page, "document.querySelector('#facts').innerText.includes('intensity unknown: 1')")
        page.click("[data-tool=change]")
        for _ in range(3):
            page.click("#ihc")
        until(page, "!document.querySelector('#facts').innerText.includes('unknown')")
        page.keyboard.press("a")
        _saved(page)
    (decision,) = ReviewStore(folder / "review.sqlite").decisions()
    assert decision.verdict.correction is not None
    (added,) = decision.verdict.correction.added
    assert added[2] == "3+"
