"""Starting weights: a file that Keras saved, a wrong one, and no internet."""

import time

import keras
import numpy as np
import pytest

from virtual_stain.config import ModelSettings
from virtual_stain.errors import ModelError
from virtual_stain.model import weights
from virtual_stain.model.small_cnn import small_cnn
from virtual_stain.model.weights import imagenet_cache, load_backbone_weights


def settings(path):
    return ModelSettings(kind="small_cnn", weights=str(path), crop_px=32)


@pytest.mark.parametrize("name", ["ordner mit Lücke.weights.h5"])
def test_a_file_that_keras_saved_is_loaded_exactly(tmp_path, name):
    source = small_cnn(32)
    for w in source.weights:
        w.assign(np.random.default_rng(1).normal(size=w.shape))
    source.save_weights(tmp_path / name)
    target = small_cnn(64)  # convolutions do not care for the size of the crop
    load_backbone_weights(target, settings(tmp_path / name))
    for a, b in zip(source.get_weights(), target.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_of_another_network_are_refused_with_the_file(tmp_path):
    other = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, name="dense")])
    path = tmp_path / "other.weights.h5"
    other.save_weights(path)
    with pytest.raises(ModelError, match=r"other\.weights\.h5: (these weights do not fit small_cnn|it holds no)"):
        load_backbone_weights(small_cnn(32), settings(path))


def test_a_file_that_holds_a_part_of_the_network_is_refused(tmp_path):
    """Keras 3 skips what a file lacks with a warning; half-random weights must not pass for pre-trained ones."""
    inputs = keras.Input((32, 32, 3))
    part = keras.Model(inputs, keras.layers.Conv2D(16, 3, strides=2, use_bias=False, name="conv_0")(inputs))
    path = tmp_path / "part.weights.h5"
    part.save_weights(path)
    with pytest.raises(ModelError, match=r"part\.weights\.h5: (it holds no weights for|these weights do not fit)"):
        load_backbone_weights(small_cnn(32), settings(path))


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", None])
def test_a_file_that_is_no_weights_file(tmp_path, content):
    path = tmp_path / "x.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.h5: (expected a weights file|model\.weights names a file that)"):
        load_backbone_weights(small_cnn(32), settings(path))


def test_imagenet_weights_exist_for_inception_alone():
    with pytest.raises(ModelError, match="there are none"):
        load_backbone_weights(small_cnn(32), settings("imagenet"))


def test_offline_fails_at_once_and_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError("no route to host")

    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(weights.socket, "create_connection", refused)
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        load_backbone_weights(small_cnn(32), ModelSettings(crop_px=75))
    assert time.monotonic() - start < 2
    text = str(caught.value)
    assert caught.value.exit_code == 5
    assert weights.IMAGENET_URL in text
    assert str(tmp_path / "models") in text
    assert str(imagenet_cache()) in text
    assert 'weights = "/path/to/' in text


def test_a_download_that_breaks_off_is_the_same_sentence(tmp_path, monkeypatch):
    def broken(**kwargs):
        raise Exception("URL fetch failure on https://…: None -- timed out")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "_reachable", lambda: True)
    monkeypatch.setattr(weights.keras.applications, "InceptionV3", broken)
    with pytest.raises(ModelError, match="timed out"):
        load_backbone_weights(small_cnn(80), ModelSettings(crop_px=80))
    assert weights.socket.getdefaulttimeout() is None
