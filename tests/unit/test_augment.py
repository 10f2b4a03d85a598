"""Augmentation keeps what the label depends on, and its colour changes are bounded."""

import numpy as np
import pytest
import tensorflow as tf

from virtual_stain.config import AugmentSettings
from virtual_stain.dataset.augment import augment, perturb_channels

CROP = tf.constant(np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8))
GEOMETRY = AugmentSettings(channel_gain=0.0, channel_shift=0.0)


def seed(n):
    return tf.constant([7, n], tf.int64)


def orientations(image):
    turned = [np.rot90(image, k) for k in range(4)]
    return [t.tobytes() for t in turned] + [np.ascontiguousarray(t[:, ::-1]).tobytes() for t in turned]


def test_all_eight_orientations_and_nothing_else():
    allowed = orientations(CROP.numpy())
    seen = {augment(CROP, seed(n), GEOMETRY).numpy().tobytes() for n in range(80)}
    assert seen == set(allowed)


def test_switched_off_it_is_the_identity():
    off = AugmentSettings(flip=False, quarter_turns=False, channel_gain=0.0, channel_shift=0.0)
    np.testing.assert_array_equal(augment(CROP, seed(0), off), CROP)


def test_the_same_seed_gives_the_same_crop():
    settings = AugmentSettings()
    np.testing.assert_array_equal(augment(CROP, seed(5), settings), augment(CROP, seed(5), settings))
    assert not np.array_equal(augment(CROP, seed(5), settings), augment(CROP, seed(6), settings))


@pytest.mark.parametrize("n", range(20))
def test_colour_is_bounded_channel_by_channel(n):
    gain, shift = 0.2, 0.03
    changed = perturb_channels(CROP, seed(n), gain, shift).numpy().astype(float)
    x = CROP.numpy() / 255.0
    low = 255 * np.clip(x ** (1 + gain) - shift, 0, 1)
    high = 255 * np.clip(x ** (1 - gain) + shift, 0, 1)
    assert (changed >= low - 0.51).all()
    assert (changed <= high + 0.51).all()
    for c in range(3):  # a function of the level alone: order within a channel stays
        order = np.argsort(CROP.numpy()[..., c].ravel(), kind="stable")
        assert (np.diff(changed[..., c].ravel()[order]) >= 0).all()


def test_gain_leaves_white_and_black_where_they_are():
    ends = tf.constant([[[0, 0, 0], [255, 255, 255]]], tf.uint8)
    for n in range(5):
        np.testing.assert_array_equal(perturb_channels(ends, seed(n), 0.5, 0.0), ends)
