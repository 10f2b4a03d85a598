"""Faults of scoring that were found by reading it: each stays mended."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.fixtures.models import tissue_slide, write_tiny_bundle
from tests.fixtures.reports import scored
from virtual_stain.cli.main import _run
from virtual_stain.config import ScoringSettings
from virtual_stain.markers import Marker
from virtual_stain.report.geojson import tiles_geojson
from virtual_stain.report.notes import engine_notes
from virtual_stain.report.report import tiles_csv
from virtual_stain.scoring import remote
from virtual_stain.scoring.answer_log import AnswerLog
from virtual_stain.scoring.staging import remove_left_behind
from virtual_stain.scoring.transport import ServerBusyError


def test_an_accepted_engine_was_said_to_have_been_refused():
    facts = {"checked_tiles": 4, "largest_difference": 0.0001}
    settings = ScoringSettings()
    assert engine_notes(facts | {"name": "openvino", "precision": "float32"}, settings) == ()
    assert engine_notes(facts | {"name": "tensorflow", "precision": "bfloat16"}, settings) == ()
    (note,) = engine_notes(facts | {"name": "tensorflow", "precision": "float32"}, settings)
    assert note.code == "bfloat16_not_used"


def test_one_cancelled_slide_poisoned_every_later_request(monkeypatch):
    """After a cancel a server that is busy for a moment was given up at once."""
    predictor = object.__new__(remote.RemotePredictor)
    predictor._settings = ScoringSettings(server_patience_s=5.0)
    predictor._stop, predictor._lock, predictor._unsure = threading.Event(), threading.Lock(), False
    predictor._address = "grpc://host:8500/ki67"
    predictor.cancel()
    answers = iter([ServerBusyError("busy"), "answer"])

    def ask():
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    assert predictor._patiently(ask) == "answer"


def test_a_cancel_ends_the_calls_that_wait(monkeypatch):
    predictor = object.__new__(remote.RemotePredictor)
    predictor._settings = ScoringSettings(server_patience_s=600.0)
    predictor._stop, predictor._unsure, predictor._address = threading.Event(), False, "grpc://host:8500/ki67"

    def busy():
        raise ServerBusyError("busy")

    ended = []

    def wait():
        with pytest.raises(Exception, match="does not answer any more"):
            predictor._patiently(busy)
        ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    predictor.cancel()
    predictor.cancel()  # whichever of the two the thread waits for
    thread.join(20)
    assert ended or not thread.is_alive()


def test_an_interrupted_slide_mixed_answers_of_two_precisions(tmp_path):
    path, looks = tmp_path / "a.partial.npz", {}
    first = AnswerLog(path, "slide and settings")
    first.bind({"name": "tensorflow", "precision": "bfloat16", "device": "CPU"})
    answers, _ = first.start(["ki67"], 3)
    answers["ki67"][:] = [0.1, 0.2, np.nan]
    first.known = {0, 1}
    first.write(answers, looks)
    other = AnswerLog(path, "slide and settings")
    other.bind({"name": "tensorflow", "precision": "float32", "device": "CPU"})
    assert np.isnan(other.start(["ki67"], 3)[0]["ki67"]).all()
    same = AnswerLog(path, "slide and settings")
    same.bind({"name": "tensorflow", "precision": "bfloat16", "device": "CPU"})
    assert same.start(["ki67"], 3)[0]["ki67"].tolist()[:2] == [0.1, 0.2]


def test_the_table_over_all_slides_went_stale(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "no-data"))
    monkeypatch.delenv("VSTAIN_PATIENT_KEY", raising=False)
    write_tiny_bundle(tmp_path / "model")
    for name, red in (("a", 150), ("b", 130), ("c", 170)):
        tissue_slide(tmp_path / f"{name}.tiff", red=red)
    common = [
        "--model",
        str(tmp_path / "model"),
        "--out",
        str(tmp_path / "out"),
        "-q",
        "--set",
        "tissue.overview_mpp=2",
    ]

    def score(*names):
        assert _run(["score", *(str(tmp_path / f"{n}.tiff") for n in names), *common]) == 0

    def table():
        with (tmp_path / "out" / "scores.csv").open() as stream:
            return {row["slide"]: (row["status"], row["ki67_global_ratio"]) for row in csv.DictReader(stream)}

    score("a", "b")
    before = table()
    tissue_slide(tmp_path / "a.tiff", red=180)
    score("a")
    after = table()
    assert after["a"][1] != before["a"][1]
    assert after["b"] == ("earlier", before["b"][1])
    score("b", "c")
    assert set(table()) == {"a", "b", "c"}


def test_a_tile_of_one_marker_counted_for_the_other():
    markers = {Marker.KI67: [0.5] * 12, Marker.ER: [0.5] * 12}
    report = scored(markers)
    report.score.markers[Marker.ER].used[:6] = False
    rows = list(csv.DictReader(io.StringIO(tiles_csv(report.score))))
    assert [(r["used"], r["used_ki67"], r["used_er"]) for r in (rows[0], rows[11])] == [
        ("1", "1", "0"),
        ("1", "1", "1"),
    ]
    features = json.loads(tiles_geojson(report))["features"]
    assert features[0]["properties"]["measurements"]["used_er"] == 0.0
    assert "used_ki67" not in tiles_csv(scored().score)


def test_copies_of_a_killed_run_stayed_behind(tmp_path):
    import socket

    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    host = socket.gethostname()
    dead = tmp_path / f"vstain-stage-{host}-{done.stdout.strip()}-x"
    alive = tmp_path / f"vstain-stage-{host}-{os.getpid()}-x"
    elsewhere = tmp_path / "vstain-stage-another.host-1-x"
    for folder in (dead, alive, elsewhere):
        folder.mkdir()
        (folder / "0.svs").write_bytes(b"pixels")
    remove_left_behind(tmp_path)
    assert not dead.exists()
    assert alive.exists()
    assert elsewhere.exists()
