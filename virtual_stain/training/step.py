"""One optimizer step, however many micro-batches it takes; own loop, because Keras counts micro-steps.

With `gradient_accumulation_steps` Keras advances schedule and weight average once a micro-batch, so both run too
fast; here they are given the optimizer step. The gradient is that of the whole batch: each part's loss is divided by
the weight sum of the whole batch, so uneven weights between parts change nothing. (Batch statistics are the one thing
that is a part's own.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from virtual_stain.config.training import AugmentSettings, TrainingSettings
from virtual_stain.dataset.augment import augment, orient
from virtual_stain.model.auxiliary import PREFIX as AUXILIARY
from virtual_stain.model.build import Network
from virtual_stain.model.generator import STAIN
from virtual_stain.model.heads import INTENSITIES
from virtual_stain.model.losses import (
    cells_loss_sum,
    count_loss_sum,
    crop_weights,
    intensity_loss_sum,
    ratio_loss_sum,
    safe_denominator,
)
from virtual_stain.model.value import ValueOutput
from virtual_stain.model.virtual_losses import density_loss_sum
from virtual_stain.training.distribution import Distribution

Batch = dict[str, tf.Tensor]


@dataclass(frozen=True, slots=True)
class LossWeights:
    """How the likelihoods of the value and of the number of cells are added up."""

    min_cells: int
    max_cells: int
    cells_factor: float
    """Of the number of cells: its weight divided by the mean number of cells of a crop."""
    count_factor: float = 1.0
    """Of a value that is a count: 1 / mean number of cells of a crop."""


def value_weights(batch: Batch, loss: LossWeights, value: ValueOutput) -> tf.Tensor:
    """float32[B, markers]: what each crop weighs in the value's loss."""
    if not value.definition.is_ratio:
        return batch["trusted"]  # a crop without cells is a label like any other
    return crop_weights(batch["cells"], batch["trusted"], loss.min_cells, loss.max_cells)


def value_loss_sum(
    outputs: dict[str, tf.Tensor], name: str, batch: Batch, index: int, weights: tf.Tensor, value: ValueOutput
) -> tf.Tensor:
    """float32 scalar: Σ weight · loss of one marker's value. `name`: of its outputs; `index`: of the marker."""
    n, k = batch["cells"][:, index], batch["positive"][:, index]
    logit = outputs[f"{name}_logit"]
    if value.definition.is_ratio:
        lost = ratio_loss_sum(logit, k, n, weights[:, index])  # of the negative ratio it is the same
        if f"{name}{INTENSITIES}" in outputs:  # the auxiliary head has none
            lost += intensity_loss_sum(outputs[f"{name}{INTENSITIES}"], batch["intensities"], n, weights[:, index])
        return lost
    counted = k if value.definition.of_positive else n - k
    return count_loss_sum(outputs[f"{name}_log_cells"] + value.log_share(logit), counted, weights[:, index])


