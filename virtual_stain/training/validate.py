"""Loss and tile figures of the validation patients: deterministic, whole crop grids, averaged weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from virtual_stain.errors import InputError
from virtual_stain.model.build import Network
from virtual_stain.model.losses import cells_loss_sum
from virtual_stain.model.tile_reading import crop_grid, sum_over_tile, value_over_tile
from virtual_stain.model.value import ValueOutput
from virtual_stain.training.distribution import Distribution
from virtual_stain.training.metrics import mean_absolute_error, mean_within, pearson
from virtual_stain.training.step import Batch, LossWeights, TrainStep, value_factor, value_loss_sum, value_weights


@dataclass(frozen=True, slots=True)
class Validation:
    """What one validation found."""

    loss: float
    """The value's loss over the crops (of a ratio the weighted binomial cross-entropy, nats, of HER2 that of the four
    classes; of a count half the Poisson deviance over the mean number of cells): stopping and the choice of the
    checkpoint go by it."""
    cells_loss: float
    """Poisson loss of the expected tumour cells, up to a constant of the data."""
    tile_r: float | None
    """Pearson r over the tiles within a pair, mean over pairs; None with fewer than 3 labelled tiles in each."""
    tile_mae: float | None
    """Mean absolute error of tile values, fraction or cells per mm² of tile; None without labelled tiles."""
    n_tiles: int
    """Tiles with a trusted label."""
    constant_loss: float | None = None
    """What `loss` would be if every crop were answered with the training set's mean."""

    def to_dict(self) -> dict[str, float | int | None]:
        return {
            "loss": self.loss,
            "cells_loss": self.cells_loss,
            "tile_r": self.tile_r,
            "tile_mae": self.tile_mae,
            "n_tiles": self.n_tiles,
            "constant_loss": self.constant_loss,
        }


