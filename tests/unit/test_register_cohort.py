"""`vstain register` over a table or a folder: all pairs, worst first, none lost."""

from __future__ import annotations

import csv
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fixtures.registration import toy_pair, toy_transform
from virtual_stain.cli.main import _run
from virtual_stain.config import Config
from virtual_stain.errors import PairError, SlideError
from virtual_stain.files import folder_lock
from virtual_stain.workflows.pair_folder import cohort_pairs
from virtual_stain.workflows.register_cohort import register_cohort
from virtual_stain.workflows.register_command import RegisterOptions, run_cohort


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs: a good one, one of two blocks, one whose IHC slide is damaged."""
    folder = tmp_path_factory.mktemp("Kohorte")
    for name, seed in (("a", 1), ("b", 40)):
        (folder / name).mkdir()
        toy_pair(folder / name, toy_transform(25, elastic_px=2.0), seed=seed)
    shutil.copy(folder / "b" / "ihc.png", folder / "b" / "other.png")
    (folder / "cut.png").write_bytes((folder / "b" / "ihc.png").read_bytes()[:9000])
    rows = ["bad,P2,ki67,b/he.png,cut.png,2,2", "good,P1,ki67,a/he.png,a/ihc.png,2,2"]
    rows.append("mixed,P2,ki67,b/he.png,c.png,2,2")
    (folder / "c").mkdir()
    toy_pair(folder / "c", toy_transform(25), seed=77)
    shutil.move(folder / "c" / "ihc.png", folder / "c.png")
    path = folder / "PAIRS.csv"
    path.write_text("pair,patient,marker,he,ihc,he_mpp,ihc_mpp\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_cohort_is_listed_worst_first_and_taken_up(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["register", str(table), "--out", str(out), "--jobs", "1", "-q"]
    assert _run(command) == 6
    told = capsys.readouterr()
    assert "2 of 3 pairs cannot be used" in told.err
    with (out / "summary.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["pair"], r["verdict"]) for r in rows] == [("bad", "failed"), ("mixed", "reject"), ("good", "accept")]
    assert "cut.png" in rows[0]["reason"]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.index("mixed") < page.index("good/registration.html")
    assert "bad/registration.html" not in page
    assert (out / "good" / "registration.html").exists()
    before = (out / "good" / "registration.json").stat().st_mtime_ns
    assert _run(command) == 6
    assert (out / "good" / "registration.json").stat().st_mtime_ns == before


def test_shares_of_a_cluster_array_run_beside_each_other(table: Path, tmp_path: Path) -> None:
    """Another share holds nothing that this one needs: only the folders of the pairs are locked."""
    options = RegisterOptions(out=tmp_path / "out", config=Config(), jobs=1)
    with folder_lock(tmp_path / "out"), pytest.raises(SlideError, match="cut"):
        run_cohort(table, options, say=lambda _: None, share=0, shares=3)
    assert (tmp_path / "out" / "summary-0-of-3.csv").read_text(encoding="utf-8").count("\n") == 2
    assert not (tmp_path / "out" / "index.html").exists()


def test_landmarks_name_pairs_of_the_table(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marks = tmp_path / "marks.csv"
    marks.write_text("pair,he_x,he_y,ihc_x,ihc_y\nx,0,0,0,0\nx,9,0,9,0\nx,0,9,0,9\n", encoding="utf-8")
    assert _run(["register", str(table), "--out", str(tmp_path / "o"), "--landmarks", str(marks), "-q"]) == 3
    assert "'x'" in capsys.readouterr().err


def test_folder_of_slides_is_paired_by_name(tmp_path: Path) -> None:
    for name in ("block 7_HE.svs", "block 7_Ki67.svs", "b8-he.ndpi", "b8-ihc.ndpi", "notes.txt", "label.png"):
        (tmp_path / name).write_bytes(b"x")
    pairs = cohort_pairs(tmp_path)
    assert [(p.pair, p.he.path.name, p.ihc.path.name) for p in pairs] == [
        ("b8", "b8-he.ndpi", "b8-ihc.ndpi"),
        ("block 7", "block 7_HE.svs", "block 7_Ki67.svs"),
    ]
    (tmp_path / "b9_he.svs").write_bytes(b"x")
    (tmp_path / "b8_he.ndpi").write_bytes(b"x")
    with pytest.raises(PairError, match=r"b8: 2 H&E and 1 IHC(.|\n)*b9: 1 H&E and 0 IHC"):
        cohort_pairs(tmp_path)


def _folder(tmp_path: Path, *names: str) -> list[str]:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    return [f"{p.pair}: {p.he.path.name} {p.ihc.path.name}" for p in cohort_pairs(tmp_path)]


def test_several_ihc_slides_of_one_he_refused_the_whole_folder(tmp_path: Path) -> None:
    assert _folder(tmp_path, "b7_he.tiff", "b7_er.tiff", "b7_Ki67.tiff", "b8_he.tiff", "b8_ki67.tiff") == [
        "b7-ki67: b7_he.tiff b7_Ki67.tiff",
        "b7-er: b7_he.tiff b7_er.tiff",
        "b8: b8_he.tiff b8_ki67.tiff",
    ]
    (tmp_path / "b7-er_he.tiff").write_bytes(b"x")
    (tmp_path / "b7-er_pr.tiff").write_bytes(b"x")
    with pytest.raises(PairError, match="b7-er: 2 pairs of this name"):
        cohort_pairs(tmp_path)


def test_names_that_a_person_reads_as_equal_did_not_pair(tmp_path: Path) -> None:
    """Capitals, and é in one character or two."""
    found = _folder(tmp_path, "Block7_he.svs", "block7_ki67.svs", "caf\u00e9_HES.svs", "cafe\u0301_p53.svs")
    assert [line.split(":")[0] for line in found] == ["Block7", "caf\u00e9"]


def test_slides_that_are_in_no_pair_vanished_without_a_word(tmp_path: Path) -> None:
    for name in ("a_he.svs", "a_er.svs", "a_PAS.svs", "label.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    said: list[str] = []
    assert len(cohort_pairs(tmp_path, said.append)) == 1
    assert "a_PAS.svs, label.png" in said[0]
    assert "notes" not in said[0]


def test_pairs_without_pixel_sizes_had_no_error_in_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = toy_pair(tmp_path, toy_transform(25))
    (tmp_path / "PAIRS.csv").write_text(f"pair,he,ihc\na,{pair.he.name},{pair.ihc.name}\n", encoding="utf-8")
    assert _run(["register", str(tmp_path), "--out", str(tmp_path / "out"), "--jobs", "1", "-q"]) == 0
    assert "px of the H&E" in capsys.readouterr().out
    with (tmp_path / "out" / "summary.csv").open(encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["verdict"], row["error_median_um"]) == ("none", "")
    assert 0 < float(row["error_median_he_px0"]) < float(row["error_p95_he_px0"]) < 20
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert f"{float(row['error_median_he_px0']):.2f} px" in page


def test_the_table_of_a_cohort_opens_in_a_spreadsheet_where_asked(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        for name, excel in (("a", False), ("b", True)):
            register_cohort([], tmp_path / name, executor, excel=excel)
            data = (tmp_path / name / "summary.csv").read_bytes()
            assert data.startswith(b"\xef\xbb\xbf") == excel
