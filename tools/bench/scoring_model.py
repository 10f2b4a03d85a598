"""A full-size InceptionV3 bundle for timing and parity, trained in minutes to read one thing that is in the pixels.

Random weights would do for timing, but say nothing about rounding: their readings hang on noise. So the network learns,
from random start and on 128-px crops, how much of a crop is dark nuclei (called ki67 here), with batch normalization at
the statistics of real training. It is no model of anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from virtual_stain.config import TilingSettings
from virtual_stain.config.training import ModelSettings
from virtual_stain.exporting.card import ModelCard
from virtual_stain.exporting.inference_graph import freeze_network
from virtual_stain.exporting.saved_model import write_bundle
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.model.build import BuildOptions, Network, build_network
from virtual_stain.model.tile_reading import tile_reading

CROP_PX = 512
_LEARN_PX, _BATCH = 128, 16
Rgb = npt.NDArray[np.uint8]


def _build(crop_px: int, precision: str = "float32") -> Network:
    options = BuildOptions(seed=7, precision=precision)
    return build_network(ModelSettings(weights="none", crop_px=crop_px), (Marker.KI67,), options)


def trained_network(picture: Rgb, steps: int = 200) -> Network:
    """InceptionV3 with 512-px crops, trained on uint8[H, W, 3] at 0.3 µm/px or so."""
    learner = _build(_LEARN_PX, "mixed_bfloat16")
    for layer in learner.model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    optimizer = keras.optimizers.Adam(1e-3)
    dark = (picture.astype(np.float32).mean(axis=-1) < 130).astype(np.float32)
    rng = np.random.default_rng(3)

    @tf.function
    def step(crops: tf.Tensor, ratio: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            out = learner.logits(crops, training=True)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(ratio, out["ki67_logit"]))
            loss += 0.05 * tf.reduce_mean((out["ki67_log_cells"] - 1.0 - 2.0 * ratio) ** 2)
        variables = [v.value for v in learner.logits.trainable_variables]
        optimizer.apply(tape.gradient(loss, variables), learner.logits.trainable_variables)
        return loss

    height, width = dark.shape
    for i in range(steps):
        places = zip(rng.integers(0, height - 128, _BATCH), rng.integers(0, width - 128, _BATCH), strict=True)
        cuts = [np.s_[y : y + _LEARN_PX, x : x + _LEARN_PX] for y, x in places]
        ratio = np.clip([dark[c].mean() * 2.5 for c in cuts], 0.01, 0.95).astype(np.float32)
        loss = step(tf.constant(np.stack([picture[c] for c in cuts])), tf.constant(ratio))
        if i % 50 == 0 or i == steps - 1:
            print(f"bench model: step {i}, loss {float(loss):.3f}", flush=True)
    network = _build(CROP_PX)
    network.model.set_weights(learner.model.get_weights())
    return network


def write_bench_bundle(out: Path, network: Network) -> Path:
    """OUT/1: the network as a bundle with the default geometry, frozen as `vstain export` does it."""
    card = ModelCard(
        name="bench",
        version=1,
        markers=(Marker.KI67,),
        value_definition=ValueDefinition.POSITIVE_RATIO,
        tiling=TilingSettings(),
        crop_px=CROP_PX,
        min_tissue_fraction=0.5,
        min_tumour_cells=1.0,
        training={"note": "reads dark nuclei; for timing and parity only"},
    )
    frozen = freeze_network(lambda crops: network.model(crops, training=False), CROP_PX)

    def reading(tiles: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return tile_reading(frozen, tiles, ValueDefinition.POSITIVE_RATIO)

    return write_bundle(reading, [], card, out)
