"""A network that ends early, read by every engine: the bundle's graph, bfloat16 and OpenVINO answer what Keras does."""

import dataclasses
import importlib.util

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.models import tiny_card
from virtual_stain.config import ModelSettings, ScoringSettings
from virtual_stain.exporting.card import card_from_json
from virtual_stain.exporting.inference_graph import freeze_network
from virtual_stain.exporting.saved_model import write_bundle
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.model.build import BuildOptions, build_network, constant_outputs, set_starting_outputs
from virtual_stain.model.tile_reading import tile_maps, tile_reading
from virtual_stain.scoring.local import LocalPredictor

CROP_PX = 80
RATIO = ValueDefinition.POSITIVE_RATIO


@pytest.fixture(scope="module")
def network():
    settings = ModelSettings(
        weights="none", crop_px=CROP_PX, trunk_end="mixed0", head="dense", crop_weights="cells", dropout=0.0
    )
    built = build_network(settings, (Marker.KI67,), BuildOptions(seed=1))
    set_starting_outputs(built, constant_outputs({Marker.KI67: 0.3}, {Marker.KI67: 25.0}))
    for layer, spread in zip(built.head, (30.0, 60.0), strict=True):  # crops that differ, as a trained network's do
        layer.kernel.assign(np.random.default_rng(2).normal(0, spread, layer.kernel.shape))
    return built


@pytest.fixture(scope="module")
def tiles():
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 250, (4, 16, 16, 3), np.uint8).repeat(10, axis=1).repeat(10, axis=2)
    ground[1, :, CROP_PX:] = 255  # half of it glass
    ground[2, :CROP_PX] //= 3
    return ground


@pytest.fixture(scope="module")
def bundle(network, tmp_path_factory):
    card = dataclasses.replace(tiny_card(window_um=96.0, tile_px=2 * CROP_PX), crop_weights="cells")
    frozen = freeze_network(lambda c: network.model(c, training=False), CROP_PX)
    dense = [v.value for v in network.dense.variables]
    return write_bundle(
        lambda t: tile_reading(frozen, t, RATIO, card.crop_weights), dense, card, tmp_path_factory.mktemp("m") / "m",
        maps=lambda t: tile_maps(network.dense, t),
    )  # fmt: skip


def test_every_engine_reads_what_keras_reads(network, bundle, tiles):
    expected = tile_reading(network.model, tf.constant(tiles), RATIO, "cells")
    plain = tile_reading(network.model, tf.constant(tiles), RATIO)
    assert np.abs(expected["ki67"] - plain["ki67"]).max() > 0.005, "weights must matter here, or nothing is tested"
    engines = {"tensorflow": LocalPredictor(bundle, ScoringSettings(precision="float32"))}
    if importlib.util.find_spec("openvino"):
        from virtual_stain.scoring.openvino_engine import OpenVinoPredictor

        engines["openvino"] = OpenVinoPredictor(bundle, ScoringSettings(precision="float32", engine="openvino"))
    for name, engine in engines.items():
        found = engine.predict(tiles)
        for output, values in expected.items():
            np.testing.assert_allclose(found[output], values, rtol=2e-3, atol=2e-4, err_msg=f"{name} {output}")
    half = LocalPredictor(bundle, ScoringSettings(precision="bfloat16"))
    half.check(tiles)
    np.testing.assert_allclose(half.predict(tiles)["ki67"], expected["ki67"], atol=0.01)


def test_the_bundle_serves_the_maps_and_says_how_crops_are_weighted(network, bundle, tiles):
    signatures = tf.saved_model.load(str(bundle)).signatures
    maps = signatures["dense_uint8"](tiles=tf.constant(tiles))
    side = 2 * network.geometry.places
    assert maps["ki67_map"].shape == (4, side, side)
    assert np.isnan(maps["ki67_map"][1, :, side // 2 :]).all()
    assert LocalPredictor(bundle).card.crop_weights == "cells"


def test_a_card_without_the_weights_of_crops_is_of_the_time_of_the_mean():
    value = tiny_card().to_json()
    del value["crop_weights"]
    assert card_from_json(value, "old").crop_weights == "equal"
    with pytest.raises(Exception, match="crop_weights"):
        card_from_json(value | {"crop_weights": "pixels"}, "new")
