"""Every table that a spreadsheet writes is read alike, and none of its habits becomes another number or patient."""

from __future__ import annotations

import unicodedata
from importlib import import_module
from pathlib import Path

import click
import pytest

from virtual_stain.cli.common import parse_mpp
from virtual_stain.cli.main import _run
from virtual_stain.counting.given_tables import read_table as read_cell_table
from virtual_stain.errors import ConfigError, InputError, PairError
from virtual_stain.pairs import read_pairs, read_slide_pairs
from virtual_stain.patients import damaged_by_spreadsheet
from virtual_stain.registration.landmarks import read_landmarks
from virtual_stain.registration.warp import warp_csv
from virtual_stain.review.verdicts import parse_verdicts, read_verdicts
from virtual_stain.scoring.inputs import expand, read_slide_table
from virtual_stain.tables import find_file, parse_pixel_size, quote_formula, read_table, unquoted

FORMS = {
    "semicolons": b"\xef\xbb\xbfslide;mpp;name\r\na.svs;0.25;first\r\n",
    "capitals": b"Slide,MPP,Name\r\na.svs,0.25,first\r\n",
    "spaces in the header": b"slide, mpp ,name\na.svs,0.25,first\n",
    "an empty row": b"slide,mpp,name\r\na.svs,0.25,first\r\n,,\r\n\r\n",
    "a further column": b"slide,mpp,name,comment\na.svs,0.25,first,x\n",
    "sep": b"sep=,\r\nslide,mpp,name\r\na.svs,0.25,first\r\n",
    "sep of another kind": b"sep=|\r\nslide|mpp|name\r\na.svs|0.25|first\r\n",
    "tabs in UTF-16": "slide\tmpp\tname\r\na.svs\t0.25\tfirst\r\n".encode("utf-16"),
    "empty rows before the header": b"\r\n,,\r\nslide,mpp,name\r\na.svs,0.25,first\r\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_slides_come_in_every_form_of_table(tmp_path: Path, form: str) -> None:
    path = tmp_path / "slides.csv"
    path.write_bytes(FORMS[form])
    (ref,) = read_slide_table(path)
    assert (ref.path, ref.mpp_override, ref.name) == (tmp_path / "a.svs", (0.25, 0.25), "first")


def test_a_misspelt_column_is_no_column_of_notes(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text("slide,mmp\na.svs,0.25\n")
    with pytest.raises(InputError, match="'mmp': did you mean 'mpp'"):
        read_slide_table(tmp_path / "slides.csv")


@pytest.mark.parametrize("text", ["3,5", "0,25", "0,25,0,26", "1.234,5", "1,2"])
def test_a_decimal_comma_never_becomes_two_numbers(tmp_path: Path, text: str) -> None:
    """In a table with semicolons 3,5 was read as 3.0 by 5.0 µm/px."""
    with pytest.raises(ValueError, match="decimal comma"):
        parse_pixel_size(text)
    with pytest.raises(ConfigError, match="decimal comma"):
        parse_mpp(text)
    (tmp_path / "slides.csv").write_text(f"slide;mpp\na.svs;{text}\n")
    with pytest.raises(InputError, match=r"line 2: mpp: .*decimal comma"):
        read_slide_table(tmp_path / "slides.csv")


def test_two_pixel_sizes_with_points_are_two() -> None:
    assert parse_pixel_size("0.25,0.26") == (0.25, 0.26)
    assert parse_pixel_size("1") == (1.0, 1.0)


def pairs_table(folder: Path, text: str) -> Path:
    for name in ("a.png", "b.png", "c.png", "d.png"):
        (folder / name).write_bytes(name.encode())
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_pairs_with_a_decimal_comma_are_refused_by_name(tmp_path: Path) -> None:
    path = pairs_table(tmp_path, "pair;he;ihc;he_mpp;ihc_mpp\r\na;a.png;b.png;3,5;3,5\r\n")
    with pytest.raises(PairError, match=r"line 2: he_mpp: .*decimal comma"):
        read_slide_pairs(path)


@pytest.mark.parametrize("text", ["3,5", "0,25", "1,2"])
def test_a_decimal_comma_that_fills_two_columns_is_refused(tmp_path: Path, text: str) -> None:
    """Between commas and without quotes, 3,5 was 3 µm/px on one slide and 5 on the other."""
    path = pairs_table(tmp_path, f"pair,he,ihc,he_mpp,ihc_mpp\na,a.png,b.png,{text}\n")
    with pytest.raises(PairError, match=rf"line 2: he_mpp: .*'{text}': a decimal comma"):
        read_slide_pairs(path)
    path = pairs_table(tmp_path, f"pair,he,ihc,he_mpp,ihc_mpp,note\na,a.png,b.png,0.5,{text}\n")
    with pytest.raises(PairError, match=r"line 2: ihc_mpp: .*a decimal comma"):
        read_slide_pairs(path)
    (tmp_path / "slides.csv").write_text(f"slide,mpp,name\na.svs,{text}\n")
    with pytest.raises(InputError, match=r"line 2: mpp: .*decimal comma"):
        read_slide_table(tmp_path / "slides.csv")


def test_whole_pixel_sizes_with_a_point_are_taken(tmp_path: Path) -> None:
    path = pairs_table(tmp_path, "pair,he,ihc,he_mpp,ihc_mpp\na,a.png,b.png,3.0,5.0\nb,c.png,d.png,8,8\n")
    assert [p.he.mpp_override for p in read_slide_pairs(path)] == [(3.0, 3.0), (8.0, 8.0)]
    path = pairs_table(tmp_path, "pair;he;ihc;he_mpp;ihc_mpp\na;a.png;b.png;8;8\n")
    assert [p.ihc.mpp_override for p in read_slide_pairs(path)] == [(8.0, 8.0)]


def test_values_that_an_unquoted_comma_has_moved_are_refused(tmp_path: Path) -> None:
    """1,5,2,5 below x,y was the point 1, 5."""
    (tmp_path / "a.csv").write_text("x,y\n1,5,2,5\n")
    with pytest.raises(InputError, match="row 2: expected 2 values"):
        warp_csv(tmp_path / "a.csv", lambda p: p)
    (tmp_path / "b.csv").write_text("he_x,he_y,ihc_x,ihc_y\n1,5,2,3,4,5\n")
    with pytest.raises(InputError, match="row 2: expected no more values"):
        read_landmarks(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("x,y,class\n1,5,2,5,Tumor\n")
    with pytest.raises(InputError, match="line 2: expected 3 values"):
        read_cell_table(tmp_path / "c.csv", (0.5, 0.5), (0.0, 0.0))


def test_one_pair_of_slides_under_two_names_is_refused(tmp_path: Path) -> None:
    path = pairs_table(tmp_path, "pair,patient,marker,he,ihc\nx,p1,ki67,a.png,b.png\ny,p1,ki67,./a.png,b.png\n")
    for read in (read_pairs, read_slide_pairs):
        with pytest.raises(PairError, match="line 3: the same two slides stand in line 2"):
            read(path)


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        (["00123", "123"], [2]),
        (["123", "123.0"], [2]),
        (["123", "123,00", "0123"], [2, 3]),
        (["1.23457E+11"], [1]),
        (["2-Jan", "Jan-24", "02. Mär", "3. Dez 24", "2024-01-02 00:00:00"], [1, 2, 3, 4, 5]),
        (["1/2/2023", "01.02.2023", "2023-01-02", "1.2.3456"], [1, 2, 3]),
        (["0123", "'0123", '="123"', "1,234", "1234"], [2, 3, 5]),
        (["#N/A", "#NAME?", "###", "#12"], [1, 2, 3]),
        (["123456789012345000", "1234567890123456", "100000000000000"], [1]),
        (["12:30", "12:30:00", "1:2"], [1, 2]),
        (["Janssen", "Maier-2", "2-A", "12-Mara-1", "24-01", "Juni"], []),
        (["123", "123", " 123 "], []),
        (["123", "1230", "a123", "12.5", "12"], []),
    ],
)
def test_patients_that_a_spreadsheet_can_have_changed_are_told(names: list[str], lines: list[int]) -> None:
    problems = damaged_by_spreadsheet((name, i) for i, name in enumerate(names, 1))
    assert [int(p.split(":")[0].split()[1]) for p in problems] == lines
    assert not any(name.strip() in p for p in problems for name in names if len(name) > 3)


def test_a_patient_with_and_without_zeros_is_refused_before_the_folds(tmp_path: Path) -> None:
    path = pairs_table(tmp_path, "pair,patient,marker,he,ihc\nx,0123,ki67,a.png,b.png\ny,123,ki67,c.png,d.png\n")
    with pytest.raises(PairError, match="line 3: patient: the same number as in line 2"):
        read_pairs(path)


def test_names_in_both_unicode_forms_find_their_file(tmp_path: Path) -> None:
    composed, parts = (unicodedata.normalize(form, "Jürgen/Müller.tif") for form in ("NFC", "NFD"))
    (tmp_path / parts).parent.mkdir()
    (tmp_path / parts).write_bytes(b"x")
    assert find_file(tmp_path, composed).read_bytes() == b"x"
    assert find_file(Path("/"), str(tmp_path / composed)).read_bytes() == b"x"
    assert find_file(tmp_path, "none.tif") == tmp_path / "none.tif"
    (tmp_path / "slides.csv").write_text(f"slide\n{composed}\n", encoding="utf-8")
    (ref,) = read_slide_table(tmp_path / "slides.csv")
    assert ref.path.is_file()


def test_folders_behind_links_are_searched_and_a_loop_ends(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "nas").mkdir()
    (tmp_path / "in" / "a.tiff").touch()
    (tmp_path / "nas" / "b.tiff").touch()
    (tmp_path / "in" / "batch2").symlink_to("../nas")
    (tmp_path / "nas" / "loop").symlink_to("..")
    assert [p.name for p in expand(tmp_path / "in")] == ["a.tiff", "b.tiff"]


@pytest.mark.parametrize("text", ["=1+2", "@SUM(A1)", "+a", "-a", "\t=1", "'=1", "plain", "Prüfung", "'s"])
def test_formulas_are_quoted_and_read_back(text: str) -> None:
    assert unquoted(quote_formula(text)) == text
    assert not quote_formula(text).startswith(("=", "+", "-", "@", "\t"))


def test_verdicts_come_in_every_form_of_table(tmp_path: Path) -> None:
    rows = [["Pair", "COL", "Row", "label_id", "verdict", "reviewer", "reason"],
            ["p", "1", "2", "0" * 32, "accept", "ä", "'=1"]]  # fmt: skip
    text = "sep=;\r\n" + "".join(";".join(row) + "\r\n" for row in rows) + ";;;;;;\r\n"
    (verdict,) = parse_verdicts(text, "v.csv")
    assert (verdict.place.pair, verdict.reviewer, verdict.reason) == ("p", "ä", "=1")
    (tmp_path / "v.csv").write_bytes(text.encode("utf-16"))
    assert read_verdicts(tmp_path / "v.csv")[0].reviewer == "ä"


def test_coordinates_with_decimal_commas_are_refused_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("he_x;he_y;ihc_x;ihc_y\n1,5;2;3;4\n")
    with pytest.raises(InputError, match="row 2") as caught:
        read_landmarks(path)
    assert "decimal commas" in str(caught.value.hint)
    path.write_text("x;y\n1,5;2\n")
    with pytest.raises(InputError, match="row 2") as caught:
        warp_csv(path, lambda points: points)
    assert "decimal commas" in str(caught.value.hint)


def test_a_value_of_two_lines_keeps_the_numbers_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b\n"1\n1",2\n3,4\n')
    assert [line for line, _ in read_table(path).rows] == [2, 4]


def test_text_that_is_neither_utf_8_nor_utf_16_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("slide\nMüller.svs\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.csv: expected UTF-8") as caught:
        read_slide_table(tmp_path / "a.csv")
    assert "CSV UTF-8" in str(caught.value.hint)


@pytest.mark.parametrize("verb", ["count", "register", "score", "evaluate", "review"])
def test_every_command_that_writes_names_into_a_table_has_a_switch_for_spreadsheets(verb: str) -> None:
    command = import_module(f"virtual_stain.cli.{verb}").command
    assert "--excel" in {name for p in command.params if isinstance(p, click.Option) for name in p.opts}


def test_a_slide_in_the_place_of_a_table_was_told_to_be_saved_as_utf_8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ihc.tiff").write_bytes(b"II*\0" + bytes(range(256)) * 40)
    assert _run(["build-records", str(tmp_path / "ihc.tiff"), "--out", str(tmp_path / "o")]) == 3
    error = capsys.readouterr().err
    assert "expected the table, a text file. Received: a binary file, as slides and pictures are." in error
    assert "CSV UTF-8" in error
