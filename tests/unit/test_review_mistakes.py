"""Verdicts and corrections that were once lost, merged or believed on their way in."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.fixtures.review import tiny_label, tiny_review
from tests.fixtures.web import client, review_of
from virtual_stain.config import Config, LabelSettings, TilingSettings
from virtual_stain.counting.quality import SATURATED, UNCERTAIN, UNEXPLAINED, Quality, quality_flags
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.markers import CellCounts
from virtual_stain.review.correction import Correction
from virtual_stain.review.store import ReviewStore
from virtual_stain.workflows.corrections import relabelled

CONFIG = Config(tiling=TilingSettings(window_um=76.8, tile_px=256), labels=LabelSettings(min_tile_cells=20))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_review(tmp_path / "records", pairs=1, tiles=6, tile_px=128)


@pytest.fixture
def page(folder: Path) -> TestClient:
    return client(review_of(folder))


def _label():
    return tiny_label(np.random.default_rng(3), 0, 0)


def test_one_corrected_cell_let_a_tile_train_whose_stains_are_unclear() -> None:
    label = dataclasses.replace(_label(), flags=(UNEXPLAINED, SATURATED), weight=0.0)
    corrected, _ = relabelled(label, Correction(added=((5.0, 5.0, "negative"),)), CONFIG)
    assert {UNEXPLAINED, SATURATED, "corrected"} <= set(corrected.flags)
    assert corrected.weight == 0.0


def test_the_error_of_a_ratio_is_judged_anew_after_a_correction() -> None:
    label = _label()
    few = Correction(removed=tuple(range(3, len(label.cells))))
    strict = dataclasses.replace(CONFIG.counting, max_standard_error=0.01)
    corrected, _ = relabelled(
        label, Correction(added=((5.0, 5.0, "negative"),)), dataclasses.replace(CONFIG, counting=strict)
    )
    assert UNCERTAIN in corrected.flags
    assert "few_cells" in relabelled(label, few, CONFIG)[0].flags


def test_a_correction_to_one_class_only_does_not_make_the_ratio_certain() -> None:
    """3 of 3 cells have a Wald error of 0; the counting's own flag goes by Wilson's interval, and so does this one."""
    label = _label()
    kept = [i for i, tumour in enumerate(label.cells.tumour) if tumour][:3]
    gone = tuple(i for i in range(len(label.cells)) if i not in kept)
    corrected, _ = relabelled(label, Correction(changed=tuple((i, "positive") for i in kept), removed=gone), CONFIG)
    assert corrected.counts == CellCounts(3, 0)
    quality = Quality(0, 0, 0.0, 0.0, None)
    stain = SlideStain(background=(245.0, 245.0, 245.0))
    assert UNCERTAIN in quality_flags(quality, corrected.counts, CONFIG.counting, stain)
    assert UNCERTAIN in corrected.flags


def _row(page: TestClient, number: int = 0) -> dict[str, str]:
    item = page.get("/api/review/queue").json()["items"][number]
    return {k: str(item[k]) for k in ("pair", "col", "row", "label_id")}


def _table(*rows: dict[str, str]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["pair", "col", "row", "label_id", "verdict", "reviewer", "reason", "correction"])
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _import(page: TestClient, text: str, reviewer: str | None = None, kind: str = "csv") -> tuple[int, str]:
    answer = page.post("/api/review/import", json={"format": kind, "text": text, "reviewer": reviewer})
    return answer.status_code, answer.text


def test_readers_who_differ_were_merged_into_the_last_of_them(page: TestClient, folder: Path) -> None:
    row = _row(page)
    text = _table(
        row | {"verdict": "reject", "reviewer": "A", "reason": "fold"}, row | {"verdict": "accept", "reviewer": "B"}
    )
    status, message = _import(page, text, "Chief")
    assert (status, "two different verdicts of Chief" in message) == (422, True)
    assert not ReviewStore(folder / "review.sqlite").decisions()
    assert _import(page, text)[0] == 201
    assert [d.verdict.reviewer for d in ReviewStore(folder / "review.sqlite").decisions()] == ["A", "B"]


def test_an_imported_correction_of_cells_that_do_not_exist_was_believed(page: TestClient, folder: Path) -> None:
    bad = _row(page) | {"verdict": "accept", "reviewer": "A", "correction": '{"removed":[99999]}'}
    status, message = _import(page, _table(bad))
    assert (status, "line 2" in message, "99999" in message) == (422, True, True)
    assert not ReviewStore(folder / "review.sqlite").decisions()
    stale = bad | {"label_id": "0" * 32}  # of another label: shown as stale, never applied
    assert _import(page, _table(stale))[0] == 201
    assert page.get("/api/review/agreement").status_code == 200
    assert page.get(f"/api/review/pairs/{bad['pair']}/export.geojson").status_code == 200


def test_all_points_of_a_tile_deleted_in_qupath_was_taken_for_no_correction(page: TestClient, folder: Path) -> None:
    row = _row(page)
    body = row | {"col": int(row["col"]), "row": int(row["row"]), "reviewer": "A", "verdict": "accept"}
    assert page.post("/api/review/decisions", json=body).status_code == 201
    value = page.get(f"/api/review/pairs/{row['pair']}/export.geojson").json()
    name = f"{row['pair']} {row['col']},{row['row']} cells"
    value["features"] = [f for f in value["features"] if f["properties"]["name"] != name]
    assert _import(page, json.dumps(value), "B", "geojson")[0] == 201
    last = ReviewStore(folder / "review.sqlite").decisions()[-1].verdict
    assert last.reviewer == "B"
    assert last.correction is not None
    assert not last.correction.changed
    assert len(last.correction.removed) >= 8
