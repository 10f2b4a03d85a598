"""The network: its outputs, its starting point, and what it is built from."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from virtual_stain.config import ModelSettings
from virtual_stain.errors import ConfigError
from virtual_stain.markers import Marker
from virtual_stain.model.build import BuildOptions, build_network, constant_outputs, set_starting_outputs
from virtual_stain.model.precision import layers_in, resolve_precision

SMALL = ModelSettings(kind="small_cnn", weights="none", crop_px=32)
CROPS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
MARKERS = (Marker.KI67, Marker.ER)


def test_outputs_are_named_float32_and_in_range():
    network = build_network(SMALL, MARKERS, BuildOptions())
    out = network.model(CROPS)
    assert list(out) == ["ki67", "ki67_tumour_cells", "er", "er_tumour_cells"]
    for name, values in out.items():
        assert values.dtype == tf.float32
        assert values.shape == (4,)
        assert (values >= 0).numpy().all()
        assert name.endswith("cells") or (values <= 1).numpy().all()


def test_bfloat16_computes_and_answers_in_float32():
    network = build_network(SMALL, MARKERS[:1], BuildOptions(precision="mixed_bfloat16"))
    assert network.model.get_layer("small_cnn").get_layer("conv_1").compute_dtype == "bfloat16"
    assert {v.dtype for v in network.model(CROPS).values()} == {tf.float32}
    assert {str(v.dtype) for v in network.model.trainable_variables} == {"float32"}
    assert keras.config.dtype_policy().name == "float32", "the global policy is put back"


def test_the_policy_is_put_back_after_an_error():
    with pytest.raises(ZeroDivisionError), layers_in("mixed_bfloat16"):
        raise ZeroDivisionError
    assert keras.config.dtype_policy().name == "float32"


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    one, same, other = (build_network(SMALL, MARKERS, BuildOptions(seed=s)).model.get_weights() for s in (1, 1, 2))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_the_first_prediction_is_the_mean_of_the_training_set():
    network = build_network(SMALL, MARKERS, BuildOptions())
    set_starting_outputs(
        network, constant_outputs({Marker.KI67: 0.2, Marker.ER: 0.0}, {Marker.KI67: 17.0, Marker.ER: 0.0})
    )
    out = {k: v.numpy() for k, v in network.model(CROPS).items()}
    np.testing.assert_allclose(out["ki67"], 0.2, atol=0.01)
    np.testing.assert_allclose(out["ki67_tumour_cells"], 17, rtol=0.05)
    assert (out["er"] < 0.01).all()
    assert np.isfinite(out["er_tumour_cells"]).all()


def test_scaling_is_inside():
    """The same picture as uint8 must go through −1…1, not through 0…255."""
    network = build_network(SMALL, MARKERS[:1], BuildOptions())
    scale = network.model.get_layer("scale_to_one")
    assert float(scale(np.uint8([[[[0]]]]))[0, 0, 0, 0]) == pytest.approx(-1)
    assert float(scale(np.uint8([[[[255]]]]))[0, 0, 0, 0]) == pytest.approx(1)


def test_frozen_batch_norm_keeps_its_statistics_while_training():
    settings = ModelSettings(kind="small_cnn", weights="some.h5", crop_px=32)
    network = build_network(settings, MARKERS[:1], BuildOptions(freeze_batch_norm=True, load_weights=False))
    before = [w.numpy() for w in network.model.non_trainable_variables]
    network.model(CROPS, training=True)
    for w, b in zip(network.model.non_trainable_variables, before, strict=True):
        if "seed" not in w.path:
            np.testing.assert_array_equal(w.numpy(), b)


def test_fine_tuning_from_random_weights_is_refused():
    with pytest.raises(ConfigError, match="random weights"):
        build_network(SMALL, MARKERS, BuildOptions(freeze_batch_norm=True))


def test_batch_norm_momentum_reaches_every_layer():
    settings = ModelSettings(kind="small_cnn", weights="none", crop_px=32, batch_norm_momentum=0.8)
    backbone = build_network(settings, MARKERS, BuildOptions()).model.get_layer("small_cnn")
    found = [layer.momentum for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert found == [0.8] * 4


def test_inception_v3_takes_uint8_and_has_its_size():
    """21.8 million weights and 2048 features: it is the network of the literature, without its classifier."""
    network = build_network(ModelSettings(weights="none", crop_px=75), MARKERS[:1], BuildOptions())
    assert network.model.input_shape == (None, 75, 75, 3)
    assert network.features.output_shape == (None, 2048)
    assert network.model.get_layer("inception_v3").count_params() == 21_802_784


def test_automatic_precision_follows_the_processor(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("flags : fpu avx512f amx_bf16 amx_tile\n")
    assert resolve_precision("auto", info) == "mixed_bfloat16"
    info.write_text("flags : fpu avx512f avx512_bf16\n")
    assert resolve_precision("auto", info) == "float32"
    assert resolve_precision("auto", tmp_path / "missing") == "float32"
    assert resolve_precision("float32", info) == "float32"
