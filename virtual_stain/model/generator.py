"""The generator of the indirect path: from an H&E tile to what its IHC tile is made of, in physical amounts.

A small fully convolutional network answers at every place of 4 × 4 px: the share of positive cells p, the number of
tumour cells λ, the density of DAB and the density of haematoxylin. The two densities are gates times the nuclear
haematoxylin of the H&E itself: where the H&E shows no nucleus there is no density, whatever the network says.

Nothing is normalised over the tile, and nothing is upsampled by a transposed convolution: a place is the same number
in every tile that shows its surroundings, and maps have no checkerboards. A skip joins a fine and a coarse grid, as in
U-Net (Ronneberger, Fischer and Brox, MICCAI 2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from virtual_stain.config.training import ModelSettings
from virtual_stain.dataset.ihc_side import PLACE_PX
from virtual_stain.errors import ConfigError
from virtual_stain.markers import Compartment, Marker
from virtual_stain.model.build import BuildOptions, Network, readings_of, seed_kernels, set_batch_norm
from virtual_stain.model.generator_layers import Doubled, convolved
from virtual_stain.model.heads import LOG_CELLS, LOGIT, HeadOptions, dense_head
from virtual_stain.model.inception_generator import INCEPTION_HALO_PX, inception_trunk, load_inception_weights
from virtual_stain.model.precision import layers_in
from virtual_stain.model.trunk import MapGeometry
from virtual_stain.model.value import MAX_LOG_CELLS

STRIDE_PX = PLACE_PX
"""Side of a place, px of the tile."""
GRID_PX = 16
"""Windows begin at multiples of this, and their sides are: then every window has the same places."""
HALO_PX = 48
"""Of the small generator: how far beyond a window its tile must reach, so that its places are those of the whole slide.
No place depends on anything further away. A multiple of GRID_PX."""
STAIN = "_stain"
"""Suffix of the maps of the two densities."""
_NUCLEUS_UM = 12.0  # side of the square whose mean is what lies between the nuclei
_STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])  # H and E: Ruifrok and Johnston 2001


def require_generator(markers: Sequence[Marker], settings: ModelSettings, mpp: float, max_mpp: float) -> None:
    """Raises ConfigError for what the indirect path cannot learn."""
    if len(markers) != 1 or markers[0].compartment is not Compartment.NUCLEUS:
        raise ConfigError(
            'model.path = "indirect": expected records of one nuclear marker (ki67, er or pr). '
            f"Received: {', '.join(m.value for m in markers)}. Neighbouring sections share no membranes.",
            hint='Train the direct path: model.path = "direct".',
        )
    if settings.weights != "none" and settings.generator != "inception":
        raise ConfigError(
            f'model.generator = "{settings.generator}": there are no pre-trained weights for it. '
            f"Received: {settings.weights!r}",
            hint='Set model.weights to "none" and training.recipe to "scratch", or model.generator to "inception".',
        )
    if settings.head == "svr" or settings.auxiliary_head:
        raise ConfigError(
            'model.path = "indirect": expected no support vectors and no auxiliary head. '
            f"Received: model.head = {settings.head!r}, model.auxiliary_head = {settings.auxiliary_head}"
        )
    if settings.crop_px % GRID_PX:
        raise ConfigError(
            f'model.path = "indirect": expected model.crop_px to be a multiple of {GRID_PX}. '
            f"Received: {settings.crop_px}"
        )
    if mpp > max_mpp:
        raise ConfigError(
            f'model.path = "indirect": expected tiles of at most {max_mpp:g} µm/px, at which nuclei can be counted. '
            f"Received: {mpp:.3g} µm/px"
        )


def build_generator(settings: ModelSettings, markers: Sequence[Marker], options: BuildOptions) -> Network:
    """The generator as a network like the others: a crop's reading is Σλp / Σλ.

    Its `logits` also answer "ki67_stain": float32[B, h, w, 2], the densities of DAB and haematoxylin.
    """
    if options.freeze_batch_norm:
        raise ConfigError(
            'Recipe "finetune" keeps BatchNormalization fixed, which has no sense with random weights.',
            hint='Set training.recipe to "scratch".',
        )
    (marker,), crop = markers, settings.crop_px
    with layers_in(options.precision):
        is_small = settings.generator == "small"
        trunk, halo_px = (small_trunk(), HALO_PX) if is_small else (inception_trunk(), INCEPTION_HALO_PX)
        seed_kernels(trunk, options.seed)
        if options.load_weights and not is_small:
            load_inception_weights(trunk, settings)
        set_batch_norm(trunk, settings.batch_norm_momentum, freeze=False)
        scale = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scale_to_one")
        nuclei = NuclearHematoxylin(options.value.crop_um / crop, name="nuclear_hematoxylin", dtype="float32")
        # not Keras' own: it draws from the whole process' generator, and a resumed run would begin elsewhere
        drawn = keras.initializers.GlorotUniform(seed=options.seed * 1009 + 700)
        gates = keras.layers.Dense(3, kernel_initializer=drawn, name=f"{marker}_gates", dtype="float32")
        inputs = keras.Input((crop, crop, 3), dtype="uint8", name="crop")
        maps = keras.ops.cast(trunk(scale(inputs)), "float32")
        pooled = keras.layers.GlobalAveragePooling2D(name="pool", dtype="float32")(maps)
        head = dense_head(maps, HeadOptions(tuple(markers), settings.dropout, options.seed, {}, options.value))
        logits = head.logits | {f"{marker}{STAIN}": _densities(gates(maps), nuclei(inputs))}
        whole = _whole_maps(marker, trunk, scale, nuclei, gates, head.layers)
    return Network(
        model=keras.Model(inputs, readings_of(head.logits, markers, options.value), name="virtual_stain"),
        logits=keras.Model(inputs, logits, name="logits"),
        features=keras.Model(inputs, pooled, name="features"),
        dense=keras.Model(inputs, head.maps, name="dense"),
        head=(*head.layers, gates),
        places=head.places,
        auxiliary=(),
        markers=tuple(markers),
        crop_px=crop,
        crop_weights=settings.crop_weights,
        geometry=MapGeometry(STRIDE_PX, 2 * halo_px + STRIDE_PX, STRIDE_PX / 2, crop // STRIDE_PX),
        value=options.value,
        generator=whole,
    )


def small_trunk() -> keras.Model:
    """float[B, h, w, 3] in −1…1 → [B, h/4, w/4, 64]; h and w are multiples of GRID_PX. 0.2 million parameters."""
    inputs = keras.Input((None, None, 3))
    x = convolved(inputs, 16, 1, "full")
    x = convolved(x, 32, 2, "half")
    fine = convolved(x, 48, 2, "fine")
    x = convolved(fine, 64, 2, "coarse")
    x = convolved(x, 64, 1, "context")
    x = Doubled(2, interpolation="bilinear", name="up")(x)
    x = keras.layers.Concatenate(name="skip")([x, fine])
    x = convolved(x, 64, 1, "joined")
    return keras.Model(inputs, convolved(x, 64, 1, "last"), name="small_generator")


class NuclearHematoxylin(keras.layers.Layer):
    """uint8[B, h, w, 3] of H&E → float32[B, h/4, w/4]: mean optical density of haematoxylin above its surroundings."""

    def __init__(self, mpp: float, **kwargs: object) -> None:
        super().__init__(trainable=False, **kwargs)
        self.window_px = 2 * max(1, round(_NUCLEUS_UM / mpp / 2)) + 1
        # of the two published stains and what neither explains, the part of haematoxylin
        normal = np.cross(*_STAINS)
        unmix = np.linalg.inv(np.stack([*_STAINS, normal / np.linalg.norm(normal)]))
        self.weights_of_channels = unmix[:, 0].astype(np.float32)

    def call(self, tiles: keras.KerasTensor) -> keras.KerasTensor:
        density = -keras.ops.log10((keras.ops.cast(tiles, "float32") + 1.0) / 256.0)
        amount = keras.ops.sum(density * self.weights_of_channels, axis=-1, keepdims=True)
        amount = keras.ops.maximum(amount, 0.0)
        around = keras.ops.average_pool(amount, self.window_px, strides=1, padding="same")
        nuclear = keras.ops.maximum(amount - around, 0.0)
        return keras.ops.squeeze(keras.ops.average_pool(nuclear, STRIDE_PX, strides=STRIDE_PX), -1)


def _densities(gates: keras.KerasTensor, nuclear: keras.KerasTensor) -> keras.KerasTensor:
    """float32[B, h, w, 3] gates, float32[B, h, w] → float32[B, h, w, 2]: DAB and haematoxylin, each ≥ 0.

    Haematoxylin also has a part that lies between the nuclei; DAB has none.
    """
    opened = keras.ops.softplus(gates)
    dab = 10.0 * opened[..., 0] * nuclear
    hematoxylin = 10.0 * opened[..., 1] * nuclear + 0.1 * opened[..., 2]
    return keras.ops.stack([dab, hematoxylin], axis=-1)


def _whole_maps(
    marker: Marker,
    trunk: keras.Model,
    scale: keras.layers.Layer,
    nuclei: keras.layers.Layer,
    gates: keras.layers.Layer,
    head: Sequence[keras.layers.Layer],
) -> keras.Model:
    """The maps of a window of any size, from the same layers."""
    by_name = {layer.name: layer for layer in head}
    inputs = keras.Input((None, None, 3), dtype="uint8", name="window")
    maps = keras.ops.cast(trunk(scale(inputs)), "float32")
    logit = keras.ops.squeeze(by_name[marker.value + LOGIT](maps), -1)
    log_cells = keras.ops.squeeze(by_name[marker.value + LOG_CELLS](maps), -1)
    densities = _densities(gates(maps), nuclei(inputs))
    outputs = {
        "positive_share": keras.ops.sigmoid(logit),
        "tumour_cells": keras.ops.exp(keras.ops.clip(log_cells, -MAX_LOG_CELLS, MAX_LOG_CELLS)),
        "dab": densities[..., 0],
        "hematoxylin": densities[..., 1],
    }
    return keras.Model(inputs, outputs, name="generator")
