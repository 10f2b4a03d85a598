"""The network: uint8 crop in; per marker a ratio and the expected number of tumour cells out.

InceptionV3: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, as built by
`keras.applications`. Scaling to −1…1 is a layer of the network, so that nobody can forget it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import keras

from virtual_stain.config.training import AUXILIARY_AFTER, ModelSettings
from virtual_stain.errors import ConfigError
from virtual_stain.markers import CELLS, Marker
from virtual_stain.model.auxiliary import auxiliary_head
from virtual_stain.model.heads import (
    INTENSITIES,
    LOG_CELLS,
    LOGIT,
    Head,
    HeadOptions,
    dense_head,
    pooled_head,
    svr_head,
)
from virtual_stain.model.precision import layers_in
from virtual_stain.model.trunk import MapGeometry, build_backbone, map_geometry
from virtual_stain.model.value import MAX_LOG_CELLS, ValueOutput
from virtual_stain.model.weights import load_backbone_weights

_AUXILIARY_AT = {"inception_v3": f"mixed{AUXILIARY_AFTER}", "small_cnn": "relu_2"}


@dataclass(frozen=True, slots=True)
class Network:
    """One set of layers, seen three ways."""

    model: keras.Model
    """uint8[B, crop, crop, 3] → {"ki67": float32[B], "ki67_tumour_cells": float32[B] ≥ 0, …} of a crop,
    `Marker.outputs` of each marker; "ki67" is the value that `value` defines."""
    logits: keras.Model
    """The same before the last functions: {"ki67_logit": float32[B], "ki67_log_cells": float32[B], …}, and of HER2
    "her2_classes": float32[B, 3]; for losses."""
    features: keras.Model
    """uint8[B, crop, crop, 3] → float32[B, F], pooled features before the head."""
    dense: keras.Model | None
    """Dense head: uint8[B, crop, crop, 3] → {"ki67_map", "ki67_tumour_cells_map": float32[B, h, w], …}; else None."""
    head: tuple[keras.layers.Layer, ...]
    """The layers after the feature maps, in a fixed order."""
    places: int
    """Places of the feature map that a crop's expected cells are added up over; 1: pooled before."""
    auxiliary: tuple[keras.layers.Layer, ...]
    """The layers of the auxiliary head; empty without one."""
    markers: tuple[Marker, ...]
    crop_px: int
    crop_weights: str
    """`ModelSettings.crop_weights`."""
    geometry: MapGeometry
    """Where the places of the last feature map lie."""
    value: ValueOutput
    generator: keras.Model | None = None
    """Indirect path: uint8[B, h, w, 3] of any size → {"positive_share", "tumour_cells", "dab", "hematoxylin":
    float32[B, h/4, w/4]}, see model/generator.py; None: the direct path."""

    @property
    def weights(self) -> list[keras.Variable]:
        """What a checkpoint keeps and an average is made of: of `model`, then what only the generator's maps need."""
        own = self.model.weights
        known = {id(w) for w in own}
        return [*own, *(w for w in (self.generator.weights if self.generator else ()) if id(w) not in known)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What a recipe and a run decide about the network, beside [model]."""

    seed: int = 0
    precision: str = "float32"
    """"float32" or "mixed_bfloat16"."""
    freeze_batch_norm: bool = False
    """BatchNormalization in inference mode also while training (fine-tuning)."""
    support: Mapping[str, int] = field(default_factory=dict)
    """Head "svr": output → number of its support vectors."""
    value: ValueOutput = field(default_factory=ValueOutput)
    """What the outputs mean."""
    load_weights: bool = True
    """False: random starting weights, whatever [model] weights says (a checkpoint follows)."""


def build_network(settings: ModelSettings, markers: Sequence[Marker], options: BuildOptions) -> Network:
    """Builds the network with its starting weights.

    Raises ModelError when the weights cannot be had, ConfigError for settings that cannot work together.
    """
    if options.freeze_batch_norm and settings.weights == "none":
        raise ConfigError(
            'Recipe "finetune" keeps BatchNormalization fixed, which has no sense with random weights.',
            hint='Set model.weights to "imagenet" or a file, or training.recipe to "scratch" or "inception".',
        )
    crop = settings.crop_px
    with layers_in(options.precision):
        backbone = build_backbone(settings)
        seed_kernels(backbone, options.seed)
        set_batch_norm(backbone, settings.batch_norm_momentum, freeze=options.freeze_batch_norm)
        if options.load_weights:
            load_backbone_weights(backbone, settings)
        inputs = keras.Input((crop, crop, 3), dtype="uint8", name="crop")
        scaled = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scale_to_one")(inputs)
        auxiliary: tuple[keras.layers.Layer, ...] = ()
        auxiliary_logits: dict[str, keras.KerasTensor] = {}
        if settings.auxiliary_head:
            middle = backbone.get_layer(_AUXILIARY_AT[settings.kind]).output
            maps, side = keras.Model(backbone.inputs, [backbone.output, middle], name=backbone.name)(scaled)
            auxiliary, auxiliary_logits = auxiliary_head(side, markers, options.seed)
        else:
            maps = backbone(scaled)
        # float32 from here on: a mean over the map and the last layer are cheap, and their rounding is not
        pooled = keras.layers.GlobalAveragePooling2D(name="pool", dtype="float32")(maps)
        head = _head(
            maps,
            pooled,
            settings,
            HeadOptions(tuple(markers), settings.dropout, options.seed, options.support, options.value),
        )
    return Network(
        model=keras.Model(inputs, readings_of(head.logits, markers, options.value), name="virtual_stain"),
        logits=keras.Model(inputs, head.logits | auxiliary_logits, name="logits"),
        features=keras.Model(inputs, pooled, name="features"),
        dense=keras.Model(inputs, head.maps, name="dense") if head.maps else None,
        head=head.layers,
        places=head.places,
        auxiliary=auxiliary,
        markers=tuple(markers),
        crop_px=crop,
        crop_weights=settings.crop_weights,
        geometry=map_geometry(backbone),
        value=options.value,
    )


def seed_kernels(backbone: keras.Model, seed: int) -> None:
    # `keras.applications` draws from the process-wide generator; drawing again, layer by layer, needs no global seed
    for index, layer in enumerate(backbone.layers):
        if isinstance(layer, keras.layers.Conv2D):
            shape = tuple(layer.kernel.shape)
            layer.kernel.assign(keras.initializers.GlorotUniform(seed=seed * 1009 + index)(shape))


def set_batch_norm(backbone: keras.Model, momentum: float, *, freeze: bool) -> None:
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
            # not `backbone(x, training=False)`: calling the outer model with training=True overrides that (Keras 3.15)
            layer.trainable = not freeze


def _head(maps: keras.KerasTensor, pooled: keras.KerasTensor, settings: ModelSettings, options: HeadOptions) -> Head:
    if settings.head == "dense":
        return dense_head(maps, options)
    return svr_head(pooled, options) if settings.head == "svr" else pooled_head(pooled, options)


def readings_of(
    logits: dict[str, keras.KerasTensor], markers: Sequence[Marker], value: ValueOutput
) -> dict[str, keras.KerasTensor]:
    readings = {}
    for marker in markers:
        logit, log_cells = logits[marker.value + LOGIT], logits[marker.value + LOG_CELLS]
        readings[marker.value] = value.read(logit, log_cells)
        if marker.has_intensities:  # of all tumour cells: the share of stained ones, divided up
            shares = keras.ops.sigmoid(logit)[:, None] * keras.ops.softmax(logits[marker.value + INTENSITIES])
            readings |= {name: shares[:, i] for i, name in enumerate(marker.intensity_outputs)}
        readings[marker.value + CELLS] = keras.ops.exp(keras.ops.clip(log_cells, -MAX_LOG_CELLS, MAX_LOG_CELLS))
    return readings


def constant_outputs(ratio: Mapping[Marker, float], cells_per_crop: Mapping[Marker, float]) -> dict[str, float]:
    """{"ki67_logit": …, "ki67_log_cells": …}: the answer to a crop that nobody has looked at.

    `ratio`: positive fraction in 0…1; `cells_per_crop`: mean number of tumour cells of a crop, ≥ 0.
    """
    outputs = {}
    for marker, share in ratio.items():
        p = min(max(share, 0.005), 0.995)
        outputs[marker.value + LOGIT] = math.log(p / (1 - p))
        outputs[marker.value + LOG_CELLS] = math.log(max(cells_per_crop[marker], 0.05))
    return outputs


def set_starting_outputs(network: Network, outputs: Mapping[str, float]) -> None:
    """Sets the head's biases so that the first prediction is the mean of the training set, not 0.5 and 1 cell."""
    by_name = {layer.name: layer for layer in network.head}
    for name, value in outputs.items():
        shared_out = math.log(network.places) if name.endswith(LOG_CELLS) else 0.0
        by_name[name].bias.assign([value - shared_out])
