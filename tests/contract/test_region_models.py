"""What a region model of the user's own has to be, and that it decides what is a tumour cell."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fixtures.counting import FieldStyle, stained_field
from virtual_stain.cli.main import _run

MODULE = '''
import numpy as np

class Left:
    """Everything left of the middle of the scan."""
    name = "left half 1.0"
    def region(self, slide):
        self.limit = slide.bounds.centre[0]
        return self
    def contains(self, points):
        return points[:, 0] < self.limit

ready = Left()

def make():
    return Left()

class Comma(Left):
    name = 'left, "half"'

class Nameless(Left):
    name = ""

class Numbers(Left):
    def contains(self, points):
        return np.ones(len(points))

class OneAnswer(Left):
    def contains(self, points):
        return np.array(True)

class Raises(Left):
    def region(self, slide):
        return {}["weights"]

class RaisesLater(Left):
    def contains(self, points):
        if len(points) > 4:
            raise RuntimeError("out of memory")
        return super().contains(points)

def broken():
    raise OSError("no weights")

class NoRegion(Left):
    def region(self, slide):
        return None
'''


@pytest.fixture
def slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_regions.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "field.png"
    cv2.imwrite(str(path), stained_field(120.0, 0.5, style=FieldStyle(spacing_um=12.0)).rgb[:, :, ::-1])
    return path


def count(slide: Path, *more: str) -> int:
    out = str(slide.parent / "out")
    return _run(["count", str(slide), "--marker", "ki67", "--out", out, "--mpp", "0.5", "-q", "--jobs", "1", *more])


@pytest.mark.parametrize("name", ["Left", "ready", "make"])
def test_a_class_an_object_and_a_function_decide_what_is_tumour(slide: Path, name: str) -> None:
    assert count(slide, "--region-model", f"own_regions:{name}") == 0
    out = slide.parent / "out"
    with (out / "cells.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    limit = cv2.imread(str(slide)).shape[1] / 2
    assert len(rows) > 40
    assert [r["tumour"] == "1" for r in rows] == [float(r["x"]) < limit for r in rows]
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["tumour_source"] == "region_model:left half 1.0"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("own_regions", "MODULE:NAME"),
        ("no_such_module:Left", "no_such_module"),
        ("own_regions:Right", "Right"),
        ("own_regions:Nameless", "expected a region model"),
        ("own_regions:np", "expected a region model"),
        ("own_regions:Numbers", "returns bool[N]"),
        ("own_regions:OneAnswer", "returns bool[N]"),
        ("own_regions:NoRegion", "returns bool[N]"),
        ("own_regions:Raises", "KeyError: 'weights'"),
        ("own_regions:RaisesLater", "RuntimeError: out of memory"),
        ("own_regions:broken", "OSError: no weights"),
        ("own_broken:Left", "raised ZeroDivisionError"),
    ],
)
def test_what_is_no_region_model_is_refused_before_counting(
    slide: Path, where: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (slide.parent / "own_broken.py").write_text("1 / 0\n")
    assert count(slide, "--region-model", where) == 3
    assert said in capsys.readouterr().err
    assert not (slide.parent / "out" / "cells.csv").exists()


def test_a_missing_name_says_what_the_module_has_and_where_another_could_be_found(
    slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert count(slide, "--region-model", "own_regions:Right") != 0
    said = capsys.readouterr().err
    assert all(word in said for word in ("Left", "ready", "own_regions.py"))
    assert "PYTHONPATH" in said


def test_a_region_and_a_model_are_one_too_many(slide: Path) -> None:
    roi = slide.parent / "roi.png"
    cv2.imwrite(str(roi), np.full(cv2.imread(str(slide)).shape[:2], 255, np.uint8))
    assert count(slide, "--roi", str(roi), "--region-model", "own_regions:Left") != 0


def test_what_decided_about_tumour_cells_stood_only_in_the_summary(slide: Path) -> None:
    """Of cells.csv and cells.geojson alone nobody could say it; the name of a model may hold anything."""
    assert count(slide, "--region-model", "own_regions:Comma") == 0
    out, source = slide.parent / "out", 'region_model:left, "half"'
    with (out / "cells.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0][-1] == "tumour_source"
    assert {row[-1] for row in rows[1:]} == {source}
    assert {len(row) for row in rows} == {len(rows[0])}
    assert json.loads((out / "cells.geojson").read_text(encoding="utf-8"))["tumour_source"] == source
