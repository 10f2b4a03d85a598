"""BatchNormalization's statistics measured anew for the weights that are read with, before every validation.

Training keeps moving statistics of the weights of the moment. What is validated and exported are averaged weights,
whose activations are others, and after few steps the moving statistics still hold the starting weights. So they are
measured on training crops, augmented as ever: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from virtual_stain.config.training import AugmentSettings
from virtual_stain.dataset.augment import augment
from virtual_stain.model.build import Network
from virtual_stain.training.distribution import Distribution
from virtual_stain.training.step import Batch


class BatchStatistics:
    """Measures and sets them; the crops are the same ones every time."""

    def __init__(
        self, network: Network, batches: list[Batch], augmentation: AugmentSettings | None, distribution: Distribution
    ) -> None:
        self._network, self._augmentation, self._distribution = network, augmentation, distribution
        self._crops = [{name: batch[name] for name in ("crop", "draws") if name in batch} for batch in batches]
        self._layers = [layer for layer in _all_layers(network.features) if _learns_statistics(layer)]
        self._compiled = tf.function(self._replicated, autograph=False)

    def measure(self) -> None:
        """Sets every layer's moving mean and variance to those of the crops under the present weights."""
        kept = [layer.momentum for layer in self._layers]
        for layer in self._layers:
            layer.momentum = 0.0  # the moving statistics are then the last batch's
        try:
            found = [[part.numpy() for part in self._compiled(batch)] for batch in self._crops]
        finally:
            for layer, momentum in zip(self._layers, kept, strict=True):
                layer.momentum = momentum
        by_layer = [np.stack(values).astype(np.float64) for values in zip(*found, strict=True)]
        for layer, mean, variance in zip(self._layers, by_layer[::2], by_layer[1::2], strict=True):
            layer.moving_mean.assign(mean.mean(axis=0))
            layer.moving_variance.assign(variance.mean(axis=0) + mean.var(axis=0))

    def _replicated(self, batch: Batch) -> list[tf.Tensor]:
        strategy = self._distribution.strategy
        return [strategy.experimental_local_results(v)[0] for v in strategy.run(self._of_batch, args=(batch,))]

    def _of_batch(self, batch: Batch) -> list[tf.Tensor]:
        """[mean, variance, mean, variance, …] of the layers; over all processes, each of which has its own crops."""
        crops = batch["crop"]
        if self._augmentation is not None:
            crops = augment(crops, batch["draws"], self._augmentation)
        self._network.features(crops, training=True)
        values = [tf.identity(v) for layer in self._layers for v in (layer.moving_mean, layer.moving_variance)]
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            values = list(context.all_reduce(tf.distribute.ReduceOp.MEAN, values))
        return values


def _all_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _all_layers(layer)
        else:
            yield layer


def _learns_statistics(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
