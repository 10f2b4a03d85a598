"""Layers that both trunks of the generator are made of."""

from __future__ import annotations

import keras
import tensorflow as tf


def convolved(x: keras.KerasTensor, filters: int, strides: int, name: str) -> keras.KerasTensor:
    """3 × 3, normalised over the batch, without negative values."""
    x = keras.layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.BatchNormalization(name=f"{name}_norm")(x))


class Doubled(keras.layers.UpSampling2D):
    """The same, also in a graph whose windows may have any size: Keras' own asks there how large they are."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        if None not in inputs.shape[1:3]:
            return super().call(inputs)
        resized = tf.image.resize(inputs, 2 * tf.shape(inputs)[1:3], method="bilinear")
        return tf.cast(resized, inputs.dtype)
