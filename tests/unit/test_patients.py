from __future__ import annotations

import concurrent.futures
import logging
import stat
from pathlib import Path

import pytest

from virtual_stain.errors import ConfigError, InputError, OutputError
from virtual_stain.patients import PatientKey, default_key_path, load_patient_key


def test_ids_depend_on_key_and_patient_only() -> None:
    one, two = PatientKey(b"1" * 32), PatientKey(b"2" * 32)
    assert len(one.patient_id("Ann")) == 64
    assert one.patient_id("Ann") == PatientKey(b"1" * 32).patient_id("Ann")
    assert one.patient_id("Ann") != two.patient_id("Ann")
    assert one.patient_id("Ann") != one.patient_id("Anne")
    assert one.fingerprint != two.fingerprint
    assert len(one.fingerprint) == 16


def test_spellings_of_one_name_are_one_patient() -> None:
    key = PatientKey(b"1" * 32)
    assert len({key.patient_id(n) for n in ("Müller  A", "mu\u0308ller a", " MÜLLER A ")}) == 1


def test_the_secret_is_never_printed() -> None:
    assert "1111" not in repr(PatientKey(b"1" * 32))


def test_the_users_key_is_created_once_and_private(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    key = load_patient_key(env)
    path = default_key_path(env)
    assert path == tmp_path / ".local/share/virtual_stain/patient.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_patient_key(env) == key
    assert [p.name for p in path.parent.iterdir()] == ["patient.key"]


def test_many_processes_at_once_get_the_same_key(tmp_path: Path) -> None:
    env = {"XDG_DATA_HOME": str(tmp_path / "data")}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: load_patient_key(env).secret, range(64)))
    assert len(keys) == 1


def test_a_named_key_file_is_used_and_never_created(tmp_path: Path) -> None:
    env = {"VSTAIN_PATIENT_KEY": str(tmp_path / "lab.key"), "HOME": str(tmp_path)}
    with pytest.raises(InputError, match="openssl rand"):
        load_patient_key(env)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "lab.key").write_bytes(b"x" * 32 + b"\n")
    (tmp_path / "lab.key").chmod(0o600)
    assert load_patient_key(env) == PatientKey(b"x" * 32)


def test_a_short_key_and_an_empty_variable_are_refused(tmp_path: Path) -> None:
    (tmp_path / "short.key").write_bytes(b"abc\n")
    with pytest.raises(InputError, match="at least 16 bytes"):
        load_patient_key({"VSTAIN_PATIENT_KEY": str(tmp_path / "short.key")})
    with pytest.raises(ConfigError, match="empty value"):
        load_patient_key({"VSTAIN_PATIENT_KEY": ""})


def test_a_key_that_others_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "open.key"
    path.write_bytes(b"x" * 32)
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        load_patient_key({"VSTAIN_PATIENT_KEY": str(path)})
    assert "chmod 600" in caplog.text


def test_a_data_folder_that_is_a_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    with pytest.raises((OutputError, InputError), match="data"):
        load_patient_key({"XDG_DATA_HOME": str(tmp_path / "data")})
