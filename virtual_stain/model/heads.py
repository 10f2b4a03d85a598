"""From feature maps to two numbers a marker: the ratio and the expected number of tumour cells of a crop; of HER2 also
which of the stained cells are 1+, 2+ and 3+.

pooled   the mean over the map, then one layer: the original InceptionV3 (Szegedy et al. 2016)
dense    one layer at every place of the map, a fully convolutional head (Long, Shelhamer and Darrell, CVPR 2015): each
         place has a ratio pᵢ and expected cells cᵢ; the crop's are Σ cᵢpᵢ / Σ cᵢ and Σ cᵢ, so it learns from the same
         labels and gives a map. The cells of a class are added up over the places in the same way
svr      a support-vector regression on the pooled features (Drucker et al., NIPS 1996), fitted outside the graph and
         evaluated inside it: f(x) = Σ αₛ exp(−γ ‖x − s‖²) + b; not for HER2
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import keras

from virtual_stain.markers import Marker
from virtual_stain.model.value import MAX_LOG_CELLS, ValueOutput

LOGIT, LOG_CELLS = "_logit", "_log_cells"
INTENSITIES = "_classes"  # the name of the layer in weights files, which are older than the word
"""Suffix of the unnormalised logarithms of 1+, 2+ and 3+ among the stained cells (HER2)."""
MAP = "_map"
"""Suffix of the dense head's maps."""
Tensors = dict[str, keras.KerasTensor]


@dataclass(frozen=True, slots=True)
class Head:
    """What the network is built of after the feature maps."""

    layers: tuple[keras.layers.Layer, ...]
    logits: Tensors
    """"ki67_logit", "ki67_log_cells" → float32[B]; "her2_classes" → float32[B, 3]."""
    maps: Tensors = field(default_factory=dict)
    """Dense head: "ki67_map", "ki67_tumour_cells_map" → float32[B, h, w]."""
    places: int = 1
    """Places that a crop's cells are added up over."""


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """What all heads need."""

    markers: tuple[Marker, ...]
    dropout: float
    seed: int
    support: Mapping[str, int] = field(default_factory=dict)
    """SVR: output name → number of support vectors."""
    value: ValueOutput = field(default_factory=ValueOutput)
    """What the maps of a dense head show."""


def pooled_head(pooled: keras.KerasTensor, options: HeadOptions) -> Head:
    """float32[B, F] → the outputs."""
    x = _dropped(pooled, options)
    layers = _dense_layers(options)
    return Head(layers, {layer.name: _output(layer, x) for layer in layers})


def dense_head(maps: keras.KerasTensor, options: HeadOptions) -> Head:
    """[B, h, w, F] → the outputs and their maps."""
    x = _dropped(keras.ops.cast(maps, "float32"), options)
    layers = _dense_layers(options)
    at = {layer.name: _output(layer, x) for layer in layers}
    logits: Tensors = {}
    shown: Tensors = {}
    places = int(maps.shape[1]) * int(maps.shape[2])
    for marker in options.markers:
        logit = at[marker.value + LOGIT]
        log_cells = keras.ops.clip(at[marker.value + LOG_CELLS], -MAX_LOG_CELLS, MAX_LOG_CELLS)
        # in logarithms throughout: a ratio near 0 or 1 keeps its gradient
        positive = keras.ops.logsumexp(log_cells + keras.ops.log_sigmoid(logit), axis=(1, 2))
        negative = keras.ops.logsumexp(log_cells + keras.ops.log_sigmoid(-logit), axis=(1, 2))
        logits[marker.value + LOGIT] = positive - negative
        logits[marker.value + LOG_CELLS] = keras.ops.logsumexp(log_cells, axis=(1, 2))
        if marker.has_intensities:
            # the cells of each class, added up over the places as those of all are
            log_share = keras.ops.log_sigmoid(logit)[..., None] + keras.ops.log_softmax(at[marker.value + INTENSITIES])
            logits[marker.value + INTENSITIES] = keras.ops.logsumexp(log_cells[..., None] + log_share, axis=(1, 2))
            shares = keras.ops.exp(log_share)
            shown |= {name + MAP: shares[..., i] for i, name in enumerate(marker.intensity_outputs)}
        shown[marker.value + MAP] = options.value.read(logit, log_cells, places)
        shown[marker.cells_output + MAP] = keras.ops.exp(log_cells)
    return Head(layers, logits, shown, places=places)


