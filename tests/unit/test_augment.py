"""Augmentation keeps what the label depends on, and its changes are bounded."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from virtual_stain.config import AugmentSettings
from virtual_stain.dataset.augment import N_DRAWS, augment, od_matrix

OFF = AugmentSettings(
    flip=False, quarter_turns=False, hematoxylin_gain=0.0, eosin_gain=0.0, channel_gain=0.0, channel_shift=0.0,
    brightness=0.0, contrast=0.0, blur_px=0.0, jpeg_quality_min=100,
)  # fmt: skip
CROP = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])


def only(**changes):
    return dataclasses.replace(OFF, **changes)


def many(settings, n=80, crop=CROP):
    draws = np.random.default_rng(1).uniform(size=(n, N_DRAWS)).astype(np.float32)
    return augment(tf.constant(np.stack([crop] * n)), tf.constant(draws), settings).numpy(), draws


def orientations(image):
    turned = [np.rot90(image, k) for k in range(4)]
    return [np.ascontiguousarray(t).tobytes() for t in turned] + [t[:, ::-1].copy().tobytes() for t in turned]


def test_all_eight_orientations_and_nothing_else():
    found = [c.tobytes() for c in many(only(flip=True, quarter_turns=True))[0]]
    assert set(found) == set(orientations(CROP))
    counts = [found.count(o) for o in orientations(CROP)]
    assert min(counts) >= 3, "of 80, about ten each"
    assert {c.tobytes() for c in many(only(quarter_turns=True))[0]} == set(orientations(CROP)[:4])
    assert {c.tobytes() for c in many(only(flip=True))[0]} == {CROP.tobytes(), CROP[:, ::-1].copy().tobytes()}


def test_switched_off_it_is_the_identity():
    assert not OFF.changes_colour
    for crop in many(OFF, 5)[0]:
        np.testing.assert_array_equal(crop, CROP)


def test_the_same_numbers_give_the_same_crop_whatever_stands_beside_it_in_the_batch():
    settings = AugmentSettings(jpeg_quality_min=60, jpeg_share=0.5, blur_share=0.5)
    whole, draws = many(settings, 12)
    alone = augment(tf.constant(CROP[None]), tf.constant(draws[7:8]), settings).numpy()[0]
    np.testing.assert_array_equal(alone, whole[7])
    assert len({c.tobytes() for c in whole}) == 12


def stained(hematoxylin, eosin):
    """uint8[8, 8, 3] of known optical density (log10)."""
    light = np.round(255 * 10 ** -(hematoxylin * STAINS[0] + eosin * STAINS[1]))
    return np.broadcast_to(light, (8, 8, 3)).astype(np.uint8)


def amounts(image):
    od = -np.log10(np.maximum(image.reshape(-1, 3).astype(float), 1) / 255)
    return (od @ np.linalg.pinv(STAINS)).mean(axis=0)


def test_a_gain_of_haematoxylin_leaves_eosin_alone():
    image = stained(0.35, 0.25)
    for crop, draw in zip(*many(only(hematoxylin_gain=0.3), 20, image), strict=True):
        h, e = amounts(crop)
        assert h == pytest.approx(0.35 * (1 + 0.3 * (2 * draw[2] - 1)), abs=0.01)
        assert e == pytest.approx(0.25, abs=0.01)
    for crop, draw in zip(*many(only(eosin_gain=0.3), 20, image), strict=True):
        assert amounts(crop) == pytest.approx([0.35, 0.25 * (1 + 0.3 * (2 * draw[3] - 1))], abs=0.01)


def test_white_stays_white_and_what_no_stain_explains_stays():
    settings = only(hematoxylin_gain=0.5, eosin_gain=0.5)
    white = np.full((8, 8, 3), 255, np.uint8)
    for crop in many(settings, 10, white)[0]:
        np.testing.assert_array_equal(crop, white)
    across = np.cross(STAINS[0], STAINS[1])  # a density that is neither
    matrices = od_matrix(tf.constant(np.random.default_rng(0).uniform(size=(5, N_DRAWS)).astype(np.float32)), settings)
    for matrix in matrices.numpy():
        np.testing.assert_allclose(across @ matrix, across, atol=1e-6)


def test_channel_gain_is_bounded_in_density():
    gain = 0.2
    x = np.maximum(CROP, 1) / 255.0
    for crop in many(only(channel_gain=gain), 20)[0]:
        assert (crop >= 255 * x ** (1 + gain) - 0.51).all()
        assert (crop <= 255 * x ** (1 - gain) + 0.51).all()


def test_light_is_bounded():
    grey = np.full((8, 8, 3), 128, np.uint8)
    crops = many(only(brightness=0.1, channel_shift=0.05), 50, grey)[0].astype(int)
    assert 25 <= np.abs(crops - 128).max() <= 0.15 * 255 + 1
    assert np.abs(np.diff(crops.reshape(50, -1, 3), axis=2)).max() <= 0.1 * 255 + 1
    contrast = many(only(contrast=0.2), 20)[0].astype(float)
    assert np.abs(contrast.mean(axis=(1, 2, 3)) - CROP.mean()).max() < 3, "about the mean, clipped ends aside"
    assert contrast.std(axis=(1, 2, 3)).max() > CROP.std() > contrast.std(axis=(1, 2, 3)).min()


def test_blur_is_mild_and_for_a_share():
    edge = np.zeros((32, 32, 3), np.uint8)
    edge[:, 16:] = 200
    crops = many(only(blur_px=1.0, blur_share=0.3), 200, edge)[0]
    changed = np.array([not np.array_equal(c, edge) for c in crops])
    assert 0.2 <= changed.mean() <= 0.4
    for crop in crops[changed]:
        assert (crop[:, :12] == 0).all()
        assert (crop[:, 20:] == 200).all()
        np.testing.assert_allclose(crop.mean(), edge.mean(), atol=1.5)


def test_jpeg_is_for_a_share_and_keeps_the_picture():
    smooth = np.broadcast_to(np.linspace(60, 200, 32)[None, :, None], (32, 32, 3)).astype(np.uint8)
    crops = many(only(jpeg_quality_min=50, jpeg_share=0.4), 100, smooth)[0]
    changed = np.array([not np.array_equal(c, smooth) for c in crops])
    assert 0.25 <= changed.mean() <= 0.55
    assert np.abs(crops.astype(int) - smooth).mean() < 4


def test_a_rescale_beyond_five_per_cent_is_refused():
    with pytest.raises(ValueError, match=r"rescale: expected 0 to 0\.05"):
        AugmentSettings(rescale=0.06)
