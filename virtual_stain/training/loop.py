"""The loop: step, log, validate, save; stops at the step limit, on convergence, on request or on NaN."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from virtual_stain.config.training import AugmentSettings, TrainingSettings
from virtual_stain.dataset.augment import augment
from virtual_stain.errors import ModelError
from virtual_stain.model.build import Network
from virtual_stain.progress import Progress
from virtual_stain.training.batch_statistics import BatchStatistics
from virtual_stain.training.checkpoint import assign, named_values, read_checkpoint, write_checkpoint
from virtual_stain.training.distribution import Distribution
from virtual_stain.training.history import History
from virtual_stain.training.interrupt import StopRequest, stop_requests
from virtual_stain.training.recipes import Phase, Recipe, average_decay
from virtual_stain.training.run_dir import RunDir
from virtual_stain.training.step import Batch, LossWeights, TrainStep
from virtual_stain.training.validate import Validation, Validator, averaged_weights
from virtual_stain.training.watchdog import BatchNames, require_numbers
from virtual_stain.value_text import ValueText

_EXAMPLES = 8
_EXAMPLES_AFTER = (0, 1, 10, 100)
"""Validations after which example crops are kept: eight of 512 px are 4 MB, too much for every one of a thousand."""


@dataclass(slots=True)
class State:
    """What a run must know to go on, beside its arrays."""

    step: int = 0
    """Optimizer steps done."""
    phase: str = ""
    """Whose optimizer the state holds."""
    seconds: float = 0.0
    """Spent training and validating, over all parts of the run."""
    best_loss: float | None = None
    best_step: int = 0
    best_tile_r: float | None = None
    """At the best validation."""
    constant_loss: float | None = None
    """Of the training set's mean as the answer to every validation crop."""
    stale: int = 0
    """Validations since the loss last fell."""
    validation_step: int = -1
    """The step of the last validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that the loop works on."""

    network: Network
    recipe: Recipe
    settings: TrainingSettings
    loss: LossWeights
    paths: RunDir
    steps_per_epoch: float
    batches_from: Callable[[int], tf.data.Dataset]
    """Optimizer step → the endless batches from there on."""
    validation_tiles: tf.data.Dataset
    constant: Mapping[str, float] | None = None
    """Outputs of a network that has not looked: what the validation is compared with; None: with nothing."""
    augment: AugmentSettings | None = None
    distribution: Distribution = field(default_factory=Distribution)


