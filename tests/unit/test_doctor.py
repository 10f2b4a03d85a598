"""`vstain doctor`: what is broken is named with the command that mends it."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path

import pytest

from virtual_stain.cli.main import _run
from virtual_stain.errors import ConfigError
from virtual_stain.workflows import doctor
from virtual_stain.workflows.doctor import (
    PROBES,
    Check,
    Probe,
    debian_package,
    examine,
    load_check,
    missing_library,
    raise_on_missing,
)


def _probe(code, *, needed=True, name="cv2", distribution="opencv-python"):
    return Probe(name, distribution, code, "every picture", needed)


def test_a_library_that_loads_shows_its_version_and_time():
    check = load_check(_probe("print('noise'); print('4.11')"), os.environ)
    assert check.ok
    assert check.detail.startswith("4.11 (")
    assert "ok" in check.text()


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libGL.so.1", "libgl1"),
        ("libgthread-2.0.so.0", "libglib2.0-0"),
        ("libSM.so.6", "libsm6"),
        ("libXext.so.6", "libxext6"),
        ("libopenslide.so.1", "libopenslide0"),
    ],
)
def test_a_missing_system_library_names_its_debian_package(library, package):
    text = f"ImportError: {library}: cannot open shared object file: No such file or directory"
    assert missing_library(text) == library
    assert debian_package(library) == package
    check = load_check(_probe(f"raise ImportError({text.removeprefix('ImportError: ')!r})"), os.environ)
    assert not check.ok
    assert check.mend == f"sudo apt-get install {package}"
    assert "MISSING" in check.text()
    assert package in check.text()


def test_an_unknown_system_library_is_still_named():
    assert debian_package("libfoo.so.3") is None
    check = load_check(_probe("raise OSError('libfoo.so.3: cannot open shared object file: gone')"), os.environ)
    assert "libfoo.so.3" in check.mend


def test_a_missing_package_is_installed_in_the_range_we_declare():
    check = load_check(_probe("import there_is_no_such_module"), os.environ)
    assert "ModuleNotFoundError" in check.detail
    assert "pip install" in check.mend
    assert "opencv-python<4.12" in check.mend


def test_a_library_that_aborts_or_hangs_does_not_take_the_doctor_along(monkeypatch):
    check = load_check(_probe("import os; os.abort()"), os.environ)
    assert "signal 6" in check.detail
    monkeypatch.setattr(doctor, "_TIMEOUT_S", 0.3)
    check = load_check(_probe("import time; time.sleep(30)"), os.environ)
    assert "did not load" in check.detail


def test_silence_is_not_taken_for_success():
    assert not load_check(_probe("pass"), os.environ).ok


def test_only_what_is_needed_makes_it_fail():
    raise_on_missing([Check("a", True, ""), Check("tensorflow_io", False, "", None, needed=False)])
    with pytest.raises(ConfigError, match="cv2") as caught:
        raise_on_missing([Check("cv2", False, ""), Check("b", True, "")])
    assert caught.value.exit_code == 2


def test_the_whole_report(monkeypatch, tmp_path, capsys):
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    environment.pop("VSTAIN_PATIENT_KEY", None)
    environment.pop("KERAS_HOME", None)
    light = tuple(p for p in PROBES if p.name in ("numpy", "openslide", "h5py"))
    checks = {check.name: check for check in examine(environment, light)}
    assert checks["openslide"].ok
    assert "library 4" in checks["openslide"].detail
    assert checks["python"].ok
    assert "processor" in checks["machine"].detail
    assert "GB" in checks["memory"].detail
    key = checks["patient key"]
    assert not key.ok
    assert not key.needed
    assert str(tmp_path / "data") in key.detail
    assert not (tmp_path / "data").exists(), "looking must not create the key"
    assert "model.weights" in checks["ImageNet"].mend

    monkeypatch.setattr(doctor, "PROBES", light)
    monkeypatch.setattr(doctor.examine, "__defaults__", (None, light, doctor.sys.executable))
    assert _run(["doctor"]) == 0
    assert "Everything that is needed is there" in capsys.readouterr().out
    broken = (*light, _probe("import there_is_no_such_module"))
    monkeypatch.setattr(doctor.examine, "__defaults__", (None, broken, doctor.sys.executable))
    assert _run(["doctor"]) == 2
    captured = capsys.readouterr()
    assert "MISSING" in captured.out
    assert "cv2" in captured.err


def test_a_named_key_that_is_gone_is_needed(tmp_path):
    environment = {**os.environ, "VSTAIN_PATIENT_KEY": str(tmp_path / "gone.key")}
    key = next(c for c in examine(environment, ()) if c.name == "patient key")
    assert key.needed
    assert not key.ok
    (tmp_path / "gone.key").write_text("0" * 64)
    key = next(c for c in examine(environment, ()) if c.name == "patient key")
    assert key.ok


def test_every_library_of_setup_cfg_has_a_probe():
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    declared = {
        re.split(r"[^\w-]", line)[0] for line in config["options"]["install_requires"].split("\n") if line.strip()
    }
    declared -= {"#"}
    without = {"keras", "click", "tqdm", "openslide-bin"}  # inside tensorflow's and openslide's probes, or running now
    assert declared - without <= {p.distribution for p in PROBES}
