"""Every key of the review page in every state: what it does there, and that it does nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import serving, until
from tests.browser.test_review_page import begin_review
from tests.fixtures.review import tiny_review
from tests.fixtures.web import review_of
from virtual_stain.review.store import ReviewStore

if TYPE_CHECKING:
    from playwright.sync_api import Page

LETTERS = "arsubcpnxhoefm"
KEYS = [*LETTERS, "A", *"0123456789", "+", "-", "=", "?", " ", "Tab", "Enter", "Escape"]
KEYS += ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Shift+ArrowRight", "Control+a", "Alt+a", "Meta+a"]
DIALOGS = {"ask-reason": "r", "ask-batch": "b", "help": "?"}
STATE = """() => {
  const { state, view } = window.vstain;
  return {
    shown: { ...view.shown }, tool: state.tool, index: state.index, on_he: Boolean(view.cellsOnHe),
    cross: view.cursor !== null, zoom: Math.round(view.zoom * 1000), x: Math.round(view.x), y: Math.round(view.y),
    dialog: document.querySelector('dialog[open]')?.id ?? null, decided: state.decidedAt.length,
    edited: !document.getElementById('edited').hidden,
  };
}"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_review(tmp_path / "records", pairs=2, tiles=24, tile_px=256)


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with serving(review_of(folder)) as url:
        yield url


def _state(page: Page) -> dict[str, Any]:
    return dict(page.evaluate(STATE))


def _changed(page: Page, before: dict[str, Any]) -> dict[str, Any]:
    after = _state(page)
    return {name: value for name, value in after.items() if value != before[name]}


def _close_dialogs(page: Page) -> None:
    page.evaluate("document.querySelectorAll('dialog[open]').forEach((d) => d.close())")
    page.evaluate("document.activeElement.blur()")


def _settled(page: Page) -> None:
    until(page, "window.vstain.state.queue.length === 0 && !window.vstain.state.sending")
    page.wait_for_timeout(30)


def test_the_key_of_a_reason_does_not_hide_cells_on_every_later_tile(page: Page, address: str) -> None:
    begin_review(page, address)
    for digit in "123456":
        before = _state(page)
        page.keyboard.press("r")
        page.wait_for_selector("#ask-reason[open]")
        page.keyboard.press(digit)
        _settled(page)
        changed = _changed(page, before)
        assert set(changed) == {"index", "decided"}, (digit, changed)
        assert changed["decided"] == before["decided"] + 1


def test_a_reason_key_that_is_held_down_rejects_once_and_hides_nothing(page: Page, address: str, folder: Path) -> None:
    begin_review(page, address)
    before = _state(page)
    page.keyboard.press("r")
    page.wait_for_selector("#ask-reason[open]")
    for _ in range(4):
        page.keyboard.down("2")  # the second and later ones are repeats
    page.keyboard.up("2")
    _settled(page)
    assert set(_changed(page, before)) == {"index", "decided"}
    assert len(ReviewStore(folder / "review.sqlite").decisions()) == 1


def test_no_key_reaches_the_page_through_an_open_dialog(page: Page, address: str) -> None:
    begin_review(page, address)
    before = _state(page)
    for dialog, opener in DIALOGS.items():
        for key in KEYS:
            if key == "Enter" or (dialog == "ask-reason" and key in "123456 "):
                continue  # these are the dialog's way out
            page.keyboard.press(opener)
            page.wait_for_selector(f"#{dialog}[open]")
            page.keyboard.press(key)
            changed = _changed(page, before)
            changed.pop("dialog", None)
            assert changed == {}, (dialog, key, changed)
            _close_dialogs(page)


