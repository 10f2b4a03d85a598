"""Changes of a training crop that leave its label as it is: mirror, quarter turns, stain, light, blur, JPEG.

They run on whole batches inside the training graph (on a GPU they cost nothing there), and everything random comes from
numbers that travel with the crop: a resumed run sees what an undisturbed one would have seen.

Stain: Beer–Lambert. Optical density is additive in the stains, so haematoxylin and eosin are made stronger or weaker by
a 3 × 3 matrix on it (vectors of Ruifrok and Johnston 2001), and what neither explains stays; white stays white.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from virtual_stain.config.training import AugmentSettings

N_DRAWS = 16
"""Uniform numbers in 0…1 a crop; which one means what stands below."""
_MIRROR, _TURN, _HEMATOXYLIN, _EOSIN, _GAIN, _SHIFT, _BRIGHT, _CONTRAST = 0, 1, 2, 3, 4, 7, 10, 11
_BLUR, _BLUR_AMOUNT, _JPEG, _JPEG_QUALITY = 12, 13, 14, 15
_STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
_UNMIX = np.linalg.pinv(_STAINS)


def augment(crops: tf.Tensor, draws: tf.Tensor, settings: AugmentSettings) -> tf.Tensor:
    """uint8[B, C, C, 3] RGB, float32[B, N_DRAWS] → uint8[B, C, C, 3]."""
    shape = crops.shape
    crops = orient(crops, draws, settings)
    if settings.changes_colour:
        crops = _colour(crops, draws, settings)
    if settings.blur_px > 0:
        crops = _blur(crops, draws, settings)
    if settings.jpeg_quality_min < 100:
        crops = _jpeg(crops, draws, settings)
    return tf.ensure_shape(crops, shape)


def orient(maps: tf.Tensor, draws: tf.Tensor, settings: AugmentSettings) -> tf.Tensor:
    """[B, C, C, channels] → the same, mirrored and turned as `augment` does with the crops of these draws."""
    if settings.flip:
        maps = _where(draws[:, _MIRROR] < 0.5, tf.reverse(maps, [2]), maps)
    if settings.quarter_turns:
        quarters = tf.cast(tf.floor(4 * draws[:, _TURN]), tf.int32)
        maps = _where(quarters % 2 == 1, tf.reverse(tf.transpose(maps, (0, 2, 1, 3)), [1]), maps)
        maps = _where(quarters >= 2, tf.reverse(maps, [1, 2]), maps)
    return maps


def _where(chosen: tf.Tensor, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.where(chosen[:, None, None, None], a, b)


def _spread(draw: tf.Tensor, amount: float) -> tf.Tensor:
    """0…1 → −amount…amount."""
    return amount * (2.0 * draw - 1.0)


def od_matrix(draws: tf.Tensor, settings: AugmentSettings) -> tf.Tensor:
    """float32[B, 3, 3]: optical density of a pixel, a row of three, is multiplied by it from the right."""
    unmix, stains = tf.constant(_UNMIX, tf.float32), tf.constant(_STAINS, tf.float32)
    change = tf.stack(
        [
            _spread(draws[:, _HEMATOXYLIN], settings.hematoxylin_gain),
            _spread(draws[:, _EOSIN], settings.eosin_gain),
        ],
        axis=1,
    )
    stained = tf.eye(3) + tf.einsum("cs,bs,sd->bcd", unmix, change, stains)
    return stained * (1.0 + _spread(draws[:, None, _GAIN : _GAIN + 3], settings.channel_gain))


def _colour(crops: tf.Tensor, draws: tf.Tensor, settings: AugmentSettings) -> tf.Tensor:
    """Stain and channel gain in optical density, then contrast and brightness of the transmitted light."""
    light = tf.cast(crops, tf.float32)
    # no 0 inside a logarithm; 255 is density 0 exactly
    density = -tf.math.log(tf.maximum(light, 1.0) / 255.0)
    batch = tf.shape(crops)[0]
    flat = tf.matmul(tf.reshape(density, (batch, -1, 3)), od_matrix(draws, settings))
    light = 255.0 * tf.exp(-tf.reshape(flat, tf.shape(light)))
    if settings.contrast > 0:
        middle = tf.reduce_mean(light, axis=(1, 2, 3), keepdims=True)
        light = middle + (light - middle) * (1.0 + _spread(draws[:, _CONTRAST, None, None, None], settings.contrast))
    if settings.brightness > 0 or settings.channel_shift > 0:
        moved = _spread(draws[:, None, None, _SHIFT : _SHIFT + 3], settings.channel_shift)
        light += 255.0 * (moved + _spread(draws[:, _BRIGHT, None, None, None], settings.brightness))
    return _to_uint8(light)


def _blur(crops: tf.Tensor, draws: tf.Tensor, settings: AugmentSettings) -> tf.Tensor:
    """Between sharp and a Gaussian of sigma `blur_px`, for some crops: a weighted mean of the two pictures."""
    radius = max(1, round(2 * settings.blur_px))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / settings.blur_px) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    light = tf.cast(crops, tf.float32)
    padded = tf.pad(light, [[0, 0], [radius, radius], [radius, radius], [0, 0]], mode="REFLECT")
    for shape in ((-1, 1), (1, -1)):
        kernel = tf.constant(np.repeat(taps.reshape(*shape, 1, 1), 3, axis=2))
        padded = tf.nn.depthwise_conv2d(padded, kernel, strides=[1, 1, 1, 1], padding="VALID")
    share = tf.where(draws[:, _BLUR] < settings.blur_share, draws[:, _BLUR_AMOUNT], 0.0)[:, None, None, None]
    return _to_uint8(light + share * (padded - light))


def _jpeg(crops: tf.Tensor, draws: tf.Tensor, settings: AugmentSettings) -> tf.Tensor:
    low = settings.jpeg_quality_min
    quality = tf.cast(low + tf.floor((100 - low) * draws[:, _JPEG_QUALITY]), tf.int32)
    chosen = draws[:, _JPEG] < settings.jpeg_share

    def one(item: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        crop, wanted, use = item
        return tf.cond(use, lambda: tf.image.adjust_jpeg_quality(crop, wanted), lambda: crop)

    with tf.device("/CPU:0"):  # the coder has no other kernel
        return tf.map_fn(one, (crops, quality, chosen), fn_output_signature=tf.TensorSpec(crops.shape[1:], tf.uint8))


def _to_uint8(light: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(tf.clip_by_value(light, 0.0, 255.0)), tf.uint8)
