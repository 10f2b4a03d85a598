"""HER2 as a softmax over 0, 1+, 2+, 3+: the loss in two factors, the network, its data, one training step."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.records import tiny_records
from tests.fixtures.training import tiny_config
from virtual_stain.config import AugmentSettings, ModelSettings, TrainingSettings
from virtual_stain.dataset.crops import intensities_in_crop, intensities_in_grid
from virtual_stain.dataset.pipeline import CropSpec, TrainingOrder, tile_batches, training_batches
from virtual_stain.errors import ConfigError, InputError
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.model import build
from virtual_stain.model.build import BuildOptions, Network, build_network
from virtual_stain.model.losses import intensity_loss_sum, ratio_loss_sum
from virtual_stain.model.small_cnn import small_cnn
from virtual_stain.model.tile_reading import tile_maps, tile_reading
from virtual_stain.records.manifest import shard_paths, write_manifest
from virtual_stain.records.read import iterate_shard
from virtual_stain.records.write import write_shards
from virtual_stain.training.fit import fit
from virtual_stain.training.inputs import read_inputs
from virtual_stain.training.recipes import make_recipe
from virtual_stain.training.step import LossWeights, TrainStep, loss_sums

SMALL = ModelSettings(kind="small_cnn", weights="none", crop_px=32, dropout=0.0)
LOSS = LossWeights(min_cells=2, max_cells=50, cells_factor=0.02)
BOTH = (Marker.KI67, Marker.HER2)
RATIO = ValueDefinition.POSITIVE_RATIO


def test_the_two_factors_are_the_cross_entropy_of_a_softmax_over_four_classes() -> None:
    rng = np.random.default_rng(0)
    counted = rng.integers(0, 20, (6, 4)).astype(np.float32)
    logits, weights = rng.normal(size=(6, 4)), rng.uniform(0, 30, 6).astype(np.float32)
    n = counted.sum(axis=1)
    four = tf.nn.softmax_cross_entropy_with_logits(counted / n[:, None], logits.astype(np.float32))
    stained = np.log(np.exp(logits[:, 1:]).sum(axis=1)) - logits[:, 0]
    ratio = ratio_loss_sum(
        tf.constant(stained, tf.float32), tf.constant(counted[:, 1:].sum(axis=1)), tf.constant(n), tf.constant(weights)
    )
    intensities = intensity_loss_sum(
        tf.constant(logits[:, 1:], tf.float32), tf.constant(counted[:, 1:]), tf.constant(n), tf.constant(weights)
    )
    assert float(ratio + intensities) == pytest.approx(float(tf.reduce_sum(weights * four)), rel=1e-5)


def test_unknown_classes_and_crops_without_cells_teach_nothing() -> None:
    z = tf.Variable([[3.0, -40.0, 1.0], [0.0, 2.0, 1.0]])
    with tf.GradientTape() as tape:
        loss = intensity_loss_sum(z, tf.zeros((2, 3)), tf.constant([30.0, 0.0]), tf.constant([30.0, 0.0]))
    assert float(loss) == 0
    assert not np.any(tape.gradient(loss, z).numpy())


def wild(network: Network) -> Network:
    """Starting weights are next to nothing: with these every output differs."""
    rng = np.random.default_rng(2)
    for layer in network.head:
        layer.kernel.assign(rng.normal(size=layer.kernel.shape))
    return network


def crops(n: int = 3, px: int = 32) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).integers(0, 200, (n, px, px, 3), np.uint8))


@pytest.mark.parametrize("head", ["pooled", "dense"])
def test_the_class_shares_add_up_to_the_share_of_stained_cells(head: str) -> None:
    settings = ModelSettings(kind="small_cnn", weights="none", crop_px=32, dropout=0.0, head=head)
    network = wild(build_network(settings, BOTH, BuildOptions(seed=1)))
    assert set(network.model.output) == {*Marker.KI67.outputs, *Marker.HER2.outputs}
    found = {name: v.numpy() for name, v in tile_reading(network.model, crops(px=64), RATIO).items()}
    shares = np.stack([found[name] for name in Marker.HER2.intensity_outputs], axis=1)
    assert shares.shape == (3, 3)
    np.testing.assert_allclose(shares.sum(axis=1), found["her2"], rtol=1e-5)
    assert (shares > 0).all()
    assert np.ptp(shares, axis=1).min() > 0.01


def test_the_maps_of_a_dense_head_add_up_to_the_classes_of_the_crop() -> None:
    settings = ModelSettings(kind="small_cnn", weights="none", crop_px=32, dropout=0.0, head="dense")
    network = wild(build_network(settings, (Marker.HER2,), BuildOptions(seed=1)))
    assert network.dense is not None
    maps, readings = network.dense(crops()), network.model(crops())
    c = maps["her2_tumour_cells_map"].numpy()
    for name in Marker.HER2.intensity_outputs:
        share = maps[f"{name}_map"].numpy()
        np.testing.assert_allclose(readings[name], (c * share).sum(axis=(1, 2)) / c.sum(axis=(1, 2)), rtol=1e-4)
    assert set(tile_maps(network.dense, crops(px=64))) == {f"{name}_map" for name in Marker.HER2.outputs}


def test_a_class_that_is_next_to_nothing_keeps_its_gradient() -> None:
    settings = ModelSettings(kind="small_cnn", weights="none", crop_px=32, dropout=0.0, head="dense")
    network = build_network(settings, (Marker.HER2,), BuildOptions(seed=1))
    layers = {layer.name: layer for layer in network.head}
    layers["her2_logit"].bias.assign([-60.0])
    layers["her2_classes"].bias.assign([60.0, 0.0, -60.0])
    bias = layers["her2_classes"].bias.value
    with tf.GradientTape() as tape:
        tape.watch(bias)
        logits = network.logits(crops())["her2_classes"]
        loss = intensity_loss_sum(logits, tf.constant([[0.0, 0.0, 9.0]] * 3), tf.fill([3], 9.0), tf.fill([3], 9.0))
    gradient = tape.gradient(loss, bias).numpy()
    assert np.isfinite(gradient).all()
    assert gradient[2] < -1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("her2")
    return path, tiny_records(path, tile_px=96, window_um=28.8, tiles_per_pair=6, patients=3, marker="her2")


SPEC = CropSpec(markers=BOTH, tile_px=96, crop_px=32)


def test_the_classes_of_a_tile_are_those_of_its_cells(folder) -> None:
    path, manifest = folder
    records = [r for p in shard_paths(path, manifest.pairs) for r in iterate_shard(p)]
    batches = [{k: v.numpy() for k, v in b.items()} for b in tile_batches(path, manifest.pairs, SPEC, 4)]
    intensities = np.concatenate([b["intensities"] for b in batches])
    for record, found in zip(records, intensities, strict=True):
        wanted = [record["cells/intensity"].count(g) for g in (1, 2, 3)]
        assert found.sum(axis=0).tolist() == wanted
    positive = np.concatenate([b["positive"] for b in batches])
    np.testing.assert_array_equal(intensities.sum(axis=2), positive[..., 1])
    assert np.concatenate([b["intensities_known"] for b in batches]).all()


def test_a_training_crop_holds_the_classes_of_its_own_cells(folder) -> None:
    path, manifest = folder
    order = TrainingOrder(batch_size=18, seed=3, shuffle_tiles=8, augment=AugmentSettings())
    batch = next(iter(training_batches(path, manifest.pairs, SPEC, order)))
    intensities, positive = batch["intensities"].numpy(), batch["positive"].numpy()
    np.testing.assert_array_equal(intensities.sum(axis=1), positive[:, 1])
    assert intensities.any(axis=0).all()
    only_ki67 = CropSpec(markers=(Marker.KI67,), tile_px=96, crop_px=32)
    assert "intensities" not in next(iter(training_batches(path, manifest.pairs, only_ki67, order)))


def test_unknown_classes_are_no_cells_of_any_class() -> None:
    xy = tf.constant([[5.0, 5.0], [40.0, 40.0]])
    nothing = tf.zeros([0], tf.int64)
    assert not np.any(intensities_in_crop(xy, nothing, tf.constant([0, 0]), 96, 32))
    assert not np.any(intensities_in_grid(xy, nothing, 96, 32))
    known = tf.constant([0, 3], tf.int64)
    assert intensities_in_crop(xy, known, tf.constant([32, 32]), 96, 32).numpy().tolist() == [0, 0, 1]
    assert intensities_in_grid(xy, known, 96, 32).numpy()[4].tolist() == [0, 0, 1]
    assert not np.any(intensities_in_crop(tf.zeros([0, 2]), nothing, tf.constant([0, 0]), 96, 32))


def batch_of(marker: int, size: int = 8) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(5)
    one = np.eye(2, dtype=np.float32)[marker]
    intensities = rng.integers(0, 6, (size, 3)).astype(np.float32) * marker
    cells = intensities.sum(axis=1) + rng.integers(2, 20, size)
    positive = intensities.sum(axis=1) if marker else np.floor(cells / 3)
    return {
        "crop": tf.constant(rng.integers(0, 256, (size, 32, 32, 3), np.uint8)),
        "cells": tf.constant(cells[:, None] * one, tf.float32),
        "positive": tf.constant(positive[:, None] * one, tf.float32),
        "trusted": tf.constant(np.ones((size, 1)) * one, tf.float32),
        "usable": tf.constant(np.ones((size, 1)) * one, tf.float32),
        "intensities": tf.constant(intensities),
    }


def test_records_of_another_marker_do_not_teach_the_classes() -> None:
    network = build_network(SMALL, BOTH, BuildOptions(seed=1))
    layer = next(layer for layer in network.head if layer.name == "her2_classes")
    moved = []
    for marker in (0, 1):
        with tf.GradientTape() as tape:
            tape.watch(layer.bias.value)
            loss = loss_sums(network, batch_of(marker), LOSS, training=False)[0]
        gradient = tape.gradient(loss, layer.bias.value)
        moved.append(gradient is not None and bool(np.any(gradient.numpy())))
    assert moved == [False, True]


def test_parts_of_a_batch_teach_what_the_whole_batch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "build_backbone", lambda settings: small_cnn(settings.crop_px, batch_norm=False))
    settings = TrainingSettings(recipe="inception", learning_rate=0.01, max_steps=4, batch_size=8)
    results = []
    for parts in (1, 4):
        network = build_network(SMALL, BOTH, BuildOptions(seed=1))
        step = TrainStep(network, settings, LOSS)
        step.use(make_recipe(settings, steps_per_epoch=1).phases[0].new_optimizer, head_only=False)
        losses = [step.run(batch_of(1), parts, 0.01, 0.9).numpy() for _ in range(3)]
        results.append((losses, network.model.get_weights()))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_auxiliary_head_reads_ratio_and_cells_alone() -> None:
    settings = ModelSettings(kind="small_cnn", weights="none", crop_px=32, dropout=0.0, auxiliary_head=True)
    network = build_network(settings, (Marker.HER2,), BuildOptions(seed=1))
    assert {name for name in network.logits.output if name.startswith("auxiliary")} == {
        "auxiliary_her2_logit",
        "auxiliary_her2_log_cells",
    }
    training = TrainingSettings(recipe="scratch", learning_rate=1e-3, max_steps=2, batch_size=8)
    step = TrainStep(network, training, LOSS)
    step.use(make_recipe(training, steps_per_epoch=1).phases[0].new_optimizer, head_only=False)
    whole = batch_of(1)
    own = {k: v[:, 1:] if k in ("cells", "positive", "trusted", "usable") else v for k, v in whole.items()}
    assert np.isfinite(step.run(own, 1, 1e-3, 0.9).numpy()).all()


def test_support_vectors_and_other_definitions_are_refused(folder, tmp_path) -> None:
    with pytest.raises(ConfigError, match="no intensities"):
        read_inputs(folder[0], tiny_config("model.head=svr"), 0)
    write_manifest(tmp_path, dataclasses.replace(folder[1], value_definition="positive_count"))
    with pytest.raises(ConfigError, match="intensities 0 to 3"):
        read_inputs(tmp_path, tiny_config(), 0)


def test_a_training_without_a_single_known_class_is_refused(folder, tmp_path) -> None:
    """Its intensities would read a third each of the stained cells, whatever the slide."""
    path, manifest = folder
    entries = []
    for pair in manifest.pairs:
        records = [r for p in shard_paths(path, [pair]) for r in iterate_shard(p)]
        if pair.fold != 1:  # fold 1 validates
            for record in records:
                del record["cells/intensity"]
                record["tile/flags"] = [*record["tile/flags"], "classes_unknown"]
        shards = write_shards(tmp_path / "records", pair.pair, records, shard_bytes=10**9)
        entries.append(dataclasses.replace(pair, shards=shards))
    write_manifest(tmp_path / "records", dataclasses.replace(manifest, pairs=tuple(entries)))
    with pytest.raises(InputError, match="training patients has a stained cell"):
        fit(tmp_path / "records", tmp_path / "run", tiny_config())
    assert not (tmp_path / "run" / "run.json").exists()
