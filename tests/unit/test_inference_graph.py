"""The frozen network answers what the Keras model answers, and holds nothing that only training needs."""

import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.models import write_tiny_bundle
from virtual_stain.exporting.average_pools import average_after_mixing
from virtual_stain.exporting.inference_graph import freeze_network, merge_batch_norm
from virtual_stain.scoring.local import LocalPredictor

CROP_PX = 32


def _network(*, batch_norm: bool = True) -> keras.Model:
    """Two convolutions with batch statistics far from 0 and 1, a branch, and two outputs."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((CROP_PX, CROP_PX, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    maps = []
    for scale in (True, False):
        y = keras.layers.Conv2D(8, 3, use_bias=not batch_norm)(x)
        if batch_norm:
            y = keras.layers.BatchNormalization(scale=scale)(y)
        maps.append(keras.layers.ReLU()(y))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Concatenate()(maps))
    ki67 = keras.layers.Dense(1, activation="sigmoid")(x)
    cells = keras.layers.Dense(1, activation="exponential")(x)
    outputs = {"ki67_tumour_cells": keras.ops.squeeze(cells, -1), "ki67": keras.ops.squeeze(ki67, -1)}
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.3, 2.0, w.shape) for w in layer.get_weights()])
    return model


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, CROP_PX, CROP_PX, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_frozen_network_answers_as_the_model_does(crops, batch_norm):
    model = _network(batch_norm=batch_norm)
    frozen = freeze_network(lambda c: model(c, training=False), CROP_PX)
    expected, received = model(crops, training=False), frozen(tf.constant(crops))
    assert set(received) == {"ki67", "ki67_tumour_cells"}
    for name, values in received.items():
        np.testing.assert_allclose(values.numpy(), expected[name].numpy(), rtol=2e-6)
    assert frozen.input_shape == model.input_shape


def test_batch_norm_is_merged_and_no_variable_is_left(crops):
    model = _network()
    frozen = freeze_network(lambda c: model(c, training=False), CROP_PX)
    graph = frozen._function.get_concrete_function().graph
    ops = [n.op for f in graph.as_graph_def().library.function for n in f.node_def]
    assert ops.count("Conv2D") == 2
    assert ops.count("BiasAdd") == 2
    assert not {"Rsqrt", "Sub", "ReadVariableOp", "VarHandleOp", "NoOp"} & set(ops)


def test_a_convolution_with_two_users_is_left_alone():
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        conv = tf.nn.conv2d(x, tf.ones([3, 3, 3, 4]), 1, "SAME")
        tf.identity(conv * tf.fill([4], 2.0) + tf.fill([4], 1.0) + conv, name="out")
    merged = merge_batch_norm(graph.as_graph_def(), ["out:0"])
    assert {"Conv2D", "Mul"} <= {n.op for n in merged.node}


def _pooled(kernel_px=1, channels=(6, 2), stride=1, padding="SAME", border=None, ask="out:0"):
    """(graph, answers of a function of graphs): an average, a convolution, a bias."""
    rng = np.random.default_rng(3)
    before, after = channels
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 9, 7, before], name="x")
        pool = tf.nn.avg_pool2d(x, 3, stride, padding, name="pool")
        kernel = rng.normal(size=(kernel_px, kernel_px, before, after)).astype(np.float32)
        conv = tf.nn.conv2d(pool, kernel, 1, border or "SAME", name="conv")
        tf.nn.relu(tf.nn.bias_add(conv, np.arange(after, dtype=np.float32)), name="out")
    values = rng.normal(size=(2, 9, 7, before)).astype(np.float32)

    def answer(definition):
        with tf.Graph().as_default() as loaded, tf.compat.v1.Session(graph=loaded) as session:
            tf.graph_util.import_graph_def(definition, name="")
            return session.run(ask, {"x:0": values})

    return graph.as_graph_def(), answer


def _reads(graph, name):
    return next(n for n in graph.node if n.name == name).input[0].split(":")[0]


def test_an_average_of_many_channels_is_taken_of_the_few_that_are_made_of_them():
    graph, answer = _pooled()
    moved = average_after_mixing(graph, ["out:0"])
    assert (_reads(graph, "pool"), _reads(graph, "conv")) == ("x", "pool")
    assert (_reads(moved, "conv"), _reads(moved, "pool")) == ("x", "conv")
    np.testing.assert_allclose(answer(moved), answer(graph), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"kernel_px": 3},
        {"channels": (2, 6)},
        {"stride": 2},
        {"padding": "VALID"},
        {"border": [[0, 0], [1, 1], [1, 1], [0, 0]]},
        {"ask": "pool:0"},
        {"ask": "conv:0"},
    ],
)
def test_an_average_stays_where_moving_it_would_change_something_or_save_nothing(change):
    graph, answer = _pooled(**change)
    moved = average_after_mixing(graph, [change.get("ask", "out:0")])
    assert _reads(moved, "pool") == "x"
    np.testing.assert_array_equal(answer(moved), answer(graph))


def test_a_frozen_network_is_not_trained(crops):
    frozen = freeze_network(_network(), CROP_PX)
    with pytest.raises(ValueError, match="cannot be trained"):
        frozen(tf.constant(crops), training=True)


def test_freezing_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        freeze_network(_network(), CROP_PX)


def test_the_centre_is_read_alone_and_its_cells_count_for_the_whole_tile(tmp_path):
    loaded = tf.saved_model.load(str(write_tiny_bundle(tmp_path / "tiny")))
    tile = np.full((1, 128, 128, 3), 200, np.uint8)
    tile[:, 32:96, 32:96] = (51, 127, 90)
    png = tf.constant([tf.io.encode_png(tile[0]).numpy()])
    for answer in (
        loaded.signatures["center_uint8"](tiles=tf.constant(tile)),
        loaded.signatures["center"](image_bytes=png),
    ):
        assert answer["ki67"].numpy() == pytest.approx([51 / 255], abs=1e-6)
        assert answer["ki67_tumour_cells"].numpy() == pytest.approx([4 * 400 * (1 - 127 / 255)], rel=1e-5)
    card = json.loads(loaded.signatures["describe"](query=tf.constant([""]))["card"].numpy()[0])
    assert card["crop_px"] == LocalPredictor(tmp_path / "tiny").card.crop_px == 64