def test_keys_in_the_name_dialog_are_text(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#ask-name[open]")
    until(page, "window.vstain.view !== undefined && window.vstain.painted.length > 0")
    before = _state(page)
    page.locator("#name").focus()
    page.keyboard.type("arsub123 cpnx")
    changed = _changed(page, before)
    assert changed == {}
    assert page.input_value("#name") == "arsub123 cpnx"


EXPECTED = {
    "1": {"shown"}, "2": {"shown"}, "3": {"shown"}, "o": {"shown"}, "h": {"on_he"},
    "p": {"tool"}, "n": {"tool"}, "x": {"tool"}, "e": {"cross"},
    "+": {"zoom"}, "=": {"zoom"},
    "a": {"index", "decided"}, "A": {"index", "decided"}, "s": {"index", "decided"},
    "r": {"dialog"}, "b": {"dialog"}, "?": {"dialog"},
    "ArrowRight": {"index"}, " ": {"index"}, "ArrowLeft": {"index"},
}  # fmt: skip
# a decision moves on, and the next tile begins without a cross hair
CROSS = EXPECTED | {
    "Enter": {"edited"}, " ": {"edited"}, "Escape": {"cross"}, "e": {"cross"},
    "ArrowLeft": set(), "ArrowRight": set(), "Shift+ArrowRight": set(),
    "a": {"index", "decided", "cross"}, "A": {"index", "decided", "cross"}, "s": {"index", "decided", "cross"},
}  # fmt: skip
RESET = """() => {
  const { state, view } = window.vstain;
  document.querySelectorAll('dialog[open]').forEach((d) => d.close());
  document.activeElement.blur();
  document.getElementById('restore').click();
  Object.assign(view, { cursor: null, cellsOnHe: false });
  Object.assign(view.shown, { positive: true, negative: true, ignored: false });
  document.querySelector('[data-tool=change]').click();
  document.activeElement.blur();
  view.reset();
}"""


@pytest.mark.parametrize("cross_hair", [False, True], ids=["tile", "cross hair"])
def test_every_key_does_what_the_help_says_and_nothing_else(page: Page, address: str, cross_hair: bool) -> None:
    begin_review(page, address)
    page.keyboard.press("u")  # nothing to take back yet; later it would change what comes after it
    page.keyboard.press("ArrowRight")  # so that there is a tile on both sides
    expected = CROSS if cross_hair else EXPECTED
    for key in KEYS:
        if key == "u":
            continue
        page.evaluate(RESET)
        if cross_hair:
            page.keyboard.press("e")
            page.keyboard.press("Tab")  # on a cell
        before = _state(page)
        page.keyboard.press(key)
        _settled(page)
        ignored = {"x", "y"} if cross_hair else set()  # the picture may follow the cross hair
        changed = set(_changed(page, before)) - ignored
        assert changed == expected.get(key, set()) - ignored, (key, changed)


def test_no_key_breaks_an_empty_queue_or_decides_there(page: Page, address: str, folder: Path) -> None:
    begin_review(page, address)
    page.keyboard.press("f")
    page.fill("[name=error_max_um]", "1")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=No tile passes this filter.")
    for key in KEYS:
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press(key)
        _close_dialogs(page)
    page.click("#ihc")
    page.click("#he")
    assert ReviewStore(folder / "review.sqlite").decisions() == []


def test_no_key_breaks_the_page_before_it_is_loaded(page: Page, address: str, folder: Path) -> None:
    waiting: list[Any] = []
    page.route("**/api/review", lambda route: waiting.append(route))
    page.goto(address)
    end = 200
    while not waiting and end:
        page.wait_for_timeout(10)
        end -= 1
    for key in KEYS:
        page.keyboard.press(key)
    waiting[0].continue_()
    page.wait_for_selector("#ask-name[open]")
    assert ReviewStore(folder / "review.sqlite").decisions() == []


def test_keys_in_the_filter_are_text_and_on_the_map_they_aim(page: Page, address: str, folder: Path) -> None:
    begin_review(page, address)
    before = _state(page)
    page.keyboard.press("f")
    page.locator("[name=ratio_min]").focus()
    page.keyboard.type("1arsub2")
    assert page.input_value("[name=ratio_min]") == "1arsub2"
    assert _changed(page, before) == {}
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    page.keyboard.press("ArrowRight")
    assert _changed(page, before) == {}
    assert ReviewStore(folder / "review.sqlite").decisions() == []


def test_enter_accepts_a_few_tiles_and_cancels_many(page: Page, address: str, folder: Path) -> None:
    begin_review(page, address)
    page.keyboard.press("b")
    page.wait_for_selector("#ask-batch[open]")
    assert "48 undecided tiles" in page.inner_text("#ask-batch")
    assert "Enter cancels" in page.inner_text("#ask-batch")
    page.keyboard.press("Enter")
    page.wait_for_selector("#ask-batch:not([open])", state="attached")
    _settled(page)
    assert ReviewStore(folder / "review.sqlite").decisions() == [], "48 tiles at one press of Enter"
    page.keyboard.press("f")
    page.select_option("[name=pair]", "case-01")
    page.fill("[name=error_max_um]", "7")
    page.keyboard.press("Enter")
    until(page, "window.vstain.state.items.length < 21")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("b")
    page.wait_for_selector("#ask-batch[open]")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=tiles accepted")
    assert 0 < len(ReviewStore(folder / "review.sqlite").decisions()) <= 20
