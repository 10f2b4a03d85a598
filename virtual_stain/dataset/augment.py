"""Changes of a training crop that leave its label as it is: mirror, quarter turns, colour. Never a rescale.

Everything random comes from a stateless seed (int64[2]), so that a crop is the same whenever it is drawn again: a
resumed run sees what an undisturbed one would have seen.
"""

from __future__ import annotations

import tensorflow as tf

from virtual_stain.config.training import AugmentSettings


def augment(crop: tf.Tensor, seed: tf.Tensor, settings: AugmentSettings) -> tf.Tensor:
    """uint8[C, C, 3] RGB → uint8[C, C, 3]."""
    seeds = tf.unstack(tf.random.split(seed, 3))
    if settings.flip:
        crop = _flip(crop, seeds[0])
    if settings.quarter_turns:
        crop = tf.image.rot90(crop, tf.random.stateless_uniform([], seeds[1], 0, 4, tf.int32))
    if settings.channel_gain > 0 or settings.channel_shift > 0:
        crop = perturb_channels(crop, seeds[2], settings.channel_gain, settings.channel_shift)
    return crop


def _flip(crop: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    mirrored = tf.random.stateless_uniform([], seed) < 0.5
    return tf.cond(mirrored, lambda: tf.reverse(crop, [1]), lambda: crop)


def perturb_channels(crop: tf.Tensor, seed: tf.Tensor, gain: float, shift: float) -> tf.Tensor:
    """Each channel's optical density × (1 ± gain), then its intensity ± shift · 255; bounded, uniform.

    Beer–Lambert: a stain that is thicker by a factor raises the transmitted share to that power, and white stays
    white; the shift is the scanner's. uint8[C, C, 3] → uint8[C, C, 3].
    """
    seeds = tf.unstack(tf.random.split(seed, 2))
    power = 1.0 + tf.random.stateless_uniform([3, 1], seeds[0], -gain, gain) if gain > 0 else tf.ones([3, 1])
    moved = tf.random.stateless_uniform([3, 1], seeds[1], -shift, shift) if shift > 0 else tf.zeros([3, 1])
    levels = tf.range(256, dtype=tf.float32)[None, :] / 255.0
    # 256 powers a channel instead of one a pixel
    table = tf.cast(tf.round(255.0 * tf.clip_by_value(levels**power + moved, 0.0, 1.0)), tf.uint8)
    index = tf.cast(crop, tf.int32)
    return tf.stack([tf.gather(table[c], index[..., c]) for c in range(3)], axis=-1)
