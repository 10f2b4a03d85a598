"""`vstain fit` and `vstain evaluate` as a user runs them: exit codes, kill -9, offline weights."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.fixtures.records import tiny_records
from tests.fixtures.training import TINY

VSTAIN = [sys.executable, "-c", "from virtual_stain.cli.main import run; run()"]
SETS = [part for override in TINY for part in ("--set", override)]


def vstain(*arguments, **environment):
    return subprocess.run(
        [*VSTAIN, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mit Lücke") / "records"
    tiny_records(folder, tile_px=64, window_um=19.2)
    return folder


def _losses(run):
    with (run / "history.csv").open() as stream:
        return [float(r["validation_loss"]) for r in csv.DictReader(stream) if r["validation_loss"]]


def test_killed_without_warning_and_resumed_it_ends_like_an_undisturbed_run(records, tmp_path):
    sets = [*SETS, "--set", "training.checkpoint_minutes=0", "--set", "training.max_steps=16"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    done = vstain("fit", records, "--out", undisturbed, *sets)
    assert done.returncode == 0, done.stderr
    assert f"Next: vstain evaluate {undisturbed}" in done.stdout

    command = [*VSTAIN, "fit", str(records), "--out", str(killed), *sets]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (killed / "history.csv").is_file() and (killed / "history.csv").read_text().count("\n") >= 3:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()

    refused = vstain("fit", records, "--out", killed, *sets)
    if json.loads((killed / "run.json").read_text())["status"] == "running":
        assert refused.returncode == 3
        assert "--resume" in refused.stderr
    resumed = vstain("fit", records, "--out", killed, "--resume", *sets)
    assert resumed.returncode == 0, resumed.stderr
    assert _losses(killed) == pytest.approx(_losses(undisturbed), rel=1e-3)

    evaluated = vstain("evaluate", killed)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "held-out tiles of 2 patients" in evaluated.stdout
    assert (killed / "evaluation.json").is_file()


def test_offline_without_weights_is_exit_5_at_once(records, tmp_path):
    """An unreachable proxy stands for a slide network without internet."""
    start = time.monotonic()
    done = vstain(
        "fit", records, "--out", tmp_path / "run", *SETS, "--set", "model.kind=inception_v3",
        "--set", "model.weights=imagenet", "--set", "model.crop_px=64", KERAS_HOME=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 2, "64 px are too few for InceptionV3: said before anything else"
    tiny_records(tmp_path / "big", tile_px=80, tiles_per_pair=2)
    done = vstain(
        "fit", tmp_path / "big", "--out", tmp_path / "run", *SETS, "--set", "model.kind=inception_v3",
        "--set", "model.weights=imagenet", "--set", "model.crop_px=80",
        KERAS_HOME=str(tmp_path), https_proxy="http://127.0.0.1:9", HTTPS_PROXY="http://127.0.0.1:9",
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5" in done.stderr
    assert 'weights = "' in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < 120
    assert not (tmp_path / "run" / "run.json").exists()
