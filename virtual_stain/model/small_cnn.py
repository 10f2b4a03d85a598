"""A few convolutions: to try a set-up, a recipe or a data folder in seconds. Not a model to read slides with."""

from __future__ import annotations

import keras


def small_cnn(crop_px: int, *, batch_norm: bool = True) -> keras.Model:
    """float[B, crop, crop, 3] in −1…1 → feature maps [B, crop/16, crop/16, 48]."""
    inputs = keras.Input((crop_px, crop_px, 3))
    x = inputs
    for index, filters in enumerate((16, 24, 32, 48)):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=not batch_norm, name=f"conv_{index}")(x)
        if batch_norm:
            x = keras.layers.BatchNormalization(name=f"norm_{index}")(x)
        x = keras.layers.ReLU(name=f"relu_{index}")(x)
    return keras.Model(inputs, x, name="small_cnn")
