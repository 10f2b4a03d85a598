"""What the commands end with when nothing has to be built: exit codes and sentences."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fixtures.records import tiny_records
from virtual_stain.cli.main import run

HEADER = "pair,patient,marker,he,ihc"


def _vstain(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    code = caught.value.code
    assert isinstance(code, int)
    return code, out, err


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name in "ab":
        (tmp_path / f"{name}.svs").write_bytes(name.encode())
    path = tmp_path / "pairs.csv"
    path.write_text(f"{HEADER}\none,Ann,ki67,a.svs,b.svs\n")
    return path


@pytest.fixture
def records(tmp_path: Path) -> Path:
    tiny_records(tmp_path / "records", patients=2, tiles_per_pair=3, tile_px=48, n_folds=2)
    return tmp_path / "records"


def test_a_bad_table_ends_with_3_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "pairs.csv"
    bad.write_text(f"{HEADER}\none,Ann,ki67,a.svs,b.svs\ntwo,Bob,ki68,a.svs,b.svs\n")
    code, _, err = _vstain(capsys, "build-records", bad, "--out", tmp_path / "out", "-q")
    assert code == 3
    for line in ("line 2: he: no such file", "line 3: Expected a marker", "line 3: ihc: no such file"):
        assert line in err
    assert "Ann" not in err
    assert not (tmp_path / "out").exists()


def test_slides_that_are_none_end_with_3(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("VSTAIN_PATIENT_KEY", raising=False)
    code, _, err = _vstain(capsys, "build-records", table, "--out", tmp_path / "out", "--jobs", "1")
    assert code == 3
    assert "a.svs" in err
    assert (tmp_path / "out" / "run.json").exists()


def test_a_wrong_option_and_a_missing_key_file(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert _vstain(capsys, "build-records", table, "--out", out, "--set", "labels.min_tumor_cells=3")[0] == 2
    code, _, err = _vstain(capsys, "build-records", table, "--out", out, "--set", "counting.value_definition=h_score")
    assert (code, "negative_count" in err) == (2, True)
    monkeypatch.setenv("VSTAIN_PATIENT_KEY", str(tmp_path / "none.key"))
    code, _, err = _vstain(capsys, "build-records", table, "--out", out)
    assert (code, "openssl rand" in err) == (3, True)
    code, _, err = _vstain(capsys, "build-records", table, "--out", out, "--verdicts", tmp_path / "none.csv")
    assert (code, "the verdicts cannot be read" in err) == (3, True)
    assert not out.exists()


def test_an_output_below_a_file_is_refused(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("VSTAIN_PATIENT_KEY", raising=False)
    code, _, err = _vstain(capsys, "build-records", table, "--out", table / "out", "--jobs", "1")
    assert code == 3
    assert "cannot be written" in err


def test_verify_says_that_everything_fits(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _vstain(capsys, "records", "verify", records, "-q")
    assert code == 0
    assert "6 records in 2 shards, 2 patients: everything fits" in out


def test_a_corrupt_shard_ends_with_3_and_names_file_and_record(
    records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = records / "case01-0-00000-of-00001.tfrecord"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    code, _, err = _vstain(capsys, "records", "verify", records, "-q")
    assert code == 3
    assert f"{path}: changed after the manifest was written" in err
    assert f"{path}: record 1 is corrupt" in err
    assert "build-records" in err


def test_a_shard_edited_with_valid_crcs_is_noticed(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = sorted(records.glob("*.tfrecord"))
    shutil.copy(first, second)
    code, _, err = _vstain(capsys, "records", "verify", records, "-q")
    assert code == 3
    assert "changed after the manifest was written" in err
    assert "record 0: tile/pair: expected 'case01-0'. Received: 'case00-0'" in err


def test_a_missing_and_an_unlisted_shard_are_noticed(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = min(records.glob("*.tfrecord"))
    first.rename(records / "other-00000-of-00001.tfrecord")
    code, _, err = _vstain(capsys, "records", "verify", records, "-q")
    assert code == 3
    assert f"{first}: the file is missing" in err
    assert "other-00000-of-00001.tfrecord: not in the manifest" in err


def test_show_by_index_and_by_place(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _vstain(capsys, "records", "show", records, "4")
    assert code == 0
    assert "image/filename                   case01-0/1_0" in out
    assert (records / "shown" / "case01-0_1_0.png").stat().st_size > 500
    assert _vstain(capsys, "records", "show", records, "6")[0] == 3
    assert _vstain(capsys, "records", "show", records, "case01-0", "x", "0")[0] == 2
    assert _vstain(capsys, "records", "show", records / "nothing")[0] == 3
