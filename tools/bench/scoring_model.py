"""A full-size InceptionV3 bundle for timing and parity: no training, but activations and readings like a trained one's.

Random kernels alone would leave activations that vanish or explode, which says nothing about rounding. Batch
normalization is therefore set to the statistics of real pixels, layer by layer, and the head is scaled until readings
spread over the whole range.
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
from virtual_stain.export.card import ModelCard
from virtual_stain.export.saved_model import write_bundle
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.model.build import BuildOptions, Network, build_network
from virtual_stain.model.tile_reading import tile_reading

CROP_PX = 512


def calibrated_network(crops: npt.NDArray[np.uint8]) -> Network:
    """InceptionV3 with batch statistics of uint8[B, 512, 512, 3] and readings that spread."""
    network = build_network(ModelSettings(weights="none", crop_px=CROP_PX), (Marker.KI67,), BuildOptions(seed=7))
    norms = [layer for layer in network.model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0  # one pass sets the moving statistics to the batch's
    network.features(crops, training=True)
    features = network.features(crops, training=False).numpy()
    rng = np.random.default_rng(3)
    for layer in network.head:
        kernel = rng.normal(size=layer.kernel.shape).astype(np.float32)
        values = features @ kernel
        kernel *= 1.5 / max(float(values.std()), 1e-6)
        centre = np.log(60.0) if "cells" in layer.name else -0.8
        layer.kernel.assign(kernel * (0.2 if "cells" in layer.name else 1.0))
        layer.bias.assign([centre - float((features @ layer.kernel.numpy()).mean())])
    return network


def write_bench_bundle(out: Path, network: Network) -> Path:
    """OUT/1: the network as a bundle with the default geometry."""
    card = ModelCard(
        name="bench",
        version=1,
        markers=(Marker.KI67,),
        value_definition=ValueDefinition.POSITIVE_RATIO,
        tiling=TilingSettings(),
        crop_px=CROP_PX,
        min_tissue_fraction=0.5,
        min_tumour_cells=50.0,
        training={"note": "never trained: for timing and parity"},
    )

    def reading(tiles: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return tile_reading(network.model, tiles)

    return write_bundle(reading, [v.value for v in network.model.variables], card, out)