class Trainer:
    """A run under way."""

    def __init__(self, job: Job, progress: Progress) -> None:
        self.job, self.progress, self.state = job, progress, State()
        self._together = job.distribution
        self._step = TrainStep(job.network, job.settings, job.loss, job.augment, job.distribution)
        self._enter(job.recipe.phases[0])
        self._validator = Validator(job.network, job.loss, job.validation_tiles, job.distribution, job.constant)
        self._statistics: BatchStatistics | None = None
        self._losses: list[tf.Tensor] = []
        self._names: list[BatchNames] = []
        self._logged_s = 0.0

    def restore(self) -> None:
        """Takes up the state of last.h5. Raises ModelError when it does not fit."""
        path = self.job.paths.last
        groups, values = read_checkpoint(path)
        self.state = State(**values)
        self._enter(next(p for p in self.job.recipe.phases if p.name == self.state.phase))
        for name, variables in self._groups().items():
            assign(variables, groups[name], path)

    def run(self) -> str:
        """Trains to the end; returns why it ended. Raises KeyboardInterrupt after saving, ModelError on NaN."""
        self._started, self._seconds_before = time.monotonic(), self.state.seconds
        self._logged_s = self.state.seconds
        place = self.job.paths if self._together.chief else None
        with stop_requests() as request, History(place, self.state.step) as history:
            converged, stopped = self._steps(request, history)
            if not stopped and self.state.step > self.state.validation_step:
                self._validate(history)
            self.save()
        if stopped:
            raise KeyboardInterrupt
        if converged:
            return f"converged: the validation loss has not fallen since step {self.state.best_step}"
        return f"the limit of {self.job.settings.max_steps} steps"

    def save(self) -> None:
        """Writes last.h5. Raises OutputError."""
        groups = {name: named_values(variables) for name, variables in self._groups().items()}
        if self._together.chief:
            write_checkpoint(self.job.paths.last, groups, dataclasses.asdict(self.state))

    def _steps(self, request: StopRequest, history: History) -> tuple[bool, bool]:
        """Steps until one of the reasons to stop; (the loss has converged, somebody asked for the end)."""
        settings, state = self.job.settings, self.state
        if settings.patience and state.stale >= settings.patience:
            return True, False  # killed between the last checkpoint and the record of the end
        remaining = settings.max_steps - state.step
        saved = time.monotonic()
        size = settings.batch_size
        # counted in tiles, so that the rate is one that can be compared between batch sizes
        tiles = iter(self.progress.track(range(remaining * size), remaining * size, "Training", "tiles"))
        batches = iter(self.job.batches_from(state.step))
        while next(tiles, None) is not None:
            self._one_step(next(batches), history)
            collections.deque(itertools.islice(tiles, size - 1), maxlen=0)
            if state.step % settings.log_every_steps == 0:
                self._log(history)
            if state.step % settings.validate_every_steps == 0:
                self._validate(history)
                if settings.patience and state.stale >= settings.patience:
                    return True, False
            if self._together.workers > 1 and state.step % settings.log_every_steps:
                continue  # several processes talk about stopping and saving only now and then
            if self._together.any(time.monotonic() - saved > 60 * settings.checkpoint_minutes):
                self._log(history)
                self.save()
                saved = time.monotonic()
            if self._together.any(request.asked):
                self._log(history)
                return False, True
        self._log(history)
        return False, False

    def _one_step(self, batch: Batch, history: History) -> None:
        state, settings = self.state, self.job.settings
        names = BatchNames(batch.pop("tile"), batch.pop("origin"), batch["cells"], batch["positive"])
        if state.step in (n * settings.validate_every_steps for n in _EXAMPLES_AFTER):
            history.examples(state.step, self._examples(batch))
        phase = self.job.recipe.phase_at(state.step)
        if phase is not self._phase:
            self._enter(phase)
        rate = phase.learning_rate(state.step)
        decay = average_decay(settings, state.step)
        self._losses.append(self._step.run(batch, settings.micro_batches, rate, decay))
        self._names.append(names)
        state.step += 1

    def _examples(self, batch: Batch) -> tf.Tensor:
        """Crops as the network sees them, for TensorBoard."""
        few = {name: batch[name][:_EXAMPLES] for name in ("crop", "draws")}
        return few["crop"] if self.job.augment is None else augment(few["crop"], few["draws"], self.job.augment)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self.state.phase = phase.name
        self._step.use(phase.new_optimizer, head_only=phase.head_only)

    def _tick(self) -> None:
        self.state.seconds = self._seconds_before + time.monotonic() - self._started

    def _log(self, history: History) -> None:
        if not self._losses:
            return
        losses = np.array([loss.numpy() for loss in self._losses])  # waits for the device: the clock is right
        names, self._names = self._names, []
        self._losses.clear()
        self._tick()
        state = self.state
        rate = self._phase.learning_rate(state.step - 1)
        require_numbers(self.job.paths.path, losses, names, state.step - len(losses) + 1, rate)
        ratio, cells, norm = (float(v) for v in losses.mean(axis=0))
        speed = len(losses) * self.job.settings.batch_size / max(state.seconds - self._logged_s, 1e-9)
        self._logged_s = state.seconds
        values = {"learning_rate": rate, "loss": ratio, "cells_loss": cells}
        values |= {"gradient_norm": norm, "tiles_per_s": speed}
        history.training(state.step, state.step / self.job.steps_per_epoch, state.seconds, values)

    def _validate(self, history: History) -> None:
        self._log(history)
        state, settings = self.state, self.job.settings
        with averaged_weights(self._step, use=settings.weight_average > 0, keep=settings.batch_norm_crops > 0):
            self._measure_statistics()
            found = self._validator.run()
            found = dataclasses.replace(found, loss=self._together.mean(found.loss))
            if not math.isfinite(found.loss):
                raise ModelError(
                    f"{self.job.paths.path}: the validation loss is not a number at step {state.step}. Training has "
                    "stopped; the weights of the best validation are kept.",
                    hint="Start again with a lower training.learning_rate.",
                )
            improved = state.best_loss is None or found.loss < state.best_loss * (1 - settings.min_improvement)
            if improved:
                state.best_loss, state.best_step, state.stale = found.loss, state.step, 0
                state.best_tile_r = found.tile_r
                self._write_best(found)
            else:
                state.stale += 1
        state.constant_loss = found.constant_loss
        state.validation_step = state.step
        self._tick()
        self._logged_s = state.seconds  # the rate is that of training alone
        history.validation(state.step, state.step / self.job.steps_per_epoch, state.seconds, found)
        r = "–" if found.tile_r is None else f"{found.tile_r:.3f}"
        mae = ValueText(self.job.network.value.definition).difference(found.tile_mae)
        self.progress.say(
            f"step {state.step}: validation loss {found.loss:.4f}, tile r within pairs {r}, tile error {mae}"
            + (" (best so far)" if improved else "")
        )

    def _measure_statistics(self) -> None:
        settings = self.job.settings
        if settings.batch_norm_crops and not self.job.recipe.freeze_batch_norm:
            if self._statistics is None:
                n = -(-settings.batch_norm_crops // settings.batch_size)
                batches = list(self.job.batches_from(0).take(n))
                self._statistics = BatchStatistics(self.job.network, batches, self.job.augment, self._together)
            self._statistics.measure()

    def _write_best(self, found: Validation) -> None:
        state: dict[str, Any] = {
            "step": self.state.step,
            "validation_loss": found.loss,
            "validation": found.to_dict(),
        }
        weights = named_values(self.job.network.weights)
        if self._together.chief:
            write_checkpoint(self.job.paths.best, {"weights": weights}, state)

    def _groups(self) -> dict[str, list[Any]]:
        model: keras.Model = self.job.network.logits
        own = self.job.network.weights
        weights = {id(w) for w in own}
        return {
            "weights": own,
            "random": [v for v in model.variables if id(v) not in weights],  # dropout's state, the auxiliary head
            "averaged": self._step.averaged,
            "optimizer": self._step.optimizer.variables,
        }
