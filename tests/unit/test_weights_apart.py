"""Weights kept apart while a graph is saved come back bit by bit, each in its place, or the file is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from virtual_stain.errors import ModelError
from virtual_stain.exporting.inference_graph import freeze_network
from virtual_stain.exporting.weights_apart import put_back

CROP_PX = 32


@pytest.fixture
def model() -> keras.Model:
    """Two layers of one shape: weights put into each other's place would not show but in the answers."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((CROP_PX, CROP_PX, 3), dtype="uint8")
    x = keras.layers.Conv2D(16, 3, activation="tanh")(keras.layers.Rescaling(1 / 255)(inputs))
    for _ in range(2):
        x = keras.layers.Conv2D(16, 3, activation="tanh")(x)
    ki67 = keras.layers.Dense(1, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, {"ki67": keras.ops.squeeze(ki67, -1)})


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, CROP_PX, CROP_PX, 3), dtype=np.uint8)


def _saved(network, folder):
    module = tf.Module()
    module.answer = tf.function(lambda crops: network(crops), autograph=False)
    spec = tf.TensorSpec([None, CROP_PX, CROP_PX, 3], tf.uint8, name="crops")
    tf.saved_model.save(module, str(folder), signatures=module.answer.get_concrete_function(spec))
    return folder


def test_the_saved_file_is_that_of_weights_in_their_place(model, crops, tmp_path):
    whole = _saved(freeze_network(lambda c: model(c, training=False), CROP_PX), tmp_path / "whole")
    apart = freeze_network(lambda c: model(c, training=False), CROP_PX, weights_apart=True)
    assert len(apart.weights) == 3, "three kernels; biases are small"
    put_back(_saved(apart, tmp_path / "apart"), apart.weights)
    expected, received = (
        tf.saved_model.load(str(f)).signatures["serving_default"](crops=tf.constant(crops))["ki67"].numpy()
        for f in (whole, tmp_path / "apart")
    )
    np.testing.assert_array_equal(received, expected)
    assert np.ptp(received) > 0
    put_back(whole, {})  # nothing stands in for anything: nothing to do


def test_a_graph_without_its_weights_has_no_answer_but_nan(model, crops):
    apart = freeze_network(lambda c: model(c, training=False), CROP_PX, weights_apart=True)
    assert np.isnan(apart(tf.constant(crops))["ki67"].numpy()).all()


@pytest.mark.parametrize("change", ["missing", "additional", "shape"])
def test_weights_that_do_not_fit_are_refused(model, tmp_path, change):
    apart = freeze_network(lambda c: model(c, training=False), CROP_PX, weights_apart=True)
    folder = _saved(apart, tmp_path / "model")
    weights = dict(apart.weights)
    first, *_, last = weights
    if change == "missing":
        del weights[last]
    elif change == "additional":
        weights["vstain_weights_77"] = weights[first]
    else:
        weights[first] = weights[last]
    with pytest.raises(ModelError, match="vstain_weights_"):
        put_back(folder, weights)


def test_a_file_that_is_no_saved_model_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(ModelError, match="expected a SavedModel"):
        put_back(tmp_path, {})


def test_the_file_holds_every_weight_once(model, tmp_path):
    apart = freeze_network(lambda c: model(c, training=False), CROP_PX, weights_apart=True)
    folder = _saved(apart, tmp_path / "model")
    put_back(folder, apart.weights)
    saved = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    functions = saved.meta_graphs[0].graph_def.library.function
    names = [n.name for f in functions for n in f.node_def if n.name.startswith("vstain_weights_")]
    assert sorted(names) == sorted(apart.weights)
