"""What is minimised: the likelihood of the value, and the Poisson likelihood of the n tumour cells of a crop.

A ratio is k of n cells, so its natural loss is the binomial log-likelihood: the cross-entropy between k/n and the
prediction, weighted by n. n is capped, so that no crowded crop rules a batch. A count is a number of cells in a known
area, so its natural loss is the Poisson log-likelihood; every crop has the same area, and so the same exposure.
Intensities are a multinomial: the binomial of stained cells, and the intensities among them.
"""

from __future__ import annotations

import tensorflow as tf


def crop_weights(cells: tf.Tensor, trusted: tf.Tensor, min_cells: int, max_cells: int) -> tf.Tensor:
    """float32, same shape: min(n, max_cells) · trusted, and 0 below min_cells.

    `cells`: float32, n ≥ 0 of each crop; `trusted`: float32, the tile's ratio weight (`label/weight`).
    """
    enough = tf.cast(cells >= min_cells, tf.float32)
    return tf.minimum(cells, float(max_cells)) * enough * trusted


def ratio_loss_sum(logit: tf.Tensor, positive: tf.Tensor, cells: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """float32 scalar: Σ weight · cross-entropy(k/n, sigmoid(logit)); divide by the weight sum of the whole batch."""
    target = tf.math.divide_no_nan(positive, cells)
    return tf.reduce_sum(weights * tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=logit))


def intensity_loss_sum(logits: tf.Tensor, counted: tf.Tensor, cells: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """float32 scalar: Σ weight · (s/n) · cross-entropy of 1+, 2+ and 3+ among the s stained ones of n cells.

    With `ratio_loss_sum` of the same weights this is Σ weight · cross-entropy of the four intensities of all n cells:
    over 0, 1+, 2+, 3+ in two factors. `logits`: float32[B, 3] unnormalised logarithms; `counted`:
    float32[B, 3] cells, 0 where they are not known; `cells`, `weights`: float32[B].
    """
    lost = -tf.reduce_sum(counted * tf.nn.log_softmax(logits), axis=1)
    return tf.reduce_sum(weights * tf.math.divide_no_nan(lost, cells))


def cells_loss_sum(log_cells: tf.Tensor, cells: tf.Tensor, usable: tf.Tensor) -> tf.Tensor:
    """float32 scalar: Σ usable · (λ − n·log λ), λ = exp(log_cells): the Poisson negative log-likelihood up to n!."""
    log_rate = tf.clip_by_value(log_cells, -9.0, 9.0)
    # outside the range the clipped value has no gradient; the pull back keeps such a start from being stuck
    strayed = tf.square(log_cells - log_rate)
    return tf.reduce_sum(usable * (tf.exp(log_rate) - cells * log_rate + strayed))


def count_loss_sum(log_rate: tf.Tensor, counted: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """float32 scalar ≥ 0: Σ weight · (λ − k + k·log(k/λ)), half the Poisson deviance of k counted cells.

    The same gradient as the likelihood's; 0 where every count is met, so that losses can be compared by their ratio.
    """
    least = tf.math.xlogy(counted, counted) - counted
    return cells_loss_sum(log_rate, counted, weights) + tf.reduce_sum(weights * least)


def safe_denominator(total: tf.Tensor) -> tf.Tensor:
    """`total`, or 1 where it is 0: a batch without any trusted label has loss and gradient 0, not NaN."""
    return tf.where(total > 0, total, tf.ones_like(total))
