"""One optimizer step, however many micro-batches it takes; own loop, because Keras counts micro-steps.

With `gradient_accumulation_steps` Keras advances schedule and weight average once a micro-batch, so both run too
fast; here they are given the optimizer step. The gradient is that of the whole batch: each part's loss is divided by
the weight sum of the whole batch, so uneven weights between parts change nothing. (Batch statistics are the one thing
that is a part's own.)
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import tensorflow as tf

from virtual_stain.config.training import TrainingSettings
from virtual_stain.model.build import Network
from virtual_stain.model.losses import cells_loss_sum, crop_weights, ratio_loss_sum, safe_denominator

Batch = dict[str, tf.Tensor]


@dataclass(frozen=True, slots=True)
class LossWeights:
    """How the two likelihoods are added up."""

    min_cells: int
    max_cells: int
    cells_factor: float
    """Of the Poisson part: its weight divided by the mean number of cells of a crop."""


def ratio_weights(batch: Batch, loss: LossWeights) -> tf.Tensor:
    """float32[B, markers]: what each crop weighs in the ratio's loss."""
    return crop_weights(batch["cells"], batch["trusted"], loss.min_cells, loss.max_cells)


def loss_sums(network: Network, batch: Batch, loss: LossWeights, *, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """(Σ weighted cross-entropy, Σ Poisson loss), float32 scalars over crops and markers."""
    outputs = network.logits(batch["crop"], training=training)
    weights = ratio_weights(batch, loss)
    ratio, cells = tf.constant(0.0), tf.constant(0.0)
    for index, marker in enumerate(network.markers):
        n, k = batch["cells"][:, index], batch["positive"][:, index]
        ratio += ratio_loss_sum(outputs[f"{marker}_logit"], k, n, weights[:, index])
        cells += cells_loss_sum(outputs[f"{marker}_log_cells"], n, batch["usable"][:, index])
    return ratio, cells


class TrainStep:
    """Compiled steps of one phase: its variables, its optimizer, and the average of all weights."""

    def __init__(self, network: Network, settings: TrainingSettings, loss: LossWeights) -> None:
        """`use` starts the first phase."""
        self.network, self.loss = network, loss
        self._clip_norm, self._averaging = settings.clip_norm, settings.weight_average > 0
        self.averaged = [tf.Variable(w.value, trainable=False) for w in network.model.weights]
        self._loss = tf.Variable([0.0, 0.0], trainable=False)

    def use(self, optimizer: keras.optimizers.Optimizer, *, head_only: bool) -> None:
        """Starts a phase: these layers learn, with this optimizer; the average goes on."""
        self.optimizer = optimizer
        layers = self.network.head if head_only else (self.network.model,)
        self._variables = [v for layer in layers for v in layer.trainable_variables]
        optimizer.build(self._variables)
        self._sums: list[tf.Variable] = []
        # new graphs: a traced step keeps the variables that it was traced with
        self._whole = tf.function(self._whole_batch, autograph=False)
        self._part = tf.function(self._add_part, autograph=False)
        self._finish = tf.function(self._apply_sums, autograph=False)

    def run(self, batch: Batch, micro_batches: int, learning_rate: float, decay: float) -> tf.Tensor:
        """One optimizer step on the whole batch; its loss as float32[2] (ratio, cells), not yet waited for.

        The sum of the two is what is minimised; the first is comparable with the validation loss.
        """
        rate, keep = tf.constant(learning_rate, tf.float32), tf.constant(decay, tf.float32)
        if micro_batches == 1:
            return self._whole(batch, rate, keep)
        if not self._sums:
            self._sums = [tf.Variable(tf.zeros_like(v.value), trainable=False) for v in self._variables]
        denominators = self._denominators(batch)
        size = int(batch["crop"].shape[0]) // micro_batches
        for index in range(micro_batches):
            part = {name: value[index * size : (index + 1) * size] for name, value in batch.items()}
            self._part(part, denominators)
        return self._finish(rate, keep)

    def _denominators(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        ratio = tf.reduce_sum(ratio_weights(batch, self.loss))
        return safe_denominator(ratio), safe_denominator(tf.reduce_sum(batch["usable"]))

    def _gradients(self, batch: Batch, denominators: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in self._variables])
            ratio, cells = loss_sums(self.network, batch, self.loss, training=True)
            parts = ratio / denominators[0], self.loss.cells_factor * cells / denominators[1]
            loss = parts[0] + parts[1]
        return tf.stack(parts), tape.gradient(loss, [v.value for v in self._variables])

    def _whole_batch(self, batch: Batch, rate: tf.Tensor, keep: tf.Tensor) -> tf.Tensor:
        loss, gradients = self._gradients(batch, self._denominators(batch))
        self._apply(gradients, rate, keep)
        return loss

    def _add_part(self, part: Batch, denominators: tuple[tf.Tensor, tf.Tensor]) -> None:
        loss, gradients = self._gradients(part, denominators)
        self._loss.assign_add(loss)
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.assign_add(gradient)

    def _apply_sums(self, rate: tf.Tensor, keep: tf.Tensor) -> tf.Tensor:
        loss = self._loss.read_value()
        self._apply([total.read_value() for total in self._sums], rate, keep)
        for total in (self._loss, *self._sums):
            total.assign(tf.zeros_like(total))
        return loss

    def _apply(self, gradients: list[tf.Tensor], rate: tf.Tensor, keep: tf.Tensor) -> None:
        if self._clip_norm > 0:
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm)
        self.optimizer.learning_rate.assign(rate)
        self.optimizer.apply(gradients, self._variables)
        if self._averaging:
            for average, weight in zip(self.averaged, self.network.model.weights, strict=True):
                average.assign_sub((1.0 - keep) * (average - weight.value))
