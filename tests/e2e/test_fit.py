"""`vstain fit` and `vstain evaluate` as a user runs them: exit codes, kill -9, offline weights."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.fixtures.records import tiny_records
from tests.fixtures.training import TINY
from virtual_stain.cli.main import _run
from virtual_stain.training.checkpoint import read_checkpoint

VSTAIN = [sys.executable, "-c", "from virtual_stain.cli.main import run; run()"]
SETS = [part for override in TINY for part in ("--set", override)]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mit Lücke") / "records"
    tiny_records(folder, tile_px=64, window_um=19.2)
    return folder


def _curve(run):
    """history.csv without what a clock measured."""
    with (run / "history.csv").open() as stream:
        return [{k: v for k, v in r.items() if k not in ("seconds", "tiles_per_s")} for r in csv.DictReader(stream)]


def _kill_when(command, condition):
    """Starts a process of its own and kills it without warning as soon as `condition` holds."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None and not condition():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("path", ["direct", pytest.param("indirect", marks=pytest.mark.slow)])
def test_killed_without_warning_and_resumed_it_is_the_undisturbed_run_bit_for_bit(records, tmp_path, capsys, path):
    sets = [*SETS, "--set", "training.checkpoint_minutes=0", "--set", "training.max_steps=16"]
    if path == "indirect":
        records = tmp_path / "records"
        tiny_records(records, patients=8, n_folds=8, tile_px=64, window_um=19.2, error_p95_um=2.0, keep_ihc=True)
        sets += ["--set", "model.path=indirect"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    _kill_when(
        [*VSTAIN, "fit", str(records), "--out", str(killed), *sets],
        lambda: (killed / "last.h5").is_file() and (killed / "history.csv").read_text().count("\n") >= 3,
    )
    assert json.loads((killed / "run.json").read_text())["status"] == "running", "killed in the middle"
    assert _run(["fit", str(records), "--out", str(killed), *sets]) == 3
    assert "--resume" in capsys.readouterr().err
    assert _run(["fit", str(records), "--out", str(killed), "--resume", *sets]) == 0
    assert f"Next: vstain evaluate {killed}" in capsys.readouterr().out

    assert _run(["fit", str(records), "--out", str(undisturbed), *sets]) == 0
    assert _curve(killed) == _curve(undisturbed)
    for name in ("last.h5", "best.h5"):
        ours, theirs = (read_checkpoint(run / name) for run in (killed, undisturbed))
        for group in theirs[0]:
            for a, b in zip(ours[0][group], theirs[0][group], strict=True):
                np.testing.assert_array_equal(a.value, b.value, err_msg=a.name)
    assert _run(["evaluate", str(killed)]) == 0
    assert f"held-out tiles of {1 if path == 'indirect' else 2} patient" in capsys.readouterr().out
    assert (killed / "evaluation.json").is_file()


def test_offline_without_weights_is_exit_5_at_once(tmp_path):
    """An unreachable proxy stands for a slide network without internet."""
    tiny_records(tmp_path / "records", tile_px=80, tiles_per_pair=2)
    command = [*VSTAIN, "fit", str(tmp_path / "records"), "--out", str(tmp_path / "run"), *SETS]
    for setting in ("model.kind=inception_v3", "model.weights=imagenet", "model.crop_px=80"):
        command += ["--set", setting]
    nowhere = "http://127.0.0.1:9"
    environment = {"KERAS_HOME": str(tmp_path), "https_proxy": nowhere, "HTTPS_PROXY": nowhere}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment})
    assert done.returncode == 5, done.stderr
    assert "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5" in done.stderr
    assert 'weights = "' in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "run.json").exists()


def test_too_small_a_crop_for_the_network_is_exit_2(records, tmp_path, capsys):
    arguments = ["fit", str(records), "--out", str(tmp_path / "run"), "--set", "model.crop_px=64"]
    assert _run(arguments) == 2
    assert "crop_px: expected 75 to 2048. Received: 64" in capsys.readouterr().err
