"""Starting weights: ImageNet through Keras' own download and cache, or a file; offline it fails at once."""

from __future__ import annotations

import dataclasses
import os
import socket
import warnings
from pathlib import Path

import h5py
import keras

from virtual_stain.config.training import ModelSettings
from virtual_stain.errors import ModelError
from virtual_stain.model.trunk import WHOLE, build_backbone, trunk_of

_NOTOP = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
_HOST = "storage.googleapis.com"
IMAGENET_URL = f"https://{_HOST}/tensorflow/keras-applications/inception_v3/{_NOTOP}"
_PROBE_S = 5.0


def load_backbone_weights(backbone: keras.Model, settings: ModelSettings) -> None:
    """Sets the starting weights that `settings.weights` names. Raises ModelError."""
    if settings.weights == "none":
        return
    if settings.weights == "imagenet":
        _load_imagenet(backbone, settings)
    else:
        path = Path(settings.weights).expanduser()
        if settings.kind != "inception_v3" or settings.trunk_end == WHOLE or _kernels_in(path) == _kernels_of(backbone):
            _load_file(backbone, path)
            return
        # a file of the whole network: only its first part is used, and Keras would match what it can by position
        whole = build_backbone(dataclasses.replace(settings, trunk_end=WHOLE))
        _load_file(whole, path)
        backbone.set_weights(trunk_of(whole, settings).get_weights())


def imagenet_cache() -> Path:
    """Where Keras keeps the file between runs (`KERAS_HOME`, else ~/.keras)."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path("~/.keras").expanduser()) / "models" / _NOTOP


def _load_imagenet(backbone: keras.Model, settings: ModelSettings) -> None:
    if settings.kind != "inception_v3":
        raise ModelError(
            f'model.weights = "imagenet": there are none for model.kind {settings.kind!r}.',
            hint='Set model.weights = "none", or model.kind = "inception_v3".',
        )
    if not imagenet_cache().is_file() and not _reachable():
        raise _offline(f"{_HOST} does not answer within {_PROBE_S:.0f} s")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30.0)  # Keras' download has no limit of its own; a dead line must not hang the run
    try:
        source = keras.applications.InceptionV3(
            include_top=False, weights="imagenet", input_shape=backbone.input_shape[1:]
        )
    except Exception as error:  # Keras raises bare Exception when the download fails
        raise _offline(str(error)) from error
    finally:
        socket.setdefaulttimeout(timeout)
    backbone.set_weights(trunk_of(source, settings).get_weights())


def _reachable() -> bool:
    if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return True  # the proxy decides; the download's own limit applies
    try:
        with socket.create_connection((_HOST, 443), timeout=_PROBE_S):
            return True
    except OSError:
        return False


def _offline(reason: str) -> ModelError:
    return ModelError(
        f"The ImageNet weights of InceptionV3 are not on this machine and cannot be fetched: {reason}.",
        hint=(
            f"On a machine with internet: curl -LO {IMAGENET_URL}\n"
            f"    Then copy the file to {imagenet_cache()}, or anywhere and name it in the configuration:\n"
            f'    [model]\n    weights = "/path/to/{_NOTOP}"\n'
            '    Without any: weights = "none" with recipe "scratch" (random start, needs more steps).'
        ),
    )


def _kernels_of(backbone: keras.Model) -> int:
    return sum(isinstance(layer, keras.layers.Conv2D) for layer in backbone.layers)


def _kernels_in(path: Path) -> int:
    """Kernels of convolutions in a file; 0 where it is none that can be read."""
    found = 0

    def count(name: str, item: object) -> None:
        nonlocal found
        found += isinstance(item, h5py.Dataset) and item.ndim == 4

    if path.is_file() and h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            file.visititems(count)
    return found


def _load_file(backbone: keras.Model, path: Path) -> None:
    if not path.is_file():
        raise ModelError(
            f"{path}: model.weights names a file that does not exist.",
            hint='Expected "imagenet", "none" or a weights file that Keras saved (.h5 or .weights.h5).',
        )
    if path.suffix != ".h5" or not h5py.is_hdf5(path):
        raise ModelError(
            f"{path}: expected a weights file that Keras saved (HDF5, .h5 or .weights.h5). Received something else.",
            hint=f"The file of the ImageNet weights is {IMAGENET_URL}",
        )
    kernels = [layer.kernel for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    before = [k.numpy() for k in kernels]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns where it skips layers; the count below is the judge
            backbone.load_weights(path)
    except Exception as error:  # Keras raises ValueError, KeyError or OSError, whichever step the file fails at
        raise ModelError(
            f"{path}: these weights do not fit {backbone.name} without its classification layer: {error}",
            hint="Expected a file of the same network saved with include_top=False.",
        ) from error
    kept = sum(bool((k.numpy() == b).all()) for k, b in zip(kernels, before, strict=True))
    if kept:
        raise ModelError(
            f"{path}: it holds no weights for {kept} of the {len(kernels)} convolutions of {backbone.name}, and Keras "
            "would leave those random.",
            hint="Expected a file of the same network saved with include_top=False.",
        )
