"""InceptionV3 that ends after a mixed block: the same weights, the same places, and everything behind follows."""

import dataclasses

import keras
import numpy as np
import pytest

from virtual_stain.config import ModelSettings
from virtual_stain.errors import ModelError
from virtual_stain.markers import Marker
from virtual_stain.model.build import BuildOptions, build_network
from virtual_stain.model.trunk import build_backbone, map_geometry, trunk_of
from virtual_stain.model.weights import load_backbone_weights

CROP_PX = 80


def settings(trunk_end="mixed0", **changes):
    return ModelSettings(weights="none", crop_px=CROP_PX, trunk_end=trunk_end, dropout=0.0, **changes)


@pytest.fixture(scope="module")
def whole():
    """The whole network with weights that are nobody's starting weights."""
    model = build_backbone(settings("mixed10"))
    rng = np.random.default_rng(5)
    model.set_weights([w + rng.normal(0, 0.01, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(1).uniform(-1, 1, (2, CROP_PX, CROP_PX, 3)).astype(np.float32)


@pytest.mark.parametrize(("end", "parameters"), [("mixed0", 429_440), ("mixed2", 993_056), ("mixed7", 8_975_264)])
def test_the_trunk_answers_what_the_whole_network_has_there(whole, picture, end, parameters):
    part = trunk_of(whole, settings(end))
    there = keras.Model(whole.inputs, whole.get_layer(end).output)
    np.testing.assert_allclose(part(picture), there(picture), rtol=1e-5, atol=1e-6)
    assert part.count_params() == parameters


@pytest.mark.parametrize("saved", ["mixed10", "mixed2"])
def test_a_file_of_the_whole_network_or_of_the_same_part_fills_the_part(whole, picture, saved, tmp_path):
    """Keras matches layers by their place, so a file of the whole network would fill the part with other layers."""
    path = tmp_path / "start.weights.h5"
    trunk_of(whole, settings(saved)).save_weights(path)
    target = build_backbone(settings("mixed2"))
    load_backbone_weights(target, dataclasses.replace(settings("mixed2"), weights=str(path)))
    there = keras.Model(whole.inputs, whole.get_layer("mixed2").output)
    np.testing.assert_allclose(target(picture), there(picture), rtol=1e-5, atol=1e-6)


def test_a_file_of_another_part_is_refused(whole, tmp_path):
    path = tmp_path / "short.weights.h5"
    trunk_of(whole, settings("mixed0")).save_weights(path)
    with pytest.raises(ModelError, match="short"):
        load_backbone_weights(
            build_backbone(settings("mixed2")), dataclasses.replace(settings("mixed2"), weights=str(path))
        )


@pytest.mark.parametrize("end", ["mixed0", "mixed3"])
def test_the_places_lie_where_the_geometry_says(end):
    """What a place sees, found by changing single pixels and looking which places answer otherwise."""
    crop_px = 160 if end == "mixed3" else 128
    backbone = build_backbone(dataclasses.replace(settings(end), crop_px=crop_px))
    geometry = map_geometry(backbone)
    assert geometry.places == int(backbone.output.shape[1])
    place = geometry.places // 2
    centre = geometry.first_centre_px + place * geometry.stride_px  # between pixel centre − ½ and + ½
    first, last = centre - geometry.receptive_field_px / 2, centre + geometry.receptive_field_px / 2 - 1
    ground = np.random.default_rng(0).uniform(-1, 1, (1, crop_px, crop_px, 3)).astype(np.float32)
    inside = [p for p in (int(first), int(last)) if 0 <= p < crop_px]
    outside = [p for p in (int(first) - 1, int(last) + 1) if 0 <= p < crop_px]
    before = backbone(ground).numpy()[0, place, place]
    for rows, seen in ((inside, True), (outside, False)):
        for row in rows:
            changed = ground.copy()
            changed[0, row] = 4.0 - changed[0, row]  # the whole row: any of its pixels may count
            assert bool(np.abs(backbone(changed).numpy()[0, place, place] - before).max() > 0) is seen, (row, seen)


@pytest.mark.parametrize("head", ["pooled", "dense"])
def test_the_network_is_built_on_it_and_knows_its_geometry(head):
    network = build_network(settings("mixed0", head=head), (Marker.KI67,), BuildOptions())
    assert network.features.output_shape == (None, 256)
    assert network.geometry.stride_px == 8
    assert network.geometry.receptive_field_px == 63
    assert network.geometry.halo_px == 31
    if head == "dense":
        side = network.geometry.places
        assert network.dense(np.zeros((1, CROP_PX, CROP_PX, 3), np.uint8))["ki67_map"].shape == (1, side, side)


def test_settings_that_have_no_sense_together_are_refused():
    with pytest.raises(ValueError, match=r"trunk_end: expected one of|trunk_end"):
        settings("mixed11")
    with pytest.raises(ValueError, match="trunk_end"):
        ModelSettings(kind="small_cnn", weights="none", crop_px=32, trunk_end="mixed2")
    with pytest.raises(ValueError, match="auxiliary_head"):
        settings("mixed7", auxiliary_head=True)
    settings("mixed8", auxiliary_head=True)
