"""A loss that is no number is traced to its batch."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.records import tiny_records
from tests.fixtures.training import tiny_config
from virtual_stain.errors import ModelError
from virtual_stain.training import loop
from virtual_stain.training.fit import fit
from virtual_stain.training.watchdog import BatchNames, require_numbers


def names(step):
    tiles = np.array([f"p/{step}_{i}".encode() for i in range(6)])
    return BatchNames(tiles, np.arange(12).reshape(6, 2), np.ones((6, 1)), np.zeros((6, 1)))


def test_the_first_bad_step_is_named_and_listed(tmp_path):
    losses = np.ones((4, 3), np.float32)
    require_numbers(tmp_path, losses, [names(s) for s in range(4)], 41, 0.01)
    losses[2, 2], losses[3, 0] = np.inf, np.nan
    with pytest.raises(ModelError, match=r"gradient is no longer a number at step 43.*p/2_0, .* and 2 more"):
        require_numbers(tmp_path, losses, [names(s) for s in range(4)], 41, 0.01)
    value = json.loads((tmp_path / "nan_batch.json").read_text())
    assert (value["step"], value["not_a_number"]) == (43, "gradient")
    assert [c["tile"] for c in value["crops"]] == [f"p/2_{i}" for i in range(6)]
    assert value["crops"][1] == {"tile": "p/2_1", "x": 2, "y": 3, "tumour_cells": [1.0], "positive": [0.0]}


def test_the_batch_that_poisons_a_training_is_found(tmp_path, monkeypatch):
    """A label that is infinite: the very step, not the one at which somebody looks."""
    records, run = tmp_path / "records", tmp_path / "run"
    tiny_records(records, tile_px=64, window_um=19.2)
    original, seen = loop.TrainStep.run, []

    def poisoned(self, batch, *rest):
        seen.append(batch["cells"].numpy())
        if len(seen) == 6:
            batch = batch | {"positive": tf.fill(batch["positive"].shape, np.inf)}
        return original(self, batch, *rest)

    monkeypatch.setattr(loop.TrainStep, "run", poisoned)
    with pytest.raises(ModelError, match="loss is no longer a number at step 6"):
        fit(records, run, tiny_config("training.log_every_steps=4"))
    value = json.loads((run / "nan_batch.json").read_text())
    assert [c["tumour_cells"] for c in value["crops"]] == seen[5].tolist()
    assert all("/" in c["tile"] for c in value["crops"])
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
