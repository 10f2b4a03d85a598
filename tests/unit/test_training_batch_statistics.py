"""Normalisation statistics of the weights that are read with, and a run that says when it has learned nothing."""

import csv
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.records import tiny_records
from tests.fixtures.training import tiny_config
from virtual_stain.config import ModelSettings
from virtual_stain.markers import Marker
from virtual_stain.model.build import BuildOptions, build_network
from virtual_stain.training.batch_statistics import BatchStatistics
from virtual_stain.training.distribution import Distribution
from virtual_stain.training.fit import fit
from virtual_stain.training.verdict import verdict


def norm_layers(network):
    backbone = network.features.get_layer("small_cnn")
    return [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]


def test_the_statistics_are_those_of_the_crops_under_the_present_weights():
    """After few steps the moving statistics are mostly the starting ones, mean 0 and variance 1."""
    settings = ModelSettings(kind="small_cnn", weights="none", crop_px=32, dropout=0.5)
    network = build_network(settings, (Marker.KI67,), BuildOptions(seed=3))
    rng = np.random.default_rng(0)
    batches = [{"crop": tf.constant(rng.integers(120, 256, (4, 32, 32, 3), np.uint8))} for _ in range(3)]
    statistics = BatchStatistics(network, batches, None, Distribution())
    statistics.measure()
    backbone = network.features.get_layer("small_cnn")
    crops = tf.concat([b["crop"] for b in batches], axis=0)
    before = keras.Model(backbone.inputs, backbone.get_layer("conv_0").output)(tf.cast(crops, tf.float32) / 127.5 - 1)
    first = norm_layers(network)[0]
    np.testing.assert_allclose(first.moving_mean, before.numpy().mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first.moving_variance, before.numpy().var(axis=(0, 1, 2)), rtol=1e-3)
    assert [layer.momentum for layer in norm_layers(network)] == [0.99] * 4, "training goes on with its own"
    once = [w.copy() for w in network.features.get_weights()]
    statistics.measure()
    for a, b in zip(once, network.features.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_with_measured_statistics_goes_on_as_if_it_had_not_validated(tmp_path):
    """What is measured is for reading alone: the training's own weights and statistics come back after it."""
    records = tmp_path / "records"
    tiny_records(records, tile_px=64, window_um=19.2)
    losses = []
    for crops in (0, 16):
        fit(records, tmp_path / f"run{crops}", tiny_config(f"training.batch_norm_crops={crops}"))
        with (tmp_path / f"run{crops}" / "history.csv").open() as stream:
            losses.append([row["loss"] for row in csv.DictReader(stream) if row["loss"]])
    assert losses[0] == losses[1]
    summary = json.loads((tmp_path / "run16" / "run.json").read_text())["summary"]
    assert summary["constant_validation_loss"] > 0
    assert summary["learned"] in (True, False)


def test_what_is_no_better_than_the_mean_has_learned_nothing():
    found = verdict(0.600, 0.601, 0.05)
    assert not found.learned
    assert "has learned nothing" in found.sentence
    assert "0.6010 for the training mean" in found.sentence
    assert not verdict(0.7, 0.6, None).learned


def test_an_offset_of_the_patient_is_not_nothing():
    found = verdict(0.61, 0.60, 0.7)
    assert found.learned
    assert "Offsets between patients" in found.sentence


@pytest.mark.parametrize(("loss", "constant"), [(0.55, 0.60), (None, 0.6), (0.6, None)])
def test_a_run_that_learned_needs_no_sentence(loss, constant):
    assert verdict(loss, constant, 0.1).sentence == ""


def test_labels_that_say_nothing_end_in_the_sentence(tmp_path, capsys):
    """Labels drawn anew: whatever the pictures show, nothing can be learned from them."""
    from tools.permute_labels import permute_labels

    records, permuted = tmp_path / "records", tmp_path / "permuted"
    tiny_records(records, tile_px=64, window_um=19.2, patients=9)
    permute_labels(records, permuted)
    result = fit(permuted, tmp_path / "run", tiny_config("training.max_steps=24"))
    assert "has learned nothing" in result.verdict