def loss_sums(network: Network, batch: Batch, loss: LossWeights, *, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """(Σ weighted loss of the value, Σ Poisson loss of the cells), float32 scalars over crops and markers."""
    return _sums(network, network.logits(batch["crop"], training=training), batch, loss, "")


def _sums(
    network: Network, outputs: dict[str, tf.Tensor], batch: Batch, loss: LossWeights, prefix: str
) -> tuple[tf.Tensor, tf.Tensor]:
    weights = value_weights(batch, loss, network.value)
    value, cells = tf.constant(0.0), tf.constant(0.0)
    for index, marker in enumerate(network.markers):
        value += value_loss_sum(outputs, f"{prefix}{marker}", batch, index, weights, network.value)
        log_cells, n = outputs[f"{prefix}{marker}_log_cells"], batch["cells"][:, index]
        cells += cells_loss_sum(log_cells, n, batch["usable"][:, index])
    return value * value_factor(loss, network.value), cells


def value_factor(loss: LossWeights, value: ValueOutput) -> float:
    """What the value's loss is multiplied with."""
    return 1.0 if value.definition.is_ratio else loss.count_factor


class TrainStep:
    """Compiled steps of one phase: its variables, its optimizer, and the average of all weights."""

    def __init__(
        self,
        network: Network,
        settings: TrainingSettings,
        loss: LossWeights,
        augmentation: AugmentSettings | None = None,
        distribution: Distribution | None = None,
    ) -> None:
        """`augmentation`: changes of the crops inside the step, None: none; a batch then needs no `draws`. `use` starts
        the first phase."""
        self.network, self.loss = network, loss
        self.distribution = distribution or Distribution()
        self._augmentation = augmentation
        self._clip_norm, self._averaging = settings.clip_norm, settings.weight_average > 0
        self._auxiliary_weight = settings.auxiliary_weight
        self._stain_weight = 0.0 if network.generator is None else settings.stain_loss_weight
        with self.distribution.strategy.scope():
            self.averaged = [tf.Variable(tf.convert_to_tensor(w.value), trainable=False) for w in network.weights]
            self._loss = self._local([0.0, 0.0])

    def use(self, optimizer: Callable[[], keras.optimizers.Optimizer], *, head_only: bool) -> None:
        """Starts a phase: these layers learn, with this optimizer; the average goes on."""
        layers = self.network.head if head_only else (self.network.logits,)
        self._variables = [v for layer in layers for v in layer.trainable_variables]
        with self.distribution.strategy.scope():
            self.optimizer = optimizer()
            self.optimizer.build(self._variables)
        self._sums: list[tf.Variable] = []
        # new graphs: a traced step keeps the variables that it was traced with
        self._whole = tf.function(self._whole_batch, autograph=False)
        self._part = tf.function(self._add_part, autograph=False)
        self._finish = tf.function(self._apply_sums, autograph=False)

    def run(self, batch: Batch, micro_batches: int, learning_rate: float, decay: float) -> tf.Tensor:
        """One optimizer step on the whole batch; float32[3] (loss of the value, of the cells, norm of the gradient
        before clipping), not yet waited for.

        The sum of the first two is what is minimised; the first is comparable with the validation loss. `batch`: this
        process' part of it.
        """
        rate, keep = tf.constant(learning_rate, tf.float32), tf.constant(decay, tf.float32)
        if micro_batches == 1:
            return self._whole(self.distribution.split(batch), rate, keep)
        if not self._sums:
            with self.distribution.strategy.scope():
                self._sums = [self._local(tf.zeros(v.shape)) for v in self._variables]
        denominators = self._denominators_of(self.distribution.split(batch))
        size = int(batch["crop"].shape[0]) // micro_batches
        for index in range(micro_batches):
            part = {name: value[index * size : (index + 1) * size] for name, value in batch.items()}
            self._part(self.distribution.split(part), denominators)
        return self._finish(rate, keep)

    def _local(self, value: Any) -> tf.Variable:
        """A sum that every replica keeps for itself."""
        return tf.Variable(
            value,
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )

    @functools.cached_property
    def _denominators_of(self) -> Callable[[Any], tuple[tf.Tensor, ...]]:
        def of_batch(batch: Any) -> tuple[tf.Tensor, ...]:
            strategy = self.distribution.strategy
            found = strategy.run(self._denominators, args=(batch,))
            return tuple(strategy.experimental_local_results(value)[0] for value in found)

        return tf.function(of_batch, autograph=False)

    def _denominators(self, batch: Batch) -> tuple[tf.Tensor, ...]:
        """Weight sums of the whole batch, over all replicas; in a replica's context."""
        sums = [tf.reduce_sum(value_weights(batch, self.loss, self.network.value)), tf.reduce_sum(batch["usable"])]
        if self._stain_weight:
            sums.append(tf.reduce_sum(batch["stain_weight"]))
        return tuple(safe_denominator(total) for total in _summed(sums))

    def _gradients(self, batch: Batch, denominators: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        if self._augmentation is not None:
            if self._stain_weight:
                batch = batch | {"stain": orient(batch["stain"], batch["draws"], self._augmentation)}
            batch = batch | {"crop": augment(batch["crop"], batch["draws"], self._augmentation)}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in self._variables])
            outputs = self.network.logits(batch["crop"], training=True)
            parts = self._parts(outputs, batch, denominators, "")
            loss = parts[0] + parts[1]
            if self.network.auxiliary:
                loss += self._auxiliary_weight * sum(self._parts(outputs, batch, denominators, AUXILIARY))
            if self._stain_weight:
                loss += self._stain_weight * self._density_loss(outputs, batch) / denominators[2]
        return tf.stack(parts), tape.gradient(loss, [v.value for v in self._variables])

    def _density_loss(self, outputs: dict[str, tf.Tensor], batch: Batch) -> tf.Tensor:
        (marker,) = self.network.markers
        crop_um = self.network.value.crop_um
        found = outputs[f"{marker}{STAIN}"]
        return density_loss_sum(found, batch["stain"], batch["stain_weight"], batch["error_p95_um"], crop_um)

    def _parts(
        self, outputs: dict[str, tf.Tensor], batch: Batch, denominators: tuple[tf.Tensor, ...], prefix: str
    ) -> tuple[tf.Tensor, tf.Tensor]:
        value, cells = _sums(self.network, outputs, batch, self.loss, prefix)
        return value / denominators[0], self.loss.cells_factor * cells / denominators[1]

    def _whole_batch(self, batch: Any, rate: tf.Tensor, keep: tf.Tensor) -> tf.Tensor:
        def replica(part: Batch) -> tuple[tf.Tensor, tf.Tensor]:
            loss, gradients = self._gradients(part, self._denominators(part))
            return loss, self._apply(gradients)

        self.optimizer.learning_rate.assign(rate)
        loss, norm = self.distribution.strategy.run(replica, args=(batch,))
        return self._close(loss, norm, keep)

    def _add_part(self, part: Any, denominators: tuple[tf.Tensor, tf.Tensor]) -> None:
        def replica(own: Batch) -> None:
            loss, gradients = self._gradients(own, denominators)
            self._loss.assign_add(loss)
            for total, gradient in zip(self._sums, gradients, strict=True):
                total.assign_add(gradient)

        self.distribution.strategy.run(replica, args=(part,))

    def _apply_sums(self, rate: tf.Tensor, keep: tf.Tensor) -> tf.Tensor:
        def replica() -> tuple[tf.Tensor, tf.Tensor]:
            loss = self._loss.read_value()
            norm = self._apply([total.read_value() for total in self._sums])
            for total in (self._loss, *self._sums):
                total.assign(tf.zeros(total.shape))
            return loss, norm

        self.optimizer.learning_rate.assign(rate)
        loss, norm = self.distribution.strategy.run(replica)
        return self._close(loss, norm, keep)

    def _apply(self, gradients: list[tf.Tensor]) -> tf.Tensor:
        """Clips and applies the gradient of the whole batch; returns its norm. In a replica's context."""
        gradients = _summed(gradients)
        norm = tf.linalg.global_norm(gradients)
        if self._clip_norm > 0:
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm, use_norm=norm)
        # Keras sums over the replicas what is the same on each
        replicas = self.distribution.replicas
        self.optimizer.apply([g / replicas for g in gradients] if replicas > 1 else gradients, self._variables)
        return norm

    def _close(self, loss: Any, norm: Any, keep: tf.Tensor) -> tf.Tensor:
        """The average of the weights, and the loss over all replicas."""
        strategy = self.distribution.strategy
        if self._averaging:
            for average, weight in zip(self.averaged, self.network.weights, strict=True):
                value = tf.convert_to_tensor(weight.value)
                strategy.extended.update(average, lambda a, w: a.assign_sub((1.0 - keep) * (a - w)), args=(value,))
        total = strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None)
        return tf.concat([total, strategy.experimental_local_results(norm)[0][None]], axis=0)


def _summed(values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Over the replicas; as they are where there is one."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, values))
