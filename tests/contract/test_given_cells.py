"""What every detector promises, ours and those whose files `--cells` takes: the same cells, measured the same way."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fixtures.cell_files import (
    FIELD,
    MPP,
    any_csv,
    old_qupath,
    qupath_geojson,
    qupath_tsv,
    stardist,
    typed_tsv,
)
from tests.fixtures.counting import Field, f1_score, matches
from virtual_stain.cli.main import _run

WRITERS: list[Callable[[Path], Path]] = [qupath_geojson, old_qupath, qupath_tsv, typed_tsv, stardist, any_csv]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("feld") / "feld.png"
    path.write_bytes(cv2.imencode(".png", FIELD.rgb[:, :, ::-1])[1].tobytes())
    return path


def counted(slide: Path, out: Path, *more: str) -> tuple[list[dict[str, str]], dict[str, object]]:
    words = ["count", str(slide), "--marker", "ki67", "--mpp", str(MPP), "--out", str(out), "-q", "--jobs", "1", *more]
    assert _run(words) == 0
    with (out / "cells.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream)), json.loads((out / "summary.json").read_text(encoding="utf-8"))


def _agrees(rows: list[dict[str, str]], field: Field) -> None:
    """The promise: positions in level-0 px, one row a cell, a class, DAB and hematoxylin of every one."""
    xy = np.array([[float(r["x"]), float(r["y"])] for r in rows])
    assert f1_score(xy, field.xy, 3 / field.mpp) > 0.97
    pairs = matches(xy, field.xy, 3 / field.mpp)
    positive = np.array([rows[i]["class"] == "positive" for i in pairs[:, 0]])
    assert (positive == field.positive[pairs[:, 1]]).all()
    dab = np.array([float(rows[i]["dab_od"]) for i in pairs[:, 0]])
    assert dab[positive].min() > 0.5 > 0.1 > dab[~positive].max()
    assert all(float(r["hematoxylin_od"]) > 0.1 for r in rows if r["class"] == "negative")
    assert {r["tumour"] for r in rows} <= {"0", "1"}


@pytest.mark.parametrize("write", [None, *WRITERS], ids=lambda w: "ours" if w is None else w.__name__)
def test_every_detector_keeps_the_promise(slide: Path, tmp_path: Path, write: Callable[[Path], Path] | None) -> None:
    more = [] if write is None else ["--cells", str(write(tmp_path))]
    rows, summary = counted(slide, tmp_path / "out", *more)
    _agrees(rows, FIELD)
    if write is not None:
        assert len(rows) == len(FIELD.xy)
        assert summary["tumour_source"] == "imported_cells"
        assert summary["detector"] != "vstain"
        assert all(r["tumour"] == "1" for r in rows)
        outlined = write in (qupath_geojson, old_qupath, stardist)
        assert all((r["area_um2"] != "") == outlined for r in rows)


def test_our_own_files_come_back_as_they_were(slide: Path, tmp_path: Path) -> None:
    first, _ = counted(slide, tmp_path / "first")
    for name in ("cells.csv", "cells.geojson"):
        again, _ = counted(slide, tmp_path / name, "--cells", str(tmp_path / "first" / name))
        assert len(again) == len(first)
        xy, before = (np.array([[float(r["x"]), float(r["y"])] for r in rows]) for rows in (again, first))
        pairs = matches(xy, before, 0.1)
        assert len(pairs) == len(first)
        for i, j in pairs:
            assert (again[i]["class"], again[i]["tumour"]) == (first[j]["class"], first[j]["tumour"])


def test_a_cell_under_another_is_measured_too_and_the_pair_is_told(slide: Path, tmp_path: Path) -> None:
    x, y = FIELD.xy[np.flatnonzero(FIELD.positive)[0]]
    path = tmp_path / "twice.csv"
    path.write_text(f"x,y\n{x},{y}\n{x + 0.1},{y}\n{x},{y}\n", encoding="utf-8")
    rows, summary = counted(slide, tmp_path / "out", "--cells", str(path))
    assert [r["class"] for r in rows] == ["positive"] * 3
    assert any("twice" in text for text in summary["warnings"])  # type: ignore[attr-defined]


def test_a_region_goes_before_what_the_cells_say(slide: Path, tmp_path: Path) -> None:
    mask = np.zeros(FIELD.rgb.shape[:2], np.uint8)
    mask[:, :100] = 255
    roi = tmp_path / "roi.png"
    roi.write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    rows, summary = counted(slide, tmp_path / "out", "--cells", str(any_csv(tmp_path)), "--roi", str(roi))
    assert summary["tumour_source"] == "region_of_interest"
    assert all((r["tumour"] == "1") == (float(r["x"]) < 100) for r in rows)


def test_an_intensity_that_was_told_stays_and_an_unknown_class_is_told(slide: Path, tmp_path: Path) -> None:
    (x, y), (x1, y1) = FIELD.xy[:2]
    path = tmp_path / "cells.csv"
    path.write_text(f"x,y,class\n{x},{y},Tumor: 3+\n{x1},{y1},Wobble\n", encoding="utf-8")
    rows, summary = counted(slide, tmp_path / "out", "--cells", str(path))
    assert rows[0]["intensity"] == "3"
    assert any("'Wobble': 1" in text for text in summary["warnings"])  # type: ignore[attr-defined]


def test_the_maps_of_a_star_model_become_the_same_cells(slide: Path, tmp_path: Path) -> None:
    """A model that knows the field: what is tested is everything around it, at two pixel sizes and on a grid."""
    from tools.stardist_cells import cells_of
    from virtual_stain.slides.slide import SlideRef, open_slide

    model_mpp, grid = 0.25, 2
    at = FIELD.xy * (MPP / model_mpp) - 0.5

    def predict(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
        side = image.shape[0]
        y, x = np.mgrid[0:side:grid, 0:side:grid]
        places = np.stack([x, y], axis=-1).reshape(-1, 2) - 96.0  # the window starts at −96 px
        distance = np.linalg.norm(places[:, None] - at[None], axis=2).min(axis=1).reshape(x.shape)
        prob = np.clip(1 - distance / 12, 0, 1)
        return prob, np.full((*x.shape, 32), 4.0 / model_mpp)

    with open_slide(SlideRef(slide, (MPP, MPP))) as opened:
        points, coord, prob = cells_of(opened, predict, model_mpp, 0.5, 0.4)
    path = tmp_path / "stars.npz"
    np.savez(path, points=points, coord=coord, prob=prob)
    rows, _ = counted(slide, tmp_path / "out", "--cells", str(path))
    assert len(rows) == len(FIELD.xy)
    _agrees(rows, FIELD)
    assert float(np.median([float(r["area_um2"]) for r in rows])) == pytest.approx(np.pi * 16, rel=0.03)


def test_a_keras_file_is_a_star_model(tmp_path: Path) -> None:
    import keras

    from tools.stardist_cells import keras_model

    image = keras.Input((None, None, 3))
    prob = keras.layers.Conv2D(1, 3, strides=2, padding="same", activation="sigmoid")(image)
    dist = keras.layers.Conv2D(32, 3, strides=2, padding="same")(image)
    path = tmp_path / "star.keras"
    keras.Model(image, [prob, dist]).save(path)
    maps = keras_model(path)(np.zeros((64, 48, 3), np.float32))
    assert maps[0].shape == (32, 24)
    assert maps[1].shape == (32, 24, 32)
