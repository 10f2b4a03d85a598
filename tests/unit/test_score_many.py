"""`vstain score` over many: the index, --fail-fast, and a watched folder."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures.models import TinyPredictor, block_slide, coloured_is_tissue
from virtual_stain.errors import BatchError, InputError
from virtual_stain.scoring import score as score_module
from virtual_stain.scoring.inputs import collect_inputs
from virtual_stain.workflows import score_many as module
from virtual_stain.workflows import score_slides as stage
from virtual_stain.workflows import score_watch
from virtual_stain.workflows.score_command import score_given
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import Scored, ScoreOptions
from virtual_stain.workflows.score_watch import Patience, watch


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_module, "find_tissue", coloured_is_tissue)
    monkeypatch.setattr(module, "load_model", lambda *a: TinyPredictor())


def table(out: Path) -> dict[str, str]:
    with (out / "scores.csv").open(encoding="utf-8", newline="") as stream:
        return {r["slide"]: r["status"] for r in csv.DictReader(stream)}


def test_the_index_shows_the_failed_first_and_links_every_report(tmp_path: Path) -> None:
    (tmp_path / "in" / "case").mkdir(parents=True)
    block_slide(tmp_path / "in" / "c.tiff", [[150, 120]])
    block_slide(tmp_path / "in" / "case" / "c.tiff", [[150, 120]])
    (tmp_path / "in" / "z.svs").write_bytes(b"no slide")
    out = tmp_path / "out"
    with pytest.raises(BatchError, match="1 of 3 slides"):
        score_slides(collect_inputs([tmp_path / "in"], None, out=out, mpp=None), ScoreOptions(model="test://none"))
    page = (out / "index.html").read_text()
    assert 0 < page.index(">z<") < page.index('href="case-c.report.html"')
    assert (out / "case-c.heatmap.png").is_file()
    with pytest.raises(BatchError, match="2 were not begun"):
        inputs = collect_inputs([tmp_path / "in"], None, out=tmp_path / "fast", mpp=None)
        score_slides(inputs[::-1], ScoreOptions(model="test://none", fail_fast=True))
    assert set(table(tmp_path / "fast").values()) == {"failed", "pending"}
    (tmp_path / "in" / "c.tiff").write_bytes(b"no slide any more")
    with pytest.raises(BatchError, match="2 of 3 slides"):
        score_slides(collect_inputs([tmp_path / "in"], None, out=out, mpp=None), ScoreOptions(model="test://none"))
    page = (out / "index.html").read_text()
    assert "c.report.json is of an earlier run" in page  # it lies there, and would be taken for this slide's result
    assert "z.report.json" not in page


def test_slides_that_are_done_are_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage would hash every slide to find out."""
    monkeypatch.setattr(stage, "heatmap_png", lambda report, overview: b"png")
    monkeypatch.setattr(stage, "report_html", lambda report, picture, read: "<html>")
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        block_slide(tmp_path / "in" / f"{name}.tiff", [[150, 120]])
    out, options = tmp_path / "out", ScoreOptions(model="test://none")

    def score(**changes: object) -> dict[str, str]:
        inputs = collect_inputs([tmp_path / "in"], None, out=out, mpp=None)
        found = score_slides(inputs, replace(options, **changes))
        return {s.outcome.name: s.outcome.reason for s in found if s.report is not None}

    score()
    before = (out / "scores.csv").read_bytes()
    opened: list[str] = []
    real = stage.open_slide
    monkeypatch.setattr(stage, "open_slide", lambda ref: opened.append(ref.stem) or real(ref))
    assert score() == dict.fromkeys("abc", "already scored")
    assert opened == []
    assert (out / "scores.csv").read_bytes().replace(b"already scored", b"") == before
    (out / "b.tiles.csv").write_text("edited")
    block_slide(tmp_path / "in" / "c.tiff", [[200, 120]])
    assert score() == {"a": "already scored", "b": "", "c": ""}
    assert sorted(opened) == ["b", "c"]
    opened.clear()
    assert set(score(geojson_origin="slide").values()) == {""}  # another request
    assert len(opened) == 3


