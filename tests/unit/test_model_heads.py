"""Other heads behind the same interface: dense maps that add up, and a support-vector regression inside the graph."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.records import tiny_records
from tests.fixtures.slides import write_tiled_tiff
from tests.fixtures.training import tiny_config
from virtual_stain.cli.main import _run
from virtual_stain.config import ModelSettings
from virtual_stain.errors import ConfigError
from virtual_stain.evaluation.evaluate import evaluate
from virtual_stain.exporting.bundle import find_bundle
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.model.build import BuildOptions, build_network, constant_outputs, set_starting_outputs
from virtual_stain.model.tile_reading import tile_maps, tile_reading
from virtual_stain.records.manifest import read_manifest, shard_paths
from virtual_stain.records.read import iterate_shard
from virtual_stain.training import fit_svr
from virtual_stain.training.fit import fit
from virtual_stain.training.run_dir import load_run

DENSE = ModelSettings(kind="small_cnn", weights="none", crop_px=64, head="dense", dropout=0.0)


def crops(n=3, px=64):
    return tf.constant(np.random.default_rng(0).integers(0, 200, (n, px, px, 3), np.uint8))


def test_the_maps_of_the_dense_head_add_up_to_its_readings():
    network = build_network(DENSE, (Marker.KI67,), BuildOptions(seed=1))
    for layer in network.head:  # starting weights are next to nothing
        layer.kernel.assign(np.random.default_rng(2).normal(size=layer.kernel.shape))
    maps, readings = network.dense(crops()), network.model(crops())
    p, c = maps["ki67_map"].numpy(), maps["ki67_tumour_cells_map"].numpy()
    assert p.shape == c.shape == (3, 4, 4)
    np.testing.assert_allclose(readings["ki67_tumour_cells"], c.sum(axis=(1, 2)), rtol=1e-4)
    np.testing.assert_allclose(readings["ki67"], (c * p).sum(axis=(1, 2)) / c.sum(axis=(1, 2)), rtol=1e-4)


def test_it_starts_at_the_mean_of_the_training_set():
    network = build_network(DENSE, (Marker.KI67,), BuildOptions(seed=1))
    set_starting_outputs(network, constant_outputs({Marker.KI67: 0.2}, {Marker.KI67: 33.0}))
    readings = network.model(crops())
    np.testing.assert_allclose(readings["ki67"], 0.2, atol=0.01)
    np.testing.assert_allclose(readings["ki67_tumour_cells"], 33, rtol=0.05)


def test_the_map_of_a_tile_lies_as_its_crops_do():
    network = build_network(DENSE, (Marker.KI67,), BuildOptions(seed=1))
    tile = crops(1, 128)
    whole = tile_maps(network.dense, tile)["ki67_tumour_cells_map"].numpy()[0]
    corner = network.dense(tile[:, 64:, :64])["ki67_tumour_cells_map"].numpy()[0]
    assert whole.shape == (8, 8)
    np.testing.assert_allclose(whole[4:, :4], corner, rtol=1e-6)
    padded = tf.concat([tile[:, :64], tf.fill([1, 64, 128, 3], tf.constant(255, tf.uint8))], axis=1)
    found = tile_maps(network.dense, padded)["ki67_map"].numpy()[0]
    assert np.isfinite(found[:4]).all()
    assert np.isnan(found[4:]).all()
    total = tile_reading(network.model, tile, ValueDefinition.POSITIVE_RATIO)["ki67_tumour_cells"].numpy()[0]
    assert whole.sum() == pytest.approx(total, rel=1e-4)


def slide_of(records, path):
    """A slide of six stored tiles."""
    shard = shard_paths(records, read_manifest(records).pairs[:1])[0]
    jpegs = [r["image/encoded"] for r in iterate_shard(shard)][:6]
    frame = np.full((256, 320, 3), 245, np.uint8)
    for i, jpeg in enumerate(jpegs):
        y, x = 64 * (1 + i // 3), 64 * (1 + i % 3)
        frame[y : y + 64, x : x + 64] = tf.io.decode_jpeg(jpeg, dct_method="INTEGER_ACCURATE").numpy()
    return write_tiled_tiff(path, frame, 0.3)


@pytest.mark.parametrize("head", ["dense", "svr"])
def test_it_is_trained_evaluated_exported_and_scored_like_the_first(tmp_path, head):
    pytest.importorskip("sklearn")
    records, run = tmp_path / "records", tmp_path / "run"
    tiny_records(records, tile_px=64, window_um=19.2)
    steps = ["training.max_steps=60", "training.validate_every_steps=20", "training.learning_rate=1e-2"]
    config = tiny_config(f"model.head={head}", *steps)
    result = fit(records, run, config)
    assert np.isfinite(result.best_validation_loss)
    assert fit(records, run, config).best_step == result.best_step, "finished: left as it is"
    figures = evaluate(run, resamples=20).figures["ki67"]
    assert figures["tiles"]["pearson_pooled"] > (0.5 if head == "svr" else 0.3)
    assert figures["tiles"]["mae"] < 0.25
    loaded = load_run(run)
    assert loaded.card["training"]["head"] == head
    model, slide = tmp_path / "m", slide_of(records, tmp_path / "s.tiff")
    assert _run(["export", str(run), "--out", str(model), "-q"]) == 0
    signatures = tf.saved_model.load(str(find_bundle(model))).signatures
    tiles = crops(2)
    expected = tile_reading(loaded.model, tiles, ValueDefinition.POSITIVE_RATIO)
    for name, values in signatures["uint8"](tiles=tiles).items():
        np.testing.assert_allclose(values, expected[name], rtol=2e-4, atol=1e-4)
    assert ("dense_uint8" in signatures) == (head == "dense")
    if head == "dense":
        assert signatures["dense_uint8"](tiles=tiles)["ki67_map"].shape == (2, 4, 4)
    tissue = ["--set", "tissue.overview_mpp=2", "--set", "tissue.min_area_um2=100"]
    assert _run(["score", str(slide), "--model", str(model), "--out", str(tmp_path / "o"), "-q", *tissue]) == 0
    report = json.loads((tmp_path / "o" / "s.report.json").read_text())
    assert report["readings"]["ki67"]["n_tiles"] > 0


def test_the_regression_in_the_graph_is_scikit_learns():
    svm = pytest.importorskip("sklearn.svm")
    from virtual_stain.model.heads import RbfRegression

    rng = np.random.default_rng(0)
    x, y = rng.normal(2, 3, (80, 6)), rng.uniform(size=80)
    fitted = fit_svr._fit_one(x, y, np.ones(80), 3.0, 1.0)
    layer = RbfRegression(len(fitted["support"]))
    layer.build((None, 6))
    for name, value in fitted.items():
        getattr(layer, name).assign(value)
    reference = svm.SVR(C=3.0, gamma=1.0 / 6, epsilon=0.03).fit((x - x.mean(0)) / x.std(0), y)
    new = rng.normal(2, 3, (20, 6))
    expected = reference.predict((new - x.mean(0)) / x.std(0))
    np.testing.assert_allclose(layer(new.astype(np.float32)), expected, atol=1e-4)


def test_without_scikit_learn_the_way_out_is_said(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("sklearn"):
            raise ImportError("No module named 'sklearn'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="scikit-learn") as caught:
        fit_svr._require_sklearn()
    assert "[svr]" in caught.value.hint
