"""The auxiliary head, several markers in one model, and the contact sheet of what a network is shown."""

import dataclasses

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.records import tiny_records
from tests.fixtures.training import tiny_config
from virtual_stain.cli.main import _run
from virtual_stain.config import ModelSettings, TrainingSettings
from virtual_stain.evaluation.evaluate import evaluate
from virtual_stain.markers import Marker
from virtual_stain.model.build import BuildOptions, build_network
from virtual_stain.records.manifest import read_manifest, write_manifest
from virtual_stain.records.read import iterate_shard
from virtual_stain.records.write import write_shards
from virtual_stain.training.checkpoint import read_checkpoint
from virtual_stain.training.fit import fit
from virtual_stain.training.step import LossWeights, TrainStep

MODEL = ModelSettings(kind="small_cnn", weights="none", crop_px=32, dropout=0.0)


def batch(markers=1, size=8):
    rng = np.random.default_rng(0)
    cells = rng.integers(10, 40, (size, markers)).astype(np.float32)
    return {
        "crop": tf.constant(rng.integers(0, 256, (size, 32, 32, 3), np.uint8)),
        "cells": tf.constant(cells),
        "positive": tf.constant(np.floor(cells * 0.3).astype(np.float32)),
        "trusted": tf.ones((size, markers)),
        "usable": tf.ones((size, markers)),
    }


def train(network, data, steps=3, **settings):
    step = TrainStep(network, TrainingSettings(**settings), LossWeights(2, 50, 0.02))
    step.use(lambda: keras.optimizers.SGD(0.01), head_only=False)
    for _ in range(steps):
        step.run(data, 1, 0.01, 0.5)
    return step


def test_the_auxiliary_head_trains_and_stays_out_of_the_model():
    network = build_network(dataclasses.replace(MODEL, auxiliary_head=True), (Marker.KI67,), BuildOptions(seed=1))
    plain = build_network(MODEL, (Marker.KI67,), BuildOptions(seed=1))
    assert set(network.logits.output) == {*plain.logits.output, "auxiliary_ki67_logit", "auxiliary_ki67_log_cells"}
    assert set(network.model.output) == set(plain.model.output)
    assert len(network.model.weights) == len(plain.model.weights)
    assert not any("auxiliary" in w.path for w in network.model.weights)
    before = [v.numpy() for layer in network.auxiliary for v in layer.trainable_variables]
    train(network, batch())
    after = [v.numpy() for layer in network.auxiliary for v in layer.trainable_variables]
    assert all((a != b).any() for a, b in zip(after, before, strict=True))


def test_its_weight_scales_what_it_teaches_the_rest():
    moved = []
    for weight in (0.0, 8.0):
        network = build_network(dataclasses.replace(MODEL, auxiliary_head=True), (Marker.KI67,), BuildOptions(seed=1))
        train(network, batch(), auxiliary_weight=weight)
        moved.append(network.model.get_weights())
    plain = build_network(MODEL, (Marker.KI67,), BuildOptions(seed=1))
    train(plain, batch())
    expected = plain.model.get_weights()
    without, with_head = (max(np.abs(a - b).max() for a, b in zip(m, expected, strict=True)) for m in moved)
    assert without < 1e-6, "weight 0: as if it were not there"
    assert with_head > 1e-4


def test_it_is_that_of_the_published_network():
    settings = ModelSettings(weights="none", crop_px=299, auxiliary_head=True)
    network = build_network(settings, (Marker.KI67,), BuildOptions())
    shapes = [tuple(layer.kernel.shape) for layer in network.auxiliary if hasattr(layer, "kernel")]
    assert shapes == [(1, 1, 768, 128), (5, 5, 128, 768), (768, 1), (768, 1)]


def test_a_run_with_an_auxiliary_head_resumes_and_evaluates(tmp_path):
    tiny_records(tmp_path / "records", tile_px=64, window_um=19.2)
    config = tiny_config("model.auxiliary_head=true", "training.max_steps=4")
    fit(tmp_path / "records", tmp_path / "run", config)
    names = [n.name for n in read_checkpoint(tmp_path / "run" / "last.h5")[0]["random"]]
    assert any("auxiliary" in n for n in names)
    assert evaluate(tmp_path / "run", resamples=20).figures["ki67"]["tiles"]["n_labelled"] > 0


