"""`vstain count` from the outside: files, refusals, exit codes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from tests.fixtures.counting import Field, FieldStyle, stained_field
from tests.fixtures.source import CODE, COMMENT, Calls, code_changer
from virtual_stain.cli.main import _run
from virtual_stain.counting.outlines import Outline
from virtual_stain.counting.windows import CountWindow, FoundCells, WindowTask, count_windows
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.workflows import count_slide
from virtual_stain.workflows.count_overlay import RingStore, write_overlay

FIELD = stained_field(200.0, 0.5, style=FieldStyle(spacing_um=12.0))


def write(path: Path, rgb: np.ndarray[Any, np.dtype[np.uint8]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, rgb[:, :, ::-1])[1].tobytes())
    return path


def count(slide: Path, out: Path, *more: str, mpp: str | None = "0.5") -> int:
    pixel = [] if mpp is None else ["--mpp", mpp]
    return _run(["count", str(slide), "--marker", "ki67", "--out", str(out), "-q", "--jobs", "1", *pixel, *more])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Field, Path]:
    folder = tmp_path_factory.mktemp("größe mit leer")
    assert count(write(folder / "schnitt é 1.png", FIELD.rgb), folder / "out") == 0
    return FIELD, folder / "out"


def read_cells(out: Path) -> list[dict[str, str]]:
    with (out / "cells.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_promised_file_is_there_and_no_other(done: tuple[Field, Path]) -> None:
    names = {p.name for p in done[1].iterdir()} - {".lock"}
    assert names == {
        "count.html",
        "cells.csv",
        "cells.geojson",
        "summary.json",
        "overlay.jpg",
        "overlay_full.jpg",
        "stain.png",
        "run.json",
    }


def test_the_csv_has_the_promised_columns_and_the_cells(done: tuple[Field, Path]) -> None:
    field, out = done
    rows = read_cells(out)
    assert {"x", "y", "class", "dab_od", "area_um2", "tumour"} <= set(rows[0])
    assert len(rows) == pytest.approx(len(field.xy), rel=0.03)
    assert {r["class"] for r in rows} == {"positive", "negative"}
    assert {r["tumour"] for r in rows} <= {"0", "1"}


def test_the_summary_agrees_with_the_csv(done: tuple[Field, Path]) -> None:
    field, out = done
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    rows = read_cells(out)
    for part, chosen in (("all_nuclei", rows), ("tumour", [r for r in rows if r["tumour"] == "1"])):
        positive = sum(r["class"] == "positive" for r in chosen)
        assert summary[part]["positive"] == positive
        assert summary[part]["ratio"] == pytest.approx(positive / len(chosen), abs=1e-6)
    assert summary["all_nuclei"]["ratio"] == pytest.approx(field.positive.mean(), abs=0.02)
    assert summary["tumour_source"] == "nuclear_features_and_neighbourhood"
    assert summary["slide"]["mpp_origin"] == "override"
    assert summary["allred_proportion_bins"]
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["complete"] is True


def test_qupath_can_open_the_geojson(done: tuple[Field, Path]) -> None:
    _, out = done
    value = json.loads((out / "cells.geojson").read_text(encoding="utf-8"))
    assert value["type"] == "FeatureCollection"
    assert value["offset_px0"] == [0, 0]
    assert len(value["features"]) == len(read_cells(out))
    for feature in value["features"]:
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert len(ring) >= 5
        x, y = np.array(ring).T
        assert np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]) > 0
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["classification"]["name"] in ("Positive", "Negative")
        assert len(properties["classification"]["color"]) == 3
        assert all(isinstance(v, float) for v in properties["measurements"].values())


def test_the_same_run_again_gives_the_same_files(done: tuple[Field, Path]) -> None:
    _, out = done
    before = {
        n: (out / n).read_bytes() for n in ("cells.csv", "cells.geojson", "summary.json", "overlay.jpg", "stain.png")
    }
    assert count(out.parent / "schnitt é 1.png", out, "--force") == 0
    assert before == {n: (out / n).read_bytes() for n in before}


def test_another_slide_or_setting_in_the_same_folder_is_refused_without_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write(tmp_path / "a.png", FIELD.rgb[:150, :150])
    second = write(tmp_path / "b.png", FIELD.rgb[:150, 50:200])
    out = tmp_path / "out"
    assert count(first, out) == 0
    kept = (out / "summary.json").read_bytes()
    assert count(second, out) == 3
    assert count(first, out, "--set", "counting.min_area_um2=30") == 3
    assert "--force" in capsys.readouterr().err
    assert (out / "summary.json").read_bytes() == kept
    assert count(second, out, "--force") == 0
    assert (out / "summary.json").read_bytes() != kept


def test_a_killed_run_is_done_again(tmp_path: Path) -> None:
    slide, out = write(tmp_path / "a.png", FIELD.rgb[:150, :150]), tmp_path / "out"
    assert count(slide, out) == 0
    whole = (out / "cells.csv").read_bytes()
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    (out / "run.json").write_text(json.dumps({**run, "complete": False}), encoding="utf-8")
    (out / "summary.json").unlink()
    (out / ".counting").mkdir()
    (out / ".counting" / "cells.csv.tmp").write_text("half a li", encoding="utf-8")
    assert count(slide, out) == 0
    assert (out / "cells.csv").read_bytes() == whole
    assert not (out / ".counting").exists()


def _content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != ".lock"}


def test_counting_once_more_deleted_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second `count` began by clearing the folder: Ctrl-C in it left run.json alone."""
    slide, out = write(tmp_path / "a.png", FIELD.rgb[:150, :150]), tmp_path / "out"
    assert count(slide, out) == 0
    before = _content(out)

    def interrupted(task: WindowTask) -> list[FoundCells]:
        raise KeyboardInterrupt

    monkeypatch.setattr("virtual_stain.workflows.count_slide.count_windows", interrupted)
    assert count(slide, out) == 0  # finished: nothing is counted
    assert _content(out) == before
    for more in (("--force",), ("--force", "--set", "counting.min_area_um2=30"), ("--full-overlay",)):
        assert count(slide, out, *more) == 130
        assert _content(out) == before
        assert not (out / ".counting").exists()


