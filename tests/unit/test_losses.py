"""The likelihoods, against their definitions and at their edges."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from virtual_stain.model.losses import cells_loss_sum, crop_weights, ratio_loss_sum, safe_denominator

K = np.array([0.0, 3.0, 10.0, 40.0], np.float32)
N = np.array([12.0, 10.0, 40.0, 40.0], np.float32)


def test_weights_are_capped_zero_below_ten_cells_and_zero_without_trust():
    cells = tf.constant([0.0, 9.0, 10.0, 150.0, 400.0, 400.0])
    trusted = tf.constant([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    assert crop_weights(cells, trusted, 10, 200).numpy().tolist() == [0, 0, 10, 150, 200, 0]


def test_weighted_by_n_it_is_the_binomial_likelihood():
    """Up to the binomial coefficient, which no prediction changes."""
    z = np.array([-1.0, 0.5, -1.1, 3.0], np.float32)
    loss = float(ratio_loss_sum(tf.constant(z), tf.constant(K), tf.constant(N), tf.constant(N)))
    p = 1 / (1 + np.exp(-z.astype(float)))
    likelihood = scipy.stats.binom.logpmf(K, N, p).sum()
    constant = scipy.stats.binom.logpmf(K, N, K / N).sum()
    entropy = -sum(n * (q * np.log(q) if q else 0) + n * ((1 - q) * np.log(1 - q) if q < 1 else 0)
                   for n, q in zip(N.astype(float), (K / N).astype(float), strict=True))  # fmt: skip
    assert loss == pytest.approx(constant - likelihood + entropy, rel=1e-5)


def test_its_gradient_vanishes_at_the_ratio():
    z = tf.Variable(np.log([3 / 7, 1 / 3]).astype(np.float32))
    with tf.GradientTape() as tape:
        loss = ratio_loss_sum(z, tf.constant([3.0, 10.0]), tf.constant([10.0, 40.0]), tf.constant([10.0, 40.0]))
    np.testing.assert_allclose(tape.gradient(loss, z), 0, atol=1e-5)


def test_a_crop_without_cells_changes_nothing_and_is_no_nan():
    z = tf.Variable([4.0])
    with tf.GradientTape() as tape:
        loss = ratio_loss_sum(z, tf.constant([0.0]), tf.constant([0.0]), tf.constant([0.0]))
    assert float(loss) == 0
    assert float(tape.gradient(loss, z)[0]) == 0


def test_the_cells_loss_is_poisson_up_to_a_constant():
    log_rate = np.array([1.0, 2.0, 3.5, 4.0], np.float32)
    loss = float(cells_loss_sum(tf.constant(log_rate), tf.constant(N), tf.ones(4)))
    expected = -scipy.stats.poisson.logpmf(N, np.exp(log_rate.astype(float))).sum()
    constant = scipy.special.gammaln(N.astype(float) + 1).sum()
    assert loss == pytest.approx(expected - constant, rel=1e-5)


def test_unusable_counts_and_wild_starts():
    loss = cells_loss_sum(tf.constant([2.0, 50.0]), tf.constant([5.0, 5.0]), tf.constant([1.0, 0.0]))
    assert float(loss) == pytest.approx(np.exp(2) - 10, rel=1e-5)
    z = tf.Variable([60.0])
    with tf.GradientTape() as tape:
        wild = cells_loss_sum(z, tf.constant([5.0]), tf.constant([1.0]))
    assert np.isfinite(float(wild))
    assert float(tape.gradient(wild, z)[0]) > 0  # it is pulled back


def test_a_batch_without_weight_divides_by_one():
    assert float(safe_denominator(tf.constant(0.0))) == 1
    assert float(safe_denominator(tf.constant(7.0))) == 7