def two_markers(folder):
    """Every patient has a Ki67 and an ER pair; ER's ratio is the complement, so that heads cannot be confused."""
    manifest = tiny_records(folder, patients=6, pairs_per_patient=2, tile_px=64, window_um=19.2)
    pairs = []
    for pair in manifest.pairs:
        if pair.pair.endswith("-1"):
            records = [
                r | {"label/marker": "er", "cells/positive": [1 - p for p in r["cells/positive"]],
                     "label/positive": r["label/negative"], "label/negative": r["label/positive"]}
                for r in iterate_shard(folder / pair.shards[0].file)
            ]  # fmt: skip
            shards = write_shards(folder, pair.pair, records, shard_bytes=10**8)
            pair = dataclasses.replace(pair, marker="er", shards=shards, positive=pair.negative, negative=pair.positive)
        pairs.append(pair)
    write_manifest(folder, dataclasses.replace(manifest, markers=("er", "ki67"), pairs=tuple(pairs)))


def test_a_marker_without_labels_in_a_batch_is_not_touched():
    network = build_network(MODEL, (Marker.ER, Marker.KI67), BuildOptions(seed=1))
    data = batch(markers=2)
    mask = tf.constant(np.array([[0.0, 1.0]] * 8, np.float32))
    data |= {name: data[name] * mask for name in ("cells", "positive", "trusted", "usable")}
    before = {layer.name: layer.kernel.numpy() for layer in network.head}
    train(network, data)
    moved = {layer.name: bool((layer.kernel.numpy() != before[layer.name]).any()) for layer in network.head}
    assert moved == {"er_logit": False, "er_log_cells": False, "ki67_logit": True, "ki67_log_cells": True}


def test_two_markers_in_one_model_are_trained_evaluated_and_exported(tmp_path):
    two_markers(tmp_path / "records")
    assert read_manifest(tmp_path / "records").markers == ("er", "ki67")
    fit(
        tmp_path / "records", tmp_path / "run", tiny_config("training.max_steps=60", "training.validate_every_steps=30")
    )
    figures = evaluate(tmp_path / "run", resamples=20).figures
    assert set(figures) == {"er", "ki67"}
    assert {c["cut_off"] for c in figures["er"]["patient_agreement"]["cut_offs"]} == {0.01, 0.1}
    read = {m: np.mean([s["read_global_ratio"] for s in figures[m]["slides"]]) for m in figures}
    true = {m: np.mean([s["true_ratio"] for s in figures[m]["slides"]]) for m in figures}
    assert abs(read["er"] - true["er"]) < 0.15
    assert abs(read["ki67"] - true["ki67"]) < 0.15
    assert _run(["export", str(tmp_path / "run"), "--out", str(tmp_path / "m"), "-q"]) == 0


def test_the_contact_sheet_shows_the_crops(tmp_path, capsys):
    tiny_records(tmp_path, tile_px=64, window_um=19.2)
    sets = ["--set", "model.crop_px=32", "--set", "model.kind=small_cnn"]
    assert _run(["records", "augmentations", str(tmp_path), "--crops", "3", "--versions", "2", *sets]) == 0
    picture = cv2.imread(str(tmp_path / "shown" / "augmentations.png"))
    assert picture.shape == (3 * (192 + 20), 3 * (192 + 8) + 16, 3)
    assert "3 crops, 2 versions each" in capsys.readouterr().out
    tiles = picture[:192, :192], picture[:192, 216 : 216 + 192]
    assert not np.array_equal(*tiles)
    assert min(t.std() for t in tiles) > 5
    off = ["flip=false", "quarter_turns=false", "hematoxylin_gain=0", "eosin_gain=0", "channel_gain=0", "blur_px=0"]
    off += ["channel_shift=0", "brightness=0", "contrast=0"]
    sets += [part for o in off for part in ("--set", f"augment.{o}")]
    assert _run(["records", "augmentations", str(tmp_path), "--crops", "1", "--versions", "1", *sets]) == 0
    picture = cv2.imread(str(tmp_path / "shown" / "augmentations.png"))
    np.testing.assert_array_equal(picture[:192, :192], picture[:192, 216 : 216 + 192])


@pytest.mark.parametrize("name", ["sampling", "balance", "distribute"])
def test_unknown_words_are_refused(name):
    with pytest.raises(ValueError, match=name):
        TrainingSettings(**{name: "sometimes"})