def svr_head(pooled: keras.KerasTensor, options: HeadOptions) -> Head:
    """float32[B, F] → the outputs of two regressions a marker: of arcsin √ratio, and of log(1 + cells)."""
    layers: list[keras.layers.Layer] = []
    logits: Tensors = {}
    for marker in options.markers:
        ratio, cells = (
            RbfRegression(options.support[marker.value + s], name=marker.value + s, dtype="float32")
            for s in (LOGIT, LOG_CELLS)
        )
        layers += [ratio, cells]
        angle = keras.ops.clip(ratio(pooled), 1e-3, math.pi / 2 - 1e-3)
        logits[marker.value + LOGIT] = 2.0 * keras.ops.log(keras.ops.tan(angle))  # the logit of sin²
        expected = keras.ops.expm1(keras.ops.clip(cells(pooled), 0.0, MAX_LOG_CELLS))
        logits[marker.value + LOG_CELLS] = keras.ops.log(keras.ops.maximum(expected, 1e-3))
    return Head(tuple(layers), logits)


class RbfRegression(keras.layers.Layer):
    """float32[B, F] → float32[B]: a fitted support-vector regression, Gaussian kernel, standardized features."""

    def __init__(self, n_support: int, **kwargs: object) -> None:
        super().__init__(trainable=False, **kwargs)
        self.n_support = n_support

    def build(self, shape: Sequence[int | None]) -> None:
        features = shape[-1]
        self.mean = self.add_weight(shape=(features,), initializer="zeros", name="mean")
        self.scale = self.add_weight(shape=(features,), initializer="ones", name="scale")
        self.support = self.add_weight(shape=(self.n_support, features), initializer="zeros", name="support")
        self.coefficients = self.add_weight(shape=(self.n_support,), initializer="zeros", name="coefficients")
        self.intercept = self.add_weight(shape=(), initializer="zeros", name="intercept")
        self.gamma = self.add_weight(shape=(), initializer="ones", name="gamma")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        z = (x - self.mean) / self.scale
        squared = (
            keras.ops.sum(z * z, axis=1, keepdims=True)
            - 2.0 * keras.ops.matmul(z, keras.ops.transpose(self.support))
            + keras.ops.sum(self.support * self.support, axis=1)[None, :]
        )
        kernel = keras.ops.exp(-self.gamma * keras.ops.maximum(squared, 0.0))
        return keras.ops.matmul(kernel, self.coefficients[:, None])[:, 0] + self.intercept


def _dropped(x: keras.KerasTensor, options: HeadOptions) -> keras.KerasTensor:
    if not options.dropout:
        return x
    return keras.layers.Dropout(options.dropout, seed=options.seed, name="dropout", dtype="float32")(x)


def _dense_layers(options: HeadOptions) -> tuple[keras.layers.Layer, ...]:
    layers = []
    for index, marker in enumerate(options.markers):
        for offset, suffix in enumerate((LOGIT, LOG_CELLS)):
            # small starting weights: the first predictions are the bias, i.e. the mean of the training set
            seed = options.seed * 1009 + 500 + 2 * index + offset
            initializer = keras.initializers.RandomNormal(stddev=0.001, seed=seed)
            layer = keras.layers.Dense(1, kernel_initializer=initializer, name=marker.value + suffix, dtype="float32")
            layers.append(layer)
        if marker.has_intensities:
            initializer = keras.initializers.RandomNormal(stddev=0.001, seed=options.seed * 1009 + 600 + index)
            name = marker.value + INTENSITIES
            layers.append(keras.layers.Dense(3, kernel_initializer=initializer, name=name, dtype="float32"))
    return tuple(layers)


def _output(layer: keras.layers.Layer, x: keras.KerasTensor) -> keras.KerasTensor:
    """A number, or of intensities a number each."""
    return layer(x) if layer.units > 1 else keras.ops.squeeze(layer(x), -1)
