"""One process and device, several GPUs of one machine, or several processes through TF_CONFIG: the same training step.

Every process walks the same order of tiles and takes its own part of every batch, so that step t's batch, and with it
the gradient, is the same however many share the work. (Batch statistics of BatchNormalization are a replica's own.)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from virtual_stain.errors import ConfigError

TF_CONFIG = "TF_CONFIG"


@dataclass(frozen=True, slots=True)
class Distribution:
    """How a training is spread."""

    strategy: tf.distribute.Strategy = field(default_factory=tf.distribute.get_strategy)
    worker: int = 0
    """This process, from 0; worker 0 writes the run's folder."""
    workers: int = 1

    @property
    def chief(self) -> bool:
        return self.worker == 0

    @property
    def replicas(self) -> int:
        """Devices over all processes."""
        return int(self.strategy.num_replicas_in_sync)

    def split(self, batch: Mapping[str, tf.Tensor]) -> Any:
        """This process' part of a batch, spread over its own devices."""
        local = self.replicas // self.workers
        if local == 1:
            return dict(batch)
        own = {name: tf.split(value, local) for name, value in batch.items()}
        return {
            name: self.strategy.experimental_distribute_values_from_function(
                lambda context, parts=parts: parts[context.replica_id_in_sync_group % local]
            )
            for name, parts in own.items()
        }

    def any(self, value: bool) -> bool:
        """Whether it is true in any process; all must ask together."""
        return self._total(float(value)) > 0

    def mean(self, value: float) -> float:
        """The mean over the processes, the same number in each: decisions must not differ by a rounding."""
        return value if self.workers == 1 else self._total(value) / self.replicas

    def of_chief(self, value: float) -> float:
        """What worker 0 says; all must ask together."""
        return self._total(value if self.chief else 0.0) / (self.replicas / self.workers)

    def _total(self, value: float) -> float:
        if self.workers == 1:
            return value * (self.replicas if self.replicas > 1 else 1)

        def replica() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(value, tf.float64))

        return float(self.strategy.experimental_local_results(self.strategy.run(tf.function(replica)))[0])


def open_distribution(setting: str, environment: Mapping[str, str] | None = None) -> Distribution:
    """`setting`: "auto" (TF_CONFIG with several workers, else all GPUs where there are several) or "none".

    Several workers: to be called before anything else of TensorFlow. Raises ConfigError for a TF_CONFIG that is none.
    """
    env = os.environ if environment is None else environment
    if setting == "none":
        return Distribution()
    cluster = _workers(env.get(TF_CONFIG))
    if cluster is not None:
        index, number = cluster
        return Distribution(tf.distribute.MultiWorkerMirroredStrategy(), index, number)
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return Distribution(tf.distribute.MirroredStrategy())
    return Distribution()


def _workers(text: str | None) -> tuple[int, int] | None:
    """(index, number) of a cluster of several workers, else None."""
    if not text or not text.strip():
        return None
    try:
        value = json.loads(text)
        workers = value.get("cluster", {}).get("worker", [])
        if len(workers) < 2:
            return None
        kind, index = value["task"]["type"], int(value["task"]["index"])
        if kind != "worker" or not 0 <= index < len(workers):
            raise ValueError(f"task {kind} {index} of {len(workers)} workers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{TF_CONFIG}: expected a cluster of workers and this process' task. Received: {error}",
            hint='For example {"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}',
        ) from None
    return index, len(workers)