def test_many_slides_end_with_where_the_table_is_and_the_model_is_doubted_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        block_slide(tmp_path / "in" / f"{name}.tiff", [[150, 120]])
    said: list[str] = []
    options, out = ScoreOptions(model="test://none"), tmp_path / "out"
    score_given([tmp_path / "in"], None, options, out=out, mpp=None, say=lambda _: None, say_aside=said.append)
    assert said[-1] == f"All slides: {out / 'index.html'}; table: {out / 'scores.csv'}"
    doubted = [line for line in said if "was never evaluated on patients" in line]
    assert len(doubted) == 1
    assert (out / "index.html").read_text().count(doubted[0].removeprefix("The model: ")) == 1


def test_a_watched_folder_takes_a_slide_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slide that is still growing, one that is torn, one that is whole, and one that changes after its time."""
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "case").mkdir(parents=True)
    whole = block_slide(tmp_path / "whole.tiff", [[150, 120]])
    data = whole.read_bytes()
    growing = folder / "case" / "growing.tiff"
    steps = iter(range(100))
    clock = [0.0]
    taken: dict[str, bool] = {}

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        step = next(steps)
        if step <= 5:
            growing.write_bytes(data[: len(data) * step // 5])
        if step == 1:
            shutil.copy(whole, folder / "a.tiff")
            (folder / "torn.svs").write_bytes(data[:500])
        if step == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(score_watch.time, "sleep", sleep)
    monkeypatch.setattr(score_watch.time, "monotonic", lambda: clock[0])
    with pytest.raises(BatchError, match="torn"):
        watch(
            folder,
            out,
            ScoreOptions(model="test://none"),
            patience=Patience(every_s=10, still_s=30, give_up_s=100),
            predictor=TinyPredictor(),
            done=lambda scored: taken.update({scored.outcome.name: scored.outcome.ok}),
        )
    assert taken == {"a": True, "case-growing": True, "torn": False}
    assert next(iter(taken)) == "a"
    assert table(out) == {"a": "ok", "case-growing": "ok", "torn": "failed"}
    record = json.loads((out / "run.json").read_text())
    assert {o["name"]: o["ok"] for o in record["outcomes"]} == {"a": True, "case-growing": True, "torn": False}
    assert "case-growing.report.html" in (out / "index.html").read_text()


def test_watching_ends_cleanly_where_nothing_failed_and_refuses_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(score_watch.time, "sleep", stop)
    seen: list[Scored] = []
    watch(tmp_path, tmp_path / "out", ScoreOptions(model="test://none"), predictor=TinyPredictor(), done=seen.append)
    assert seen == []
    with pytest.raises(InputError, match="a folder to watch"):
        watch(tmp_path / "none", tmp_path / "out", ScoreOptions(model="test://none"), predictor=TinyPredictor())


def test_a_cluster_gives_the_reports_of_this_machine_and_loads_the_model_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="dask.distributed (extra: cluster) is not installed")
    loaded: list[str] = []
    monkeypatch.setattr(module, "load_model", lambda model, *_: loaded.append(model) or TinyPredictor())
    module._model.cache_clear()
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        block_slide(tmp_path / "in" / f"{name}.tiff", [[150, 120]])
    (tmp_path / "in" / "z.svs").write_bytes(b"no slide")
    options = ScoreOptions(model="test://none")
    inputs = {out: collect_inputs([tmp_path / "in"], None, out=tmp_path / out, mpp=None) for out in ("far", "here")}
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        pytest.raises(BatchError, match="1 of 3"),
    ):
        score_slides(inputs["far"], options, scheduler=cluster.scheduler_address)
    assert loaded == ["test://none"]
    with pytest.raises(BatchError, match="1 of 3"):
        score_slides(inputs["here"], options)
    assert table(tmp_path / "far") == table(tmp_path / "here") == {"a": "ok", "b": "ok", "z": "failed"}
    for name in ("a", "b"):
        far, here = (json.loads((tmp_path / out / f"{name}.report.json").read_text()) for out in ("far", "here"))
        assert far["readings"] == here["readings"]
    record = json.loads((tmp_path / "far" / "run.json").read_text())
    assert [o["ok"] for o in sorted(record["outcomes"], key=lambda o: o["name"])] == [True, True, False]
    assert (tmp_path / "far" / "index.html").is_file()