class Validator:
    """Runs the network over the validation tiles; compiled once."""

    def __init__(
        self,
        network: Network,
        loss: LossWeights,
        tiles: tf.data.Dataset,
        distribution: Distribution | None = None,
        constant: Mapping[str, float] | None = None,
    ) -> None:
        """`constant`: outputs of a network that has not looked at the crops, to compare with."""
        self._network, self._loss, self._tiles, self._constant = network, loss, tiles, constant
        self._strategy = (distribution or Distribution()).strategy
        self._compiled = tf.function(self._replicated, autograph=False)

    def run(self) -> Validation:
        """One pass over the tiles with the network's present weights. Raises InputError when no crop counts."""
        sums = np.zeros(5)
        rows: list[tuple[bytes, int, float, float]] = []
        for batch in self._tiles:
            parts, values, shown = self._compiled(
                {k: batch[k] for k in ("tile", "cells", "positive", "trusted", "usable", "intensities") if k in batch}
            )
            sums += np.array([float(p) for p in parts])
            rows += _labelled(batch, values.numpy(), shown.numpy(), self._network.value)
        if sums[1] <= 0:  # a loss of 0 would make the first checkpoint the best for ever
            raise self._nothing_to_choose_by()
        pairs = np.array([r[0] + b"/%d" % r[1] for r in rows])
        truth, read = np.array([r[2] for r in rows]), np.array([r[3] for r in rows])
        return Validation(
            loss=float(sums[0] / sums[1]),
            cells_loss=float(sums[2] / max(sums[3], 1e-9)),
            tile_r=mean_within(pairs, truth, read, pearson),
            tile_mae=mean_absolute_error(truth, read),
            n_tiles=len(rows),
            constant_loss=None if self._constant is None else float(sums[4] / sums[1]),
        )

    def _blind_outputs(self, outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """As `outputs`, of a network that answers every crop with the same; 0: even odds, equal classes."""
        constant = self._constant or {}
        return {name: tf.fill(tf.shape(values), constant.get(name, 0.0)) for name, values in outputs.items()}

    def _nothing_to_choose_by(self) -> InputError:
        if not self._network.value.definition.is_ratio:
            return InputError(
                "None of the validation tiles has a number of cells that is a label: no checkpoint can be chosen.",
                hint="Take another --fold.",
            )
        return InputError(
            f"None of the validation crops (model.crop_px = {self._network.crop_px}) holds the "
            f"training.min_crop_cells = {self._loss.min_cells} tumour cells that a ratio needs: no checkpoint "
            "can be chosen.",
            hint="Raise model.crop_px or lower training.min_crop_cells, or take another --fold.",
        )

    def _replicated(self, batch: Batch) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """Every device reads the same tiles: validation is short, and its numbers must be the same everywhere."""
        parts, values, shown = self._strategy.run(self._batch, args=(batch,))
        first = self._strategy.experimental_local_results
        return [first(p)[0] for p in parts], first(values)[0], first(shown)[0]

    def _batch(self, batch: Batch) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        crops = crop_grid(batch["tile"], self._network.crop_px)
        outputs = self._network.logits(crops, training=False)
        per_tile = batch["cells"].shape[1]
        flat = {
            "cells": tf.reshape(batch["cells"], (-1, batch["cells"].shape[2])),
            "positive": tf.reshape(batch["positive"], (-1, batch["cells"].shape[2])),
            "trusted": tf.repeat(batch["trusted"], per_tile, axis=0),
            "usable": tf.repeat(batch["usable"], per_tile, axis=0),
        }
        if "intensities" in batch:
            flat["intensities"] = tf.reshape(batch["intensities"], (-1, 3))
        value = self._network.value
        weights = value_weights(flat, self._loss, value)
        lost, cells, unseen = tf.constant(0.0), tf.constant(0.0), tf.constant(0.0)
        blind = self._blind_outputs(outputs)
        readings = []
        shown = sum_over_tile(tf.zeros([tf.shape(crops)[0], 1]), crops, per_tile)[1]
        for index, marker in enumerate(self._network.markers):
            logit, log_cells = outputs[f"{marker}_logit"], outputs[f"{marker}_log_cells"]
            lost += value_loss_sum(outputs, str(marker), flat, index, weights, value)
            unseen += value_loss_sum(blind, str(marker), flat, index, weights, value)
            cells += cells_loss_sum(log_cells, flat["cells"][:, index], flat["usable"][:, index])
            expected = tf.exp(log_cells) if self._network.crop_weights == "cells" else None
            readings.append(value_over_tile(value.read(logit, log_cells), expected, crops, per_tile, value.definition))
        factor = value_factor(self._loss, value)
        sums = [lost * factor, tf.reduce_sum(weights), cells, tf.reduce_sum(flat["usable"]), unseen * factor]
        return sums, tf.stack(readings, axis=1), shown[:, 0]


def _labelled(
    batch: Batch, values: np.ndarray, shown: np.ndarray, value: ValueOutput
) -> list[tuple[bytes, int, float, float]]:
    """(pair, marker index, true value, read value) of the tiles whose label is trusted. `shown`: crops of each tile."""
    trusted, pair = batch["trusted"].numpy(), batch["pair"].numpy()
    cells, positive = batch["cells"].numpy().sum(axis=1), batch["positive"].numpy().sum(axis=1)
    counted = positive if value.definition.of_positive else cells - positive
    area_mm2 = (shown > 0) * batch["cells"].shape[1] * value.crop_mm2
    whole = cells if value.definition.is_ratio else np.broadcast_to(area_mm2[:, None], cells.shape)
    return [
        (pair[i], m, float(counted[i, m] / whole[i, m]), float(values[i, m]))
        for i, m in zip(*np.nonzero((trusted > 0) & (whole > 0) & np.isfinite(values)), strict=True)
    ]


@contextlib.contextmanager
def averaged_weights(step: TrainStep, *, use: bool, keep: bool = False) -> Iterator[None]:
    """The network with its averaged weights inside the block, with its own again after it.

    `keep`: its own come back also where none are averaged, since the block changes them.
    """
    weights = step.network.weights
    own = [tf.identity(w.value) for w in weights] if use or keep else []
    try:
        if use:
            for weight, average in zip(weights, step.averaged, strict=True):
                weight.assign(average)
        yield
    finally:
        for weight, value in zip(weights, own, strict=bool(own)):
            weight.assign(value)
