"""`vstain score` and `vstain export` as a user types them: files, sentences, exit codes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.fixtures.models import block_image, purple, tiny_card, tissue_slide, write_tiny_bundle
from tests.fixtures.slides import write_tiled_tiff
from virtual_stain.cli.main import _run

KINDS = ("report.json", "tiles.csv", "heatmap.png", "geojson", "report.html")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_bundle(out, tiny_card(min_tissue_fraction=0.3))
    return out


@pytest.fixture(autouse=True)
def _no_key(monkeypatch, tmp_path):
    monkeypatch.delenv("VSTAIN_PATIENT_KEY", raising=False)
    monkeypatch.delenv("VSTAIN_MODEL", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "no-data"))
    monkeypatch.chdir(tmp_path)


def test_one_slide_with_every_default(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VSTAIN_MODEL", str(model))
    tissue_slide(tmp_path / "Präparat 1.tiff")
    assert _run(["score", "Präparat 1.tiff", "-q", "--set", "tissue.overview_mpp=2"]) == 0
    out = tmp_path / "Präparat 1-vstain"
    assert {p.name for p in out.iterdir() if p.name[0] != "."} == {f"Präparat 1.{k}" for k in KINDS} | {"run.json"}
    printed = capsys.readouterr().out
    assert printed.startswith("Präparat 1: Ki67 global ratio 5")
    assert "Präparat 1.report.html" in printed
    reading = json.loads((out / "Präparat 1.report.json").read_text())["readings"]["ki67"]
    assert reading["n_tiles"] >= 16
    assert reading["quantiles"]["p50"] == pytest.approx(150 / 255, abs=0.02)


def test_a_batch_with_a_bad_slide_ends_with_6_and_scores_the_rest(model, tmp_path, capsys):
    tissue_slide(tmp_path / "a.tiff")
    (tmp_path / "torn.svs").write_bytes(b"II*\0torn")
    (tmp_path / "list.csv").write_text("slide,mpp,name\ntorn.svs,,\na.tiff,0.25,again\n")
    code = _run(["score", "a.tiff", "--slides", "list.csv", "--model", str(model), "--out", "o", "-q"])
    assert code == 6
    shown = capsys.readouterr()
    assert "1 of 3 slides could not be scored" in shown.err
    assert "torn" in shown.err
    assert (tmp_path / "o" / "again.report.json").is_file()
    assert json.loads((tmp_path / "o" / "again.report.json").read_text())["slide"]["mpp_x"] == 0.25


def test_exit_codes_and_sentences(model, tmp_path, capsys):
    tissue_slide(tmp_path / "a.tiff")
    (tmp_path / "x").mkdir()
    tissue_slide(tmp_path / "x" / "a.tiff")
    write_tiled_tiff(tmp_path / "no-mpp.tiff", block_image([[purple(150)] * 3] * 3), None)
    broken = shutil.copytree(model, tmp_path / "broken")
    (broken / "1" / "variables" / "variables.index").write_bytes(b"x")
    cases = [
        (["a.tiff"], 2, "VSTAIN_MODEL"),
        (["--model", str(model)], 2, "at least one slide"),
        (["a.tiff", "x/a.tiff", "--model", str(model)], 2, "different names"),
        (["a.tiff", "--model", "grpc://h/a/b"], 2, "expected the address"),
        (["a.tiff", "--mpp", "big", "--model", str(model)], 2, "µm/px"),
        (["none.svs", "--model", str(model)], 3, "no such file"),
        (["no-mpp.tiff", "--model", str(model)], 3, "--mpp"),
        (["a.tiff", "--model", str(broken)], 3, "variables/variables.index: changed"),
        (["a.tiff", "--model", "nowhere"], 5, "vstain export"),
        (["a.tiff", "--model", str(model), "--out", "a.tiff"], 3, "in the way"),
    ]
    for arguments, code, sentence in cases:
        assert _run(["score", "-q", *arguments]) == code, arguments
        assert sentence in capsys.readouterr().err, arguments


def test_export_refuses_what_is_no_run(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert _run(["export", "run", "--out", "m"]) == 3
    assert "run" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_kill_leaves_nothing_that_counts_as_done_and_the_same_command_goes_on(model, tmp_path):
    """kill -9 in the middle of a batch: finished slides are kept, the rest is scored by the second run."""
    names = [f"s{i}" for i in range(3)]
    for i, name in enumerate(names):
        tissue_slide(tmp_path / f"{name}.tiff", red=130 + 10 * i)
    code = "from virtual_stain.cli.main import run; run()"
    command = [sys.executable, "-c", code, "score", "-q", "--model", str(model), "--out", "o"]
    command += [f"{n}.tiff" for n in names]
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240  # a busy machine takes long to load the model
    while not (tmp_path / "o" / "s0.report.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    done = {p.name for p in (tmp_path / "o").glob("*.report.json")}
    assert "s0.report.json" in done
    before = (tmp_path / "o" / "s0.report.json").stat().st_mtime_ns
    assert _run(["score", "-q", "--model", str(model), "--out", "o", *(f"{n}.tiff" for n in names)]) == 0
    assert (tmp_path / "o" / "s0.report.json").stat().st_mtime_ns == before
    for name in names:
        report = json.loads((tmp_path / "o" / f"{name}.report.json").read_text())
        assert report["readings"]["ki67"]["n_tiles"] >= 16
    assert not list((tmp_path / "o").glob("*.tmp"))