def test_a_count_is_done_again_where_a_file_or_the_code_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, out = write(tmp_path / "a.png", FIELD.rgb[:150, :150]), tmp_path / "out"
    assert count(slide, out, "--full-overlay") == 0
    before = _content(out)
    (out / "cells.csv").write_text("x,y\n", encoding="utf-8")
    assert count(slide, out) == 0
    again = _content(out)
    assert again["cells.csv"] == before["cells.csv"]
    assert "overlay.ome.tif" not in again  # not asked for this time: it would be of another run
    change, calls = code_changer(tmp_path / "sources", monkeypatch), Calls(monkeypatch, count_slide, "count_windows")
    for file, text in (("her2.py", COMMENT), ("report/report.py", CODE), ("registration/search.py", CODE)):
        change(file, text)
        assert count(slide, out) == 0
    assert calls.since() == 0
    for file in ("her2.py", "counting/tumour.py"):
        change(file, CODE)
        assert count(slide, out) == 0
        assert calls.since() > 0


def test_a_finished_count_of_an_earlier_version_is_known_for_the_same_and_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slide, out = write(tmp_path / "a.png", FIELD.rgb[:150, :150]), tmp_path / "out"
    assert count(slide, out) == 0
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    identity = run.pop("made_from")
    code = identity.pop("code_sha256")
    counting = identity["settings"]["counting"]
    counting["min_tumour_cells"] = counting.pop("min_slide_cells")
    (out / "run.json").write_text(json.dumps({**run, "identity": identity, "code_sha256": code}), encoding="utf-8")
    calls = Calls(monkeypatch, count_slide, "count_windows")
    assert count(slide, out, "--set", "counting.min_area_um2=30") == 3
    assert "other settings" in capsys.readouterr().err
    assert calls.since() == 0
    assert count(slide, out) == 0
    assert calls.since() > 0


def test_force_took_over_the_folder_of_a_registration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slide, out = write(tmp_path / "a.png", FIELD.rgb[:150, :150]), tmp_path / "block7"
    out.mkdir()
    (out / "run.json").write_text('{"command": "register", "complete": true}', encoding="utf-8")
    (out / "overlay.jpg").write_bytes(b"the registration's")
    before = _content(out)
    for more in ((), ("--force",)):
        assert count(slide, out, *more) == 3
        assert "one of `vstain register`" in capsys.readouterr().err
        assert _content(out) == before


def test_a_region_of_interest_is_recorded_and_decides(tmp_path: Path) -> None:
    slide = write(tmp_path / "a.png", FIELD.rgb)
    ring = [[0, 0], [150, 0], [150, 400], [0, 400], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    roi = tmp_path / "roi.geojson"
    feature = {"type": "Feature", "geometry": geometry, "properties": {}}
    roi.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}), encoding="utf-8")
    assert count(slide, tmp_path / "out", "--roi", str(roi)) == 0
    assert json.loads((tmp_path / "out/summary.json").read_text())["tumour_source"] == "region_of_interest"
    for row in read_cells(tmp_path / "out"):
        assert (row["tumour"] == "1") == (float(row["x"]) < 150)


