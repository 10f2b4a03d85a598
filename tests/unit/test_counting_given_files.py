"""Reading the cells of other programs' files: what is understood, and what is refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.cell_files import BOUNDS, FIELD, MPP, disc, qupath_geojson, qupath_tsv, stardist
from virtual_stain.counting.given import UNKNOWN, class_of, tumour_flags
from virtual_stain.counting.given_files import read_given_cells
from virtual_stain.errors import InputError
from virtual_stain.geometry import Box


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
    ("name", "cell_class", "intensity", "tumour"),
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
def test_what_is_no_tumour_goes_before_what_is(name: str, cell_class: int, intensity: int, tumour: bool | None) -> None:
    told = class_of(name)
    assert (told.cell_class, told.intensity, told.tumour, told.understood) == (cell_class, intensity, tumour, True)


def test_where_a_file_names_tumour_cells_only_those_are() -> None:
    assert tumour_flags([None, False, None]).tolist() == [True, False, True]
    assert tumour_flags([True, None, False]).tolist() == [True, False, False]
