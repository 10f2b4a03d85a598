"""InceptionV3 up to a mixed block: what tells nuclei apart is tens of pixels wide, and later blocks pool it away.

trunk_end   stride  parameters      a place sees, px      128-px crop
mixed0           8   0.4 million     63                    13 × 13 places
mixed2           8   1.0 million    127                    13 × 13
mixed7          16   9.0 million    whole crop              6 × 6
mixed10         32  21.8 million    whole crop              2 × 2   (the whole network)
"""

from __future__ import annotations

from dataclasses import dataclass

import keras

from virtual_stain.config.training import ModelSettings
from virtual_stain.model.small_cnn import small_cnn

WHOLE = "mixed10"


def build_backbone(settings: ModelSettings) -> keras.Model:
    """float[B, crop, crop, 3] in −1…1 → feature maps, with random weights."""
    if settings.kind == "small_cnn":
        return small_cnn(settings.crop_px)
    shape = (settings.crop_px, settings.crop_px, 3)
    return trunk_of(keras.applications.InceptionV3(include_top=False, weights=None, input_shape=shape), settings)


def trunk_of(whole: keras.Model, settings: ModelSettings) -> keras.Model:
    """InceptionV3 up to `settings.trunk_end`, with the weights of `whole`, which it does not keep in memory."""
    if settings.trunk_end == WHOLE:
        return whole
    part = keras.Model(whole.inputs, whole.get_layer(settings.trunk_end).output, name=whole.name)
    # layers know who reads them, so those of `part` would hold the rest; a copy does not
    copy = keras.models.clone_model(part)
    copy.set_weights(part.get_weights())
    return copy


@dataclass(frozen=True, slots=True)
class MapGeometry:
    """Where the places of a feature map lie in a crop, px of the crop; the same along both axes."""

    stride_px: int
    """From one place to the next."""
    receptive_field_px: int
    """Side of the square that a place sees."""
    first_centre_px: float
    """Centre of the first place's square, from the crop's edge."""
    places: int
    """Along a side."""

    @property
    def halo_px(self) -> int:
        """How far a place sees to each side of its centre."""
        return self.receptive_field_px // 2

    def to_dict(self) -> dict[str, float | int]:
        """For the model card."""
        return {
            "stride_px": self.stride_px,
            "receptive_field_px": self.receptive_field_px,
            "halo_px": self.halo_px,
            "first_centre_px": self.first_centre_px,
            "places": self.places,
        }


def map_geometry(backbone: keras.Model) -> MapGeometry:
    """Of the last feature map, from the kernels, strides and borders of all convolutions and pools before it."""
    known: dict[str, tuple[int, int, float]] = {}  # layer → (stride, receptive field, first centre − ½)
    for layer in backbone.layers:
        before = [known[source.name] for source in _sources(layer)] or [(1, 1, 0.0)]
        stride, field, first = before[0][0], max(b[1] for b in before), before[0][2]
        kernel, step = _window(layer)
        if kernel > 1 or step > 1:
            left = 0
            if layer.padding == "same":
                n = int(layer.input.shape[1])
                left = max((-(-n // step) - 1) * step + kernel - n, 0) // 2
            field += (kernel - 1) * stride
            first += ((kernel - 1) / 2 - left) * stride
            stride *= step
        known[layer.name] = (stride, field, first)
    stride, field, first = known[backbone.layers[-1].name]
    return MapGeometry(stride, field, first + 0.5, int(backbone.output.shape[1]))


def _sources(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    return [parent.operation for node in layer._inbound_nodes for parent in node.parent_nodes]


def _window(layer: keras.layers.Layer) -> tuple[int, int]:
    """(height of the kernel, stride); (1, 1) of a layer that looks at single places. What is 1 × 7 has its 7 × 1."""
    kernel = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    return (1, 1) if kernel is None else (kernel[0], layer.strides[0])
