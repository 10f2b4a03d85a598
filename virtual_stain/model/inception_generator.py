"""The large trunk of the generator: InceptionV3 up to its grid of stride 16, and a decoder. For training on a GPU.

The published network pads nothing, so its grids are no parts of each other, and lie otherwise in every window. Here the
same layers pad: the grids of stride 4, 8 and 16 begin at the same edge, and a place is the same in every window. The
shapes of the kernels stay, and so do the published weights. Later blocks see further than any halo that can be paid.
"""

from __future__ import annotations

import dataclasses

import keras

from virtual_stain.config.training import ModelSettings
from virtual_stain.model.generator_layers import Doubled, convolved
from virtual_stain.model.weights import load_backbone_weights

END = "mixed3"
INCEPTION_HALO_PX = 128
"""No place depends on anything further away; a multiple of the grid of windows."""
_HALF = "mixed2"  # stride 8
_SMALLEST_PX = 75  # of InceptionV3 without padding


def inception_trunk() -> keras.Model:
    """float[B, h, w, 3] in −1…1 → [B, h/4, w/4, 48]; h and w are multiples of 16. Random weights.

    Its first layers are those of InceptionV3, in their order: see `load_inception_weights`.
    """
    padded = keras.models.clone_model(_published(), clone_function=_padded)
    fine, half, coarse = padded.outputs
    x = convolved(coarse, 96, 1, "deep")
    x = Doubled(2, interpolation="bilinear", name="up_to_half")(x)
    x = convolved(keras.layers.Concatenate(name="skip_half")([x, half]), 64, 1, "middle")
    x = Doubled(2, interpolation="bilinear", name="up_to_fine")(x)
    x = convolved(keras.layers.Concatenate(name="skip_fine")([x, fine]), 48, 1, "joined")
    return keras.Model(padded.inputs, convolved(x, 48, 1, "last"), name="inception_generator")


def load_inception_weights(trunk: keras.Model, settings: ModelSettings) -> None:
    """Sets the weights of InceptionV3 that `settings.weights` names; the decoder keeps its own. Raises ModelError."""
    if settings.weights == "none":
        return
    published = _published()
    side = max(settings.crop_px, _SMALLEST_PX)
    load_backbone_weights(published, dataclasses.replace(settings, path="direct", trunk_end=END, crop_px=side))
    for given, own in zip(_weighted(published), _weighted(trunk), strict=False):  # the decoder's come after
        own.set_weights(given.get_weights())


def _published() -> keras.Model:
    """InceptionV3 as it was published, for windows of any size → its grids of stride 4, 8 and 16."""
    whole = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(None, None, 3))
    pools = [layer for layer in whole.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    outputs = [pools[1].input, whole.get_layer(_HALF).output, whole.get_layer(END).output]
    return keras.models.clone_model(keras.Model(whole.inputs, outputs, name=whole.name))


def _padded(layer: keras.layers.Layer) -> keras.layers.Layer:
    config = layer.get_config()
    if "padding" in config:
        config["padding"] = "same"
    return layer.__class__.from_config(config)


def _weighted(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if layer.weights]
