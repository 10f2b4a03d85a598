"""What every detector promises, ours and those whose files `--cells` takes: the same cells, measured the same way."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fixtures.counting import Field, FieldStyle, f1_score, matches, stained_field
from virtual_stain.cli.main import _run
from virtual_stain.counting.given import UNKNOWN, class_of, tumour_flags
from virtual_stain.counting.given_files import read_given_cells
from virtual_stain.errors import InputError
from virtual_stain.geometry import Box, Points

MPP = 0.5
FIELD = stained_field(150.0, MPP, style=FieldStyle(spacing_um=12.5))
BOUNDS = Box(0, 0, float(FIELD.rgb.shape[1]), float(FIELD.rgb.shape[0]))


def disc(x: float, y: float, radius_px: float = 7.0) -> Points:
    angle = np.arange(24) * (2 * np.pi / 24)
    return np.array([x, y]) + radius_px * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def qupath_geojson(folder: Path) -> Path:
    """As QuPath exports detections: a name that is a path, an annotation among them, nucleus inside a cell."""
    features: list[object] = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]},
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
        }
    ]
    for (x, y), positive in zip(FIELD.xy, FIELD.positive, strict=True):
        outer, ring = disc(x, y, 10.0).tolist(), disc(x, y).tolist()
        name = "Tumor: Positive" if positive else "Tumor: Negative"
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*outer, outer[0]]]},
                "nucleusGeometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
                "properties": {"objectType": "cell", "classification": {"name": name}},
            }
        )
    path = folder / "qupath zellen.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


def qupath_tsv(folder: Path) -> Path:
    path = folder / "detections.tsv"
    rows = ["Image\tName\tClass\tCentroid X µm\tCentroid Y µm\tNucleus: Area µm^2"]
    for (x, y), positive in zip(FIELD.xy, FIELD.positive, strict=True):
        rows.append(f"a.svs\t\t{'Positive' if positive else 'Negative'}\t{x * MPP:.4f}\t{y * MPP:.4f}\t50.1")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def stardist(folder: Path) -> Path:
    path = folder / "details.npz"
    coord = np.stack([(disc(x, y) - 0.5)[:, ::-1].T for x, y in FIELD.xy])
    np.savez(path, points=FIELD.xy[:, ::-1] - 0.5, coord=coord, prob=np.ones(len(FIELD.xy)))
    return path


def any_csv(folder: Path) -> Path:
    path = folder / "cells.csv"
    lines = "\n".join(f"{x:.3f};{y:.3f};{i}" for i, (x, y) in enumerate(FIELD.xy))
    path.write_text(f"x;y;id\n{lines}\n", encoding="utf-8")
    return path


def old_qupath(folder: Path) -> Path:
    """QuPath 0.2 and 0.3: a bare list, the kind in the id or as `object_type`, measurements as a list of pairs."""
    square = {"type": "Polygon", "coordinates": [[[0, 0], [90, 0], [90, 90], [0, 90], [0, 0]]]}
    tumour = {"classification": {"name": "Tumor", "colorRGB": -3670016}, "measurements": []}
    features: list[object] = [
        {"type": "Feature", "id": "PathAnnotationObject", "geometry": square, "properties": tumour},
        {"type": "Feature", "geometry": square, "properties": {**tumour, "object_type": "annotation"}},
        {"type": "Feature", "id": "PathRootObject", "geometry": square, "properties": {}},
    ]
    for (x, y), positive in zip(FIELD.xy, FIELD.positive, strict=True):
        ring = disc(x, y).tolist()
        name = "Tumor: Positive" if positive else "Tumor: Negative"
        features.append(
            {
                "type": "Feature",
                "id": "PathDetectionObject",
                "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
                "properties": {
                    "classification": {"name": name, "colorRGB": -3670016},
                    "isLocked": False,
                    "measurements": [{"name": "Nucleus: Area", "value": 50.1}, {"name": "Tumour", "value": 1.0}],
                },
            }
        )
    path = folder / "old qupath.json"
    path.write_text(json.dumps(features), encoding="utf-8")
    return path


def typed_tsv(folder: Path) -> Path:
    """QuPath 0.4 and later: a column Object type, and objects that are no cells; of the image itself no position."""
    path = folder / "measurements.tsv"
    rows = ["Image\tObject ID\tObject type\tName\tClassification\tCentroid X µm\tCentroid Y µm"]
    rows.append("a.svs\t\tRoot object\tRoot object (Image)\t\t\t")
    for i, ((x, y), positive) in enumerate(zip(FIELD.xy, FIELD.positive, strict=True)):
        place = f"{x * MPP:.4f}\t{y * MPP:.4f}"
        rows.append(f"a.svs\tu\tDetection\t\t{'Positive' if positive else 'Negative'}\t{place}")
        if i % 10 == 0:
            rows += [f"a.svs\tu\t{kind}\tregion\tTumor\t{place}" for kind in ("Annotation", "Tile", "TMA core")]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


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


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "id,area\n1,2\n", "position"),
        ("a.csv", "x,y\n1,2\nnan,3\n", "line 3"),
        ("a.csv", "x,y\n1,2\n1,99999\n", "inside the scan"),
        ("a.tsv", "Image\tCentroid X µm\tCentroid Y µm\na\t1\t1\nb\t1\t1\n", "one image"),
        ("a.geojson", "{", "GeoJSON"),
        ("a.geojson", '{"type": "FeatureCollection", "features": []}', "none"),
        ("a.geojson", '[{"geometry": {"type": "Polygon", "coordinates": [[[0, 0]]]}}]', "feature 0"),
        ("a.xlsx", "x", "xlsx"),
        ("a.npz", "x", "StarDist"),
        ("a.npz", "", "StarDist"),
        ("a.csv", "x,y,tumour\n1,2,maybe\n", "line 2: expected tumour"),
        ("a.csv", "x,y,tumour\n1,2,0.7\n", "line 2: expected tumour"),
        ("a.tsv", "Object type\tx\ty\nAnnotation\t1\t2\n", "1 rows of other objects"),
        ("a.csv", "sep=;\nx;y\n1;2\nq;3\n", "line 4: expected numbers"),
        ("a.geojson", '[{"geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": [1]}]', "feature 0"),
        ("a.geojson", '[{"id": "PathAnnotationObject", "geometry": null}]', "Received: 1 of type annotation"),
        ("a.geojson", '{"offset_px0": "x", "features": []}', "offset_px0 x"),
        ("a.geojson", '{"offset_px0": [100, 100], "features": []}', "offset_px0"),
        ("a.geojson", '{"slide": "other", "features": []}', "'field'. Received: one of the slide 'other'"),
    ],
)
def test_a_file_that_is_no_list_of_cells_is_refused_in_words(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught:
        read_given_cells(path, BOUNDS, (MPP, MPP), slide="field")
    assert name in str(caught.value)


def test_geojson_counts_from_the_corner_of_the_scan_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [5, 6]}, "properties": {}}
    bounds = Box(100, 200, 50, 50)
    for head, expected in (({}, (105, 206)), ({"origin": "bounds", "offset_px0": [100, 200]}, (105, 206))):
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [point], **head}))
        assert read_given_cells(path, bounds, (MPP, MPP)).xy.tolist() == [list(expected)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [point], "origin": "slide"}))
    with pytest.raises(InputError, match="inside the scan"):
        read_given_cells(path, bounds, (MPP, MPP))


def test_an_offset_that_is_null_was_a_bug_and_one_of_another_slide_moved_the_cells(tmp_path: Path) -> None:
    """A file for a scan at [100, 100] moved all cells of one at [0, 0], and the ratio with them."""
    path = tmp_path / "a.geojson"
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [5, 6]}, "properties": {}}
    for origin in ("bounds", "slide"):
        head = {"type": "FeatureCollection", "features": [point], "origin": origin}
        path.write_text(json.dumps({**head, "offset_px0": None}))
        assert read_given_cells(path, BOUNDS, (MPP, MPP)).xy.tolist() == [[5, 6]]
        path.write_text(json.dumps({**head, "offset_px0": [100, 100]}))
        with pytest.raises(InputError, match="another slide") as caught:
            read_given_cells(path, BOUNDS, (MPP, MPP))
        assert "offset_px0 [100, 100]" in caught.value.message


def test_archives_that_are_none_of_stardists_ended_as_bugs(tmp_path: Path) -> None:
    whole = stardist(tmp_path).read_bytes()
    cut, array = tmp_path / "cut.npz", tmp_path / "array.npz"
    cut.write_bytes(whole[: len(whole) // 2])
    with array.open("wb") as stream:
        np.save(stream, FIELD.xy)
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(whole[:200] + bytes(200) + whole[400:])
    for path in (cut, array, damaged):
        with pytest.raises(InputError, match=rf"{path.name}: expected StarDist"):
            read_given_cells(path, BOUNDS, (MPP, MPP))


@pytest.mark.parametrize("factor", [1e12, 100.0])
def test_an_outline_that_is_no_cells_read_as_negative(tmp_path: Path, factor: float) -> None:
    path = tmp_path / "details.npz"
    coord = np.stack([(FIELD.xy[0] + (disc(0, 0) * factor) - 0.5)[:, ::-1].T])
    np.savez(path, points=FIELD.xy[:1, ::-1] - 0.5, coord=coord)
    with pytest.raises(InputError, match="at most 200 µm wide"):
        read_given_cells(path, BOUNDS, (MPP, MPP))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["True", "False", "true"], [True, False, True]),
        (["yes", "no", ""], [True, False, False]),
        (["1.0", "0", "nan"], [True, False, False]),
        (["", "", ""], [True, True, True]),
        (["nan", "nan", "0"], [True, True, False]),
    ],
)
def test_tumour_in_words_was_refused_and_nan_was_a_yes(tmp_path: Path, words: list[str], expected: list[bool]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y,tumour\n" + "".join(f"{5 + i},6,{word}\n" for i, word in enumerate(words)))
    assert read_given_cells(path, BOUNDS, (MPP, MPP)).tumour.tolist() == expected


@pytest.mark.parametrize("text", ["sep=;\r\nx;y\r\n5;6\r\n", "\ufeffsep=;\nx;y\n5;6\n", "sep=,\nx,y\n5,6\n"])
def test_the_first_line_of_excel_is_no_header(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    assert read_given_cells(path, BOUNDS, (MPP, MPP)).xy.tolist() == [[5, 6]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_tables_in_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    path = qupath_tsv(tmp_path)
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    assert len(read_given_cells(path, BOUNDS, (MPP, MPP))) == len(FIELD.xy)


def test_geojson_with_a_byte_order_mark_was_refused(tmp_path: Path) -> None:
    path = qupath_geojson(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_given_cells(path, BOUNDS, (MPP, MPP))) == len(FIELD.xy)


def test_decimal_commas_are_refused_with_a_hint(tmp_path: Path) -> None:
    """As a point or as what parts thousands they are two places."""
    path = tmp_path / "a.csv"
    path.write_text("x;y\n3,289;2,854\n")
    with pytest.raises(InputError, match="line 2") as caught:
        read_given_cells(path, BOUNDS, (MPP, MPP))
    assert "decimal commas" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "kind", "grade", "tumour"),
    [
        ("Tumor: Positive", 1, UNKNOWN, True),
        ("Stroma: Negative", 0, 0, False),
        ("Non-tumor: Positive", 1, UNKNOWN, False),
        ("Negative", 0, 0, None),
        ("Tumor: 3+", 1, 3, True),
        ("0", 0, 0, None),
        ("Ignore*", 2, UNKNOWN, False),
        ("", UNKNOWN, UNKNOWN, None),
        ("Immune cells", UNKNOWN, UNKNOWN, False),
        ("Tumor-infiltrating lymphocyte: Positive", 1, UNKNOWN, False),
        ("Tumor-associated stroma: Negative", 0, 0, False),
        ("Tumor: Macrophage: Positive", 1, UNKNOWN, False),
        ("Positive lymphocyte", 1, UNKNOWN, False),
        ("TIL", UNKNOWN, UNKNOWN, False),
        ("Infiltrating carcinoma: Positive", 1, UNKNOWN, True),
        ("Necrotic", UNKNOWN, UNKNOWN, False),
        ("Plasma cell", UNKNOWN, UNKNOWN, False),
    ],
)
def test_what_is_no_tumour_goes_before_what_is(name: str, kind: int, grade: int, tumour: bool | None) -> None:
    told = class_of(name)
    assert (told.kind, told.grade, told.tumour, told.understood) == (kind, grade, tumour, True)


def test_a_grade_that_was_told_stays_and_an_unknown_class_is_told(slide: Path, tmp_path: Path) -> None:
    (x, y), (x1, y1) = FIELD.xy[:2]
    path = tmp_path / "graded.csv"
    path.write_text(f"x,y,class\n{x},{y},Tumor: 3+\n{x1},{y1},Wobble\n", encoding="utf-8")
    rows, summary = counted(slide, tmp_path / "out", "--cells", str(path))
    assert rows[0]["intensity"] == "3"
    assert any("'Wobble': 1" in text for text in summary["warnings"])  # type: ignore[attr-defined]


def test_where_a_file_names_tumour_cells_only_those_are() -> None:
    assert tumour_flags([None, False, None]).tolist() == [True, False, True]
    assert tumour_flags([True, None, False]).tolist() == [True, False, False]


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
