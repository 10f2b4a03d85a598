from __future__ import annotations

from pathlib import Path

import pytest

from virtual_stain.errors import PairError
from virtual_stain.markers import Marker
from virtual_stain.pairs import StainPair, assign_folds, fold_of, read_pairs, read_slide_pairs
from virtual_stain.patients import PatientKey

HEADER = "pair,patient,marker,he,ihc"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c", "d", "e", "f"):
        (tmp_path / f"{name}.svs").write_bytes(name.encode())
    return tmp_path


def _write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "pairs.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_table_is_read_with_paths_relative_to_it(folder: Path) -> None:
    (folder / "schnitte é 1").mkdir()
    (folder / "schnitte é 1" / "x y.svs").write_bytes(b"x")
    text = f'{HEADER},he_mpp,ihc_mpp,fold\ncase-1,P 1,KI67,schnitte é 1/x y.svs,b.svs,0.25,"0.25,0.26",3\n'
    (pair,) = read_pairs(_write(folder, text))
    assert (pair.pair, pair.patient, pair.marker, pair.fold, pair.line) == ("case-1", "P 1", Marker.KI67, 3, 2)
    assert pair.he.path == folder / "schnitte é 1" / "x y.svs"
    assert pair.he.mpp_override == (0.25, 0.25)
    assert pair.ihc.mpp_override == (0.25, 0.26)
    assert "P 1" not in repr(pair)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_oddities_of_spreadsheets(folder: Path, separator: str, encoding: str, newline: str) -> None:
    lines = [HEADER + ",note", "", "1,Müller,ki67,a.svs,b.svs,", ",,,,,", " 2 , Müller ,er, c.svs ,d.svs,x", ""]
    pairs = read_pairs(_write(folder, newline.join(lines).replace(",", separator), encoding))
    assert [(p.pair, p.patient, p.marker, p.line) for p in pairs] == [
        ("1", "Müller", Marker.KI67, 3),
        ("2", "Müller", Marker.ER, 5),
    ]


def test_all_bad_rows_are_reported_at_once_with_their_lines(folder: Path) -> None:
    rows = [
        HEADER + ",he_mpp,fold",
        "ok,p1,ki67,a.svs,b.svs,,",
        "../evil,p2,ki67,c.svs,missing.svs,,",
        "two,p2,her3,c.svs,d.svs,4.0,",
        "three,p3,her2,c.svs,d.svs,,nine",
        "four,,ki67,e.svs,e.svs,,",
        'five,p5,ki67,e.svs,f.svs,"0,25",',
        "six,p6,ki67,e.svs,f.svs,,7,8",
    ]
    with pytest.raises(PairError) as caught:
        read_pairs(_write(folder, "\n".join(rows)), n_folds=5)
    text = str(caught.value)
    for expected in (
        "line 3: pair: expected letters",
        "line 3: ihc: no such file",
        "line 4: Expected a marker, one of: ki67",
        "line 4: he_mpp: expected µm per px",
        "line 5: fold: expected a whole number from 0 to 4",
        "line 6: patient is empty",
        "line 6: he and ihc are the same file",
        "line 7: he_mpp: expected µm per px from 0.05 to 2.0, with a decimal point",
        "line 8: more values than columns",
        "line 8: fold",
    ):
        assert expected in text, expected
    assert "line 2" not in text


def test_contradictions_between_rows(folder: Path) -> None:
    (folder / "link.svs").symlink_to(folder / "a.svs")
    rows = [
        HEADER + ",fold",
        "one,Ann,ki67,a.svs,b.svs,1",
        "ONE,ann,er,a.svs,c.svs,2",
        "three,Bob,ki67,link.svs,d.svs,",
    ]
    with pytest.raises(PairError) as caught:
        read_pairs(_write(folder, "\n".join(rows)))
    text = str(caught.value)
    assert "line 3: pair 'ONE' is also in line 2" in text
    assert "line 3: a patient in two folds: fold 2 here, 1 in line 2" in text
    assert "line 4: he is the slide of another patient, in line 2" in text
    for name in ("Ann", "ann", "Bob"):
        assert name not in text


def test_the_two_directions_of_one_pair_are_allowed(folder: Path) -> None:
    rows = [HEADER, "one,Ann,ki67,a.svs,b.svs", "two,Ann,ki67,b.svs,a.svs"]
    assert len(read_pairs(_write(folder, "\n".join(rows)))) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        (HEADER + "\n", "at least one slide pair"),
        ("pair,patient,he,ihc\nx,y,a.svs,b.svs\n", "column 'marker' is missing"),
        (HEADER + ",he_mp\n", "did you mean 'he_mpp'"),
        (HEADER + ",fold,fold\n", "column 'fold' stands there twice"),
        (HEADER + '\n1,"p,ki67,a.svs,b.svs\n', "not valid CSV"),
    ],
)
def test_an_unusable_table_is_refused_in_words(folder: Path, text: str, expected: str) -> None:
    with pytest.raises(PairError, match=expected):
        read_pairs(_write(folder, text))


