"""What the densities of the indirect path learn from: sections that are neighbours and share no cell.

No pixel of the IHC tile belongs to the nucleus of the H&E tile above it. What both sections share is how much stain
there is in a window that is wide against the registration error. So densities are compared as means over windows, with
a squared error: its minimum is the mean. (An absolute error has its minimum at the median, which is 0.7 to 0.8 of the
mean where cells are positive.)
"""

from __future__ import annotations

import tensorflow as tf

WINDOWS_UM = (38.4, 76.8, 153.6)
"""Sides of the windows that densities are averaged over."""
_WIDER_THAN_ERROR = 4.0  # a window's side over the 95th percentile of the tile's registration error


def density_loss_sum(
    predicted: tf.Tensor, target: tf.Tensor, weight: tf.Tensor, error_p95_um: tf.Tensor, crop_um: float
) -> tf.Tensor:
    """Σ over crops of weight · mean over windows and both stains of the squared difference of means; a scalar.

    `predicted`, `target`: float32[B, h, w, 2], h = w; `weight`, `error_p95_um`: float32[B]. A window counts where its
    side is at least four times the crop's `error_p95_um`; a crop that no window is wide enough for counts nothing.
    """
    places = int(predicted.shape[1])
    total, used = tf.zeros_like(weight), tf.zeros_like(weight)
    for window_um in (*(w for w in WINDOWS_UM if w < 0.75 * crop_um), crop_um):
        parts = max(1, round(crop_um / window_um))
        if places % parts:
            continue
        size = places // parts
        difference = tf.nn.avg_pool2d(predicted - target, size, size, "VALID")
        wide = tf.cast(window_um * 1.001 >= _WIDER_THAN_ERROR * error_p95_um, tf.float32)  # NaN: no
        total += wide * tf.reduce_mean(tf.square(difference), axis=(1, 2, 3))
        used += wide
    return tf.reduce_sum(weight * total / tf.maximum(used, 1.0))
