"""Several processes through TF_CONFIG, and several devices of one: the same training as alone."""

import csv
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.fixtures.records import tiny_records
from tests.fixtures.training import TINY
from virtual_stain.cli.main import _run
from virtual_stain.errors import ConfigError
from virtual_stain.training.checkpoint import read_checkpoint
from virtual_stain.training.distribution import open_distribution

_FIT = """
import sys
from virtual_stain.cli.main import run
run(sys.argv[1:])
"""
_MIRRORED = """
import sys
import tensorflow as tf
from pathlib import Path
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from virtual_stain.config import load_config
from virtual_stain.training import fit as module
from virtual_stain.training.distribution import Distribution
module.open_distribution = lambda setting: Distribution(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
module.fit(Path(sys.argv[1]), Path(sys.argv[2]), load_config(None, sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """(folder, overrides): BatchNormalization fixed and no dropout, so that nothing depends on how a batch is split."""
    from virtual_stain.model.small_cnn import small_cnn

    folder = tmp_path_factory.mktemp("distributed")
    tiny_records(folder / "records", tile_px=64, window_um=19.2)
    small_cnn(32).save_weights(folder / "start.weights.h5")
    overrides = (
        *TINY, "training.recipe=finetune", "training.head_steps=2", "training.max_steps=4", "training.clip_norm=0.5",
        "training.micro_batch_size=4", "model.dropout=0", f"model.weights={folder / 'start.weights.h5'}",
    )  # fmt: skip
    return folder, overrides


def start(program, *arguments, **environment):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)


def finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]


def losses(run):
    with (run / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    names = ("loss", "cells_loss", "validation_loss")
    return np.array([[float(r[n] or "nan") for n in names] for r in rows])


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def test_two_workers_and_two_devices_train_what_one_trains(work):
    folder, overrides = work
    sets = [part for override in overrides for part in ("--set", override)]
    arguments = ["fit", folder / "records", "-q", *sets, "--out"]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    workers = [
        start(_FIT, *arguments, folder / "workers", TF_CONFIG=json.dumps({"cluster": cluster, "task": task}))
        for task in ({"type": "worker", "index": 0}, {"type": "worker", "index": 1})
    ]
    assert _run([*map(str, arguments), str(folder / "alone")]) == 0  # here meanwhile: TensorFlow is loaded already
    finish(*workers)
    finish(start(_MIRRORED, folder / "records", folder / "mirrored", *overrides))
    expected = read_checkpoint(folder / "alone" / "last.h5")
    for name in ("workers", "mirrored"):
        np.testing.assert_allclose(losses(folder / name), losses(folder / "alone"), rtol=2e-3, err_msg=name)
        found = read_checkpoint(folder / name / "last.h5")
        assert found[1]["step"] == 4
        for a, b in zip(found[0]["weights"], expected[0]["weights"], strict=True):
            np.testing.assert_allclose(a.value, b.value, atol=3e-4, err_msg=f"{name} {a.name}")
        record = json.loads((folder / name / "run.json").read_text())
        assert (record["status"], record["summary"]["devices"]) == ("finished", 2)


_WORKERS = '"cluster": {"worker": ["a:1", "b:1"]}'


@pytest.mark.parametrize(
    "text", ["no json", f"{{{_WORKERS}}}", f'{{{_WORKERS}, "task": {{"type": "ps", "index": 0}}}}']
)
def test_a_broken_cluster_is_a_sentence(text):
    with pytest.raises(ConfigError, match="TF_CONFIG"):
        open_distribution("auto", {"TF_CONFIG": text})


def test_one_worker_or_none_is_no_cluster():
    assert open_distribution("auto", {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}).workers == 1
    assert open_distribution("none", {"TF_CONFIG": "whatever"}).replicas == 1
