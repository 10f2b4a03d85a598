"""The auxiliary head of InceptionV3: a second reading from the middle of the network, for training only.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 4: average pooling 5 × 5
with stride 3, a convolution 1 × 1 to 128 maps, one over what remains, and the outputs; its loss counts 0.4 (their
published code). It regularises the main head and is not exported.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from virtual_stain.markers import Marker

PREFIX = "auxiliary_"


def auxiliary_head(
    maps: keras.KerasTensor, markers: Sequence[Marker], seed: int
) -> tuple[tuple[keras.layers.Layer, ...], dict[str, keras.KerasTensor]]:
    """(layers, {"auxiliary_ki67_logit": float32[B], "auxiliary_ki67_log_cells": float32[B], …}) from [B, H, W, F]."""
    layers: list[keras.layers.Layer] = []

    def convolution(x: keras.KerasTensor, filters: int, size: int, index: int) -> keras.KerasTensor:
        initializer = keras.initializers.TruncatedNormal(stddev=0.01, seed=seed * 1009 + 700 + index)
        layers.extend(
            [
                keras.layers.Conv2D(
                    filters, size, use_bias=False, kernel_initializer=initializer, name=f"{PREFIX}conv_{index}"
                ),
                keras.layers.BatchNormalization(scale=False, name=f"{PREFIX}norm_{index}"),
                keras.layers.ReLU(name=f"{PREFIX}relu_{index}"),
            ]
        )
        for layer in layers[-3:]:
            x = layer(x)
        return x

    side = min(maps.shape[1], maps.shape[2])
    pool = min(5, side)
    x = keras.layers.AveragePooling2D(pool, strides=min(3, pool), name=f"{PREFIX}pool")(maps)
    x = convolution(x, 128, 1, 0)
    x = convolution(x, 768, min(5, x.shape[1], x.shape[2]), 1)
    x = keras.layers.GlobalAveragePooling2D(name=f"{PREFIX}mean", dtype="float32")(x)
    outputs: dict[str, keras.KerasTensor] = {}
    for index, marker in enumerate(markers):
        for offset, suffix in enumerate(("_logit", "_log_cells")):
            initializer = keras.initializers.TruncatedNormal(stddev=0.001, seed=seed * 1009 + 800 + 2 * index + offset)
            name = f"{PREFIX}{marker.value}{suffix}"
            layers.append(keras.layers.Dense(1, kernel_initializer=initializer, name=name, dtype="float32"))
            outputs[name] = keras.ops.squeeze(layers[-1](x), -1)
    return tuple(layers), outputs