def test_another_encoding_and_a_missing_file_are_refused(folder: Path) -> None:
    with pytest.raises(PairError, match="CSV UTF-8"):
        read_pairs(_write(folder, HEADER + "\nä,p,ki67,a.svs,b.svs", "latin-1"))
    with pytest.raises(PairError, match="cannot be read"):
        read_pairs(folder / "nothing.csv")


@pytest.mark.parametrize("name", ["a/b", ".hidden", "-x", "a b", "a..b", "x" * 101, "a\x00b", "a.", "a:b"])
def test_names_that_are_no_file_names_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(PairError, match="pair: expected"):
        read_pairs(_write(folder, f"{HEADER}\n{name},p,ki67,a.svs,b.svs\n"))


def test_folds_come_from_the_hashed_patient_unless_given(folder: Path) -> None:
    rows = [HEADER + ",fold", "1,Ann,ki67,a.svs,b.svs,", "2,ann ,er,a.svs,c.svs,4", "3,Bob,ki67,d.svs,e.svs,"]
    pairs = read_pairs(_write(folder, "\n".join(rows)))
    key = PatientKey(b"k" * 32)
    folds = assign_folds(pairs, key, 5)
    bob = fold_of(key.patient_id("Bob"), 5)
    assert folds == {key.patient_id("Ann"): 4, key.patient_id("Bob"): 0 if bob == 4 else bob}


def _cohort(folder: Path, n_patients: int) -> tuple[StainPair, ...]:
    rows = [HEADER]
    for i in range(n_patients):
        for side in ("he", "ihc"):
            (folder / f"{i}-{side}.svs").write_bytes(f"{i} {side}".encode())
        rows.append(f"{i},Patient {i},ki67,{i}-he.svs,{i}-ihc.svs")
    return read_pairs(_write(folder, "\n".join(rows)))


@pytest.mark.parametrize("n_patients", [5, 7, 10, 15, 31])
def test_the_hash_alone_left_folds_of_small_cohorts_empty(folder: Path, n_patients: int) -> None:
    """Of 10 to 15 patients in five folds, one fold was empty in 17 to 47 % of cohorts."""
    pairs = _cohort(folder, n_patients)
    for seed in range(20):
        key = PatientKey(bytes([seed]) * 32)
        folds = list(assign_folds(pairs, key, 5).values())
        sizes = [folds.count(k) for k in range(5)]
        assert max(sizes) - min(sizes) <= 1
        assert assign_folds(pairs[::-1], key, 5) == assign_folds(pairs, key, 5)


def test_a_patient_keeps_the_fold_of_earlier_records(folder: Path) -> None:
    pairs = _cohort(folder, 12)
    key = PatientKey(b"k" * 32)
    before = assign_folds(pairs[:7], key, 5)
    after = assign_folds(pairs, key, 5, before)
    assert before.items() <= after.items()
    assert {list(after.values()).count(k) for k in range(5)} == {2, 3}


def test_hashed_folds_are_about_even() -> None:
    key = PatientKey(b"k" * 32)
    folds = [fold_of(key.patient_id(f"patient {i}"), 5) for i in range(1000)]
    assert all(150 < folds.count(k) < 250 for k in range(5))


def test_registration_was_refused_what_training_cannot_use(folder: Path) -> None:
    """No patient, no marker, one that nothing reads, a pixel size of an overview: two slides can be registered so."""
    text = "pair,he,ihc,marker,he_mpp\none,a.svs,b.svs,p53,3.5\ntwo,a.svs,c.svs,,\n"
    pairs = read_slide_pairs(_write(folder, text))
    assert [(p.pair, p.he.path.name, p.ihc.path.name, p.he.mpp_override) for p in pairs] == [
        ("one", "a.svs", "b.svs", (3.5, 3.5)),
        ("two", "a.svs", "c.svs", None),
    ]
    with pytest.raises(PairError, match="column 'patient' is missing"):
        read_pairs(_write(folder, text))


def test_a_bad_table_for_registration_is_refused_as_a_whole(folder: Path) -> None:
    with pytest.raises(PairError, match="did you mean 'ihc_mpp'"):
        read_slide_pairs(_write(folder, "pair,he,ihc,ihc_mp\na,a.svs,b.svs,\n"))
    rows = ["a,a.svs,b.svs,300", "b,c.svs,c.svs,", "c,no.svs,d.svs,", "d,a.svs,b.svs,", "D,e.svs,f.svs,"]
    with pytest.raises(PairError) as caught:
        read_slide_pairs(_write(folder, "\n".join(["pair,he,ihc,ihc_mpp", *rows])))
    for told in (
        "line 2: ihc_mpp: expected µm per px from 0.05 to 100",
        "line 3: he and ihc",
        "line 4: he: no such",
        "line 6: pair 'D'",
    ):
        assert told in str(caught.value)