def test_a_blank_field_reads_null_with_a_reason(tmp_path: Path) -> None:
    slide = write(tmp_path / "blank.png", np.full((200, 200, 3), 238, np.uint8))
    assert count(slide, tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    for part in ("tumour", "all_nuclei"):
        assert summary[part]["ratio"] is None
        assert summary[part]["h_score"] is None
        assert summary[part]["reason"]
    assert any("no reading of tumour cells" in warning for warning in summary["warnings"])
    assert json.loads((tmp_path / "out/cells.geojson").read_text())["features"] == []


def test_a_marker_that_nobody_knows_is_refused_before_any_work(tmp_path: Path) -> None:
    slide = write(tmp_path / "a.png", FIELD.rgb[:60, :60])
    assert _run(["count", str(slide), "--marker", "melan-a", "--out", str(tmp_path / "out"), "--mpp", "0.5"]) == 2
    assert not (tmp_path / "out").exists()


def test_bad_input_ends_with_a_sentence_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slide = write(tmp_path / "a.png", FIELD.rgb[:60, :60])
    broken = tmp_path / "broken.png"
    broken.write_bytes(slide.read_bytes()[:300])
    black = write(tmp_path / "black.png", np.full((300, 300, 3), 4, np.uint8))
    for path, mpp, said in (
        (tmp_path / "missing.png", "0.5", "missing.png"),
        (broken, "0.5", "broken.png"),
        (slide, None, "--mpp"),
        (slide, "2.0", "--mpp"),
        (slide, "900", "--mpp"),
        (black, "0.5", "fluorescence"),
    ):
        assert count(path, tmp_path / "out", mpp=mpp) == 3
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out/summary.json").exists()
    assert count(slide, tmp_path / "out", "--roi", str(tmp_path / "no.geojson")) == 3


def test_an_unwritable_folder_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slide = write(tmp_path / "a.png", FIELD.rgb[:60, :60])
    assert count(slide, slide / "out") == 3
    assert "cannot be written" in capsys.readouterr().err


def test_counts_per_mm2_are_of_the_region_not_of_what_was_searched(tmp_path: Path) -> None:
    slide = write(tmp_path / "a.png", FIELD.rgb)
    mask = np.zeros(FIELD.rgb.shape[:2], np.uint8)
    mask[:, :200] = 255
    roi = tmp_path / "roi.png"
    roi.write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    more = ("--roi", str(roi), "--set", "counting.value_definition=positive_count")
    assert count(slide, tmp_path / "out", *more) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["area_of"] == "region of interest"
    assert summary["area_mm2"] == pytest.approx(0.1 * 0.2, rel=0.05)
    assert summary["value"]["unit"] == "cells/mm2"
    assert summary["value"]["value"] == pytest.approx(summary["tumour"]["positive"] / summary["area_mm2"], rel=1e-4)


def test_few_cells_that_agree_are_not_certain(tmp_path: Path) -> None:
    slide = write(tmp_path / "a.png", FIELD.rgb[:60, :60])
    assert count(slide, tmp_path / "out") == 0
    trust = json.loads((tmp_path / "out/summary.json").read_text())["trust"]
    assert "few_cells" in trust["flags"]
    assert "uncertain_ratio" in trust["flags"]


def test_the_full_overlay_shows_every_counted_cell_at_full_resolution(tmp_path: Path) -> None:
    """overlay_full.jpg ends after 2,400 px: of a larger slide most cells could not be looked at."""
    wide = np.concatenate([FIELD.rgb] * 4, axis=1)
    slide = write(tmp_path / "wide.png", wide)
    assert count(slide, tmp_path / "out", "--full-overlay") == 0
    with tifffile.TiffFile(tmp_path / "out" / "overlay.ome.tif") as tiff:
        levels = [level.asarray() for level in tiff.series[0].levels]
        assert tiff.series[0].axes == "YXS"
        assert 'PhysicalSizeX="0.5"' in (tiff.ome_metadata or "")
    assert levels[0].shape[:2] == wide.shape[:2]
    assert len(levels) > 1
    changed = np.abs(levels[0].astype(int) - wide).max(axis=2) > 60
    rows = read_cells(tmp_path / "out")
    assert len(rows) > 500
    seen = []
    for row in rows:
        x, y = int(float(row["x"])), int(float(row["y"]))
        seen.append(changed[max(0, y - 14) : y + 15, max(0, x - 14) : x + 15].sum() >= 8)
    assert all(seen)


def test_overlay_tiles_draw_what_crosses_their_borders(tmp_path: Path) -> None:
    slide = write(tmp_path / "white.png", np.full((1100, 1300, 3), 255, np.uint8))
    with RingStore(tmp_path) as rings, open_slide(SlideRef(slide, (0.5, 0.5))) as opened:
        corners = np.array([(490.0, 490.0), (540.0, 490.0), (540.0, 540.0), (490.0, 540.0)])
        rings.append(Outline(0, True, corners))
        assert write_overlay(opened, rings, tmp_path / "o.ome.tif", [], "").width == 1300
    with tifffile.TiffFile(tmp_path / "o.ome.tif") as tiff:
        picture = tiff.series[0].levels[0].asarray()
    dark = picture.min(axis=2) < 200
    assert dark[489:491, 495:535].any(axis=0).all()
    assert dark[539:541, 495:535].any(axis=0).all()
    assert dark[495:535, 489:491].any(axis=1).all()
    assert dark[495:535, 539:541].any(axis=1).all()
    assert not dark[:480].any()
    assert not dark[550:].any()


def test_cells_that_came_as_points_are_in_the_pictures(tmp_path: Path) -> None:
    """Only outlines were drawn: of another detector's points nothing was seen at full resolution."""
    blank = write(tmp_path / "white.png", np.full((400, 400, 3), 240, np.uint8))
    (tmp_path / "points.csv").write_text("x,y\n100,120\n300.5,250\n", encoding="utf-8")
    assert count(blank, tmp_path / "out", "--cells", str(tmp_path / "points.csv")) == 0
    picture = cv2.imread(str(tmp_path / "out" / "overlay_full.jpg")).astype(int)
    drawn = np.abs(picture - 240).max(axis=2) > 40
    assert [bool(drawn[y - 8 : y + 8, x - 8 : x + 8].any()) for x, y in ((100, 120), (300, 250), (200, 200))] == [
        True,
        True,
        False,
    ]


def test_no_window_is_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows around the close-up were counted once more for its outlines: 10 s of a slide's time."""
    seen: list[CountWindow] = []

    def watched(task: WindowTask) -> list[FoundCells]:
        seen.extend(task.windows)
        return count_windows(task)

    monkeypatch.setattr("virtual_stain.workflows.count_slide.count_windows", watched)
    assert count(write(tmp_path / "field.png", FIELD.rgb), tmp_path / "out", "--set", "counting.window_um=64") == 0
    assert len(seen) > 4
    assert len(seen) == len(set(seen))


def test_a_slide_that_is_not_stained_with_dab_gets_no_reading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an H&E slide a percentage came out, like any other, and HER2 "0"; the panel would have believed it."""
    pink = stained_field(200.0, 0.5, style=FieldStyle(spacing_um=12.0, dab=(0.2, 0.85, 0.48), positive_od=0.5))
    slide, out = write(tmp_path / "he.png", pink.rgb), tmp_path / "out"
    assert count(slide, out) == 3
    error = capsys.readouterr().err
    assert "he.png: expected an IHC slide" in error
    assert "--set counting.any_stain=true --force" in error
    assert (out / "stain.png").is_file()
    assert not (out / "summary.json").exists()
    assert count(slide, out, "--set", "counting.any_stain=true", "--force") == 0
    before = _content(out)
    summary = json.loads(before["summary.json"])
    assert any("not brown" in text for text in summary["warnings"])
    assert count(slide, out, "--force") == 3  # what was counted stays as it was
    assert "stain_refused.png" in capsys.readouterr().err
    assert {k: v for k, v in _content(out).items() if k != "stain_refused.png"} == before


@pytest.mark.parametrize("dab", [(0.50, 0.63, 0.59), (0.46, 0.63, 0.63)])
def test_pinkish_dab_of_real_cameras_is_read(tmp_path: Path, dab: tuple[float, float, float]) -> None:
    field = stained_field(200.0, 0.5, style=FieldStyle(spacing_um=12.0, dab=dab))
    assert count(write(tmp_path / "ihc.png", field.rgb), tmp_path / "out") == 0


def test_cells_in_um_where_px_are_expected_read_without_a_word(tmp_path: Path) -> None:
    """µm in x and y lie inside the scan, beside the nuclei: 1.0 % was read instead of 36.5 %."""
    slide = write(tmp_path / "ihc.png", FIELD.rgb)
    for name, xy, pale in (("px", FIELD.xy, False), ("um", FIELD.xy * 0.5 + 3, True)):
        table = tmp_path / f"{name}.csv"
        table.write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in xy), encoding="utf-8")
        assert count(slide, tmp_path / name, "--cells", str(table)) == 0
        warnings = json.loads((tmp_path / name / "summary.json").read_text(encoding="utf-8"))["warnings"]
        assert any("less than half the stain of a nucleus" in text for text in warnings) == pale
