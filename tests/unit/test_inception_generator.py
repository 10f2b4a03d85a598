"""The large trunk of the generator: shapes, no seams, and the published weights in the layers that they belong to."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from virtual_stain.config import ModelSettings
from virtual_stain.errors import ConfigError
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.model import inception_generator as module
from virtual_stain.model.build import BuildOptions, Network
from virtual_stain.model.generator import GRID_PX, build_generator, require_generator
from virtual_stain.model.inception_generator import INCEPTION_HALO_PX
from virtual_stain.model.value import value_output

MPP = 0.6
GIVEN: list[keras.Model] = []


@pytest.fixture(scope="module")
def network() -> Network:
    """With the weights of a network of the published shape."""
    settings = ModelSettings(path="indirect", generator="inception", weights="a file", crop_px=64)
    options = BuildOptions(seed=3, value=value_output(ValueDefinition.POSITIVE_RATIO, 64, MPP))

    def load(published: keras.Model, asked: ModelSettings) -> None:
        assert (asked.weights, asked.trunk_end, asked.kind) == ("a file", "mixed3", "inception_v3")
        GIVEN.append(published)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_backbone_weights", load)
        return build_generator(settings, (Marker.KI67,), options)


def test_the_published_weights_lie_in_the_layers_that_they_belong_to(network: Network) -> None:
    trunk = network.generator.get_layer("inception_generator")
    theirs, ours = ([x for x in m.layers if x.weights] for m in (GIVEN[0], trunk))
    for given, own in zip(theirs, ours, strict=False):
        assert type(given) is type(own)
        for a, b in zip(given.get_weights(), own.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(ours) == len(theirs) + 2 * 4, "the decoder: four convolutions and what normalises them"


def test_its_maps_have_no_seams_and_its_card_the_halo(network: Network) -> None:
    assert network.geometry.halo_px >= INCEPTION_HALO_PX
    assert INCEPTION_HALO_PX % GRID_PX == 0
    side, halo, first = 32, INCEPTION_HALO_PX, INCEPTION_HALO_PX // 4
    slide = np.random.default_rng(1).integers(0, 256, (1, side + 16 + 2 * halo, side + 2 * halo, 3), np.uint8)
    maps = {name: values.numpy() for name, values in network.generator(slide).items()}
    assert maps["dab"].shape == (1, slide.shape[1] // 4, slide.shape[2] // 4)
    for name, values in network.generator(slide[:, 16:]).items():
        own = values.numpy()[:, first : first + side // 4, first : first + side // 4]
        whole = maps[name][:, first + 4 : first + 4 + side // 4, first : first + side // 4]
        np.testing.assert_allclose(own, whole, rtol=1e-4, atol=1e-4)


def test_no_place_sees_beyond_the_halo(network: Network) -> None:
    trunk = network.generator.get_layer("inception_generator")
    size = 2 * INCEPTION_HALO_PX + 32
    middle = size // 4 // 2
    pixels = tf.constant(np.random.default_rng(2).uniform(-1, 1, (1, size, size, 3)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        answer = tf.reduce_sum(trunk(pixels, training=False)[0, middle, middle])
    seen = np.argwhere(np.abs(tape.gradient(answer, pixels).numpy()[0]).sum(axis=-1) > 0)
    place = np.array([middle * 4, middle * 4])
    reach = max((place - seen.min(axis=0)).max(), (seen.max(axis=0) - (place + 3)).max())
    assert 64 < reach <= INCEPTION_HALO_PX


def test_only_this_generator_takes_weights() -> None:
    for kind, fits in (("inception", True), ("small", False)):
        settings = ModelSettings(path="indirect", generator=kind, weights="imagenet", crop_px=64)
        if fits:
            require_generator((Marker.KI67,), settings, MPP, 0.75)
        else:
            with pytest.raises(ConfigError, match="no pre-trained weights"):
                require_generator((Marker.KI67,), settings, MPP, 0.75)
