"""Files over which a library ends its process: found out in a child, told of the slide, and nothing else ends."""

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.models import TinyPredictor, block_slide, coloured_is_tissue
from tests.fixtures.registration import toy_pair, toy_transform
from tests.fixtures.slides import write_tiled_tiff
from virtual_stain.cli.main import _run
from virtual_stain.errors import BatchError, SlideError
from virtual_stain.scoring import score as score_module
from virtual_stain.scoring.inputs import collect_inputs
from virtual_stain.slides import description, probe
from virtual_stain.slides.probe import require_survivable
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import ScoreOptions

_TILE_LENGTH = 323


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    write_tiled_tiff(path, np.full((256, 256, 3), 200, np.uint8), 0.3)
    return path


def _with_tag(source: Path, target: Path, tag: int, value: int) -> Path:
    """The TIFF with one value of its first directory replaced."""
    data = bytearray(source.read_bytes())
    assert data[:4] == b"II*\0"
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            struct.pack_into("<HII", data, entry + 2, 4, 1, value)
            target.write_bytes(data)
            return target
    raise AssertionError("no such tag")


def test_a_sound_slide_is_asked_about_once(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_survivable(SlideRef(slide))
    asked: list[Path] = []
    monkeypatch.setattr(probe._CHILD, "_ask", asked.append)
    require_survivable(SlideRef(slide))
    assert asked == []


def test_a_tile_length_of_two_gigapixels_ended_the_batch(slide: Path, tmp_path: Path) -> None:
    bad = _with_tag(slide, tmp_path / "bad.tif", _TILE_LENGTH, 2**31 - 1)
    with pytest.raises(SlideError):
        require_survivable(SlideRef(bad))
        with open_slide(SlideRef(bad)) as opened:
            opened.overview(max_px=64)
    other = tmp_path / "other.tif"
    other.write_bytes(slide.read_bytes())
    require_survivable(SlideRef(other))  # the next one gets a new child


def test_a_child_that_died_is_replaced(slide: Path, tmp_path: Path) -> None:
    killer = probe._Child()
    other = tmp_path / "b.tif"
    other.write_bytes(slide.read_bytes())
    try:
        first = killer._running()
        first.kill()
        first.wait()
        assert killer.survives(other) is None
        assert killer.survives(slide) is None
        assert killer._running() is not first
    finally:
        killer.close()
    assert killer._process is None


def test_what_cannot_be_opened_is_left_to_the_opening(tmp_path: Path) -> None:
    (tmp_path / "x.svs").write_bytes(b"no slide")
    require_survivable(SlideRef(tmp_path / "x.svs"), SlideRef(tmp_path / "missing.svs"), SlideRef(tmp_path))
    with pytest.raises(SlideError), open_slide(SlideRef(tmp_path / "x.svs")):
        pass


def test_how_the_child_ended_is_told(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe._CHILD, "survives", lambda path: "signal SIGABRT")
    with pytest.raises(SlideError, match=r"ends the process that reads it \(signal SIGABRT\)"):
        require_survivable(SlideRef(slide))


@pytest.fixture
def deadly(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file over which OpenSlide aborts: it asks for 2 TB. The check of tile sizes, which finds it first, is off."""
    monkeypatch.setattr(description, "_MAX_TILE_SIDE", 2**40)
    (tmp_path / "start").mkdir()
    off = "import virtual_stain.slides.description as d\nd._MAX_TILE_SIDE = 2**40\n"
    (tmp_path / "start" / "sitecustomize.py").write_text(off)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "start"), str(Path(__file__).parents[2])]))
    probe._CHILD.close()
    yield _with_tag(slide, tmp_path / "deadly.tif", _TILE_LENGTH, 2**31 - 1)
    probe._CHILD.close()


def test_a_tile_of_two_gigapixels_is_refused_before_a_library_sees_it(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="at most 4096 × 4096 px"):
        open_slide(SlideRef(_with_tag(slide, tmp_path / "huge.tif", _TILE_LENGTH, 2**31 - 1)))


def test_the_child_dies_of_the_file_and_nothing_else_does(deadly: Path, slide: Path) -> None:
    child = probe._Child()
    try:
        assert child.survives(deadly) == "signal SIGABRT"
        assert child.survives(slide) is None
        assert child.survives(deadly) == "signal SIGABRT"  # and so does the rerun
    finally:
        child.close()


def test_info_told_of_the_others(deadly: Path, slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["info", str(deadly), str(slide)]) == 6
    told = capsys.readouterr()
    assert "SIGABRT" in told.out + told.err
    assert "256 × 256" in told.out


def test_the_other_slides_of_a_folder_were_lost(deadly: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_module, "find_tissue", coloured_is_tissue)
    block_slide(tmp_path / "good.tiff", [[150, 170]])
    inputs = collect_inputs([tmp_path], None, out=tmp_path / "out", mpp=None)
    for _ in range(2):  # the rerun does not die of it either
        with pytest.raises(BatchError, match="deadly.*SIGABRT"):
            score_slides(inputs, ScoreOptions(model="unused"), predictor=TinyPredictor())
        assert (tmp_path / "out" / "good.report.json").is_file()


def test_the_other_pairs_of_a_table_were_lost(deadly: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    toy_pair(tmp_path / "a", toy_transform(25, elastic_px=2.0), seed=1)
    rows = ["bad,P2,ki67,a/he.png,deadly.tif,2,2", "good,P1,ki67,a/he.png,a/ihc.png,2,2"]
    table = tmp_path / "PAIRS.csv"
    table.write_text("\n".join(["pair,patient,marker,he,ihc,he_mpp,ihc_mpp", *rows]) + "\n")
    assert _run(["register", str(table), "--out", str(tmp_path / "out"), "--jobs", "1", "-q"]) == 6
    assert (tmp_path / "out" / "good" / "registration.json").is_file()
    assert "SIGABRT" in (tmp_path / "out" / "summary.csv").read_text(encoding="utf-8")


def test_the_web_server_died_of_an_upload_and_left_its_hidden_file(deadly: Path, tmp_path: Path) -> None:
    fastapi = pytest.importorskip("fastapi")
    assert fastapi
    from tests.fixtures.web import client, serve_of

    page = client(serve_of(tmp_path, uploads=True, upload_max_mb=5))
    headers = {"Content-Type": "application/octet-stream"}
    answer = page.put("/api/uploads/new.tif", content=deadly.read_bytes(), headers=headers)
    assert answer.status_code == 422
    assert list((tmp_path / "slides" / "uploads").iterdir()) == []
    assert page.get("/healthz").status_code == 200


def test_a_finished_slide_is_not_tried_again_until_its_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_module, "find_tissue", coloured_is_tissue)
    path = block_slide(tmp_path / "a.tiff", [[150, 170]])
    inputs = collect_inputs([path], None, out=tmp_path / "out", mpp=None)
    asked: list[Path] = []
    monkeypatch.setattr(probe._CHILD, "survives", asked.append)  # appending gives None: it survives
    score_slides(inputs, ScoreOptions(model="unused"), predictor=TinyPredictor())
    assert set(asked) == {path}
    asked.clear()
    score_slides(inputs, ScoreOptions(model="unused"), predictor=TinyPredictor())
    assert asked == []
    path.touch()
    score_slides(inputs, ScoreOptions(model="unused"), predictor=TinyPredictor())
    assert set(asked) == {path}


def test_a_file_that_was_given_its_old_time_is_tried_again(slide: Path, tmp_path: Path) -> None:
    path, record = tmp_path / "a.tif", tmp_path / "a.json"
    path.write_bytes(slide.read_bytes())
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    time.sleep(0.02)  # file systems count time in ticks of some milliseconds
    record.write_text("{}")
    assert probe.unchanged_since(SlideRef(path), record)
    time.sleep(0.02)
    path.write_bytes(slide.read_bytes())
    os.utime(path, ns=times)
    assert not probe.unchanged_since(SlideRef(path), record)
