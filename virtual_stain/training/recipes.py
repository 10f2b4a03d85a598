"""The recipes: which layers learn, with which optimizer, at which rate; everything counted in optimizer steps.

inception   RMSprop with epsilon 1.0, staircase decay: the original training of InceptionV3 (Szegedy et al. 2016,
            section 8, and its published code), which the source's "RMSprop, 0.01" means
finetune    the head alone, then all layers at a low rate, BatchNormalization in inference mode (Adam, cosine)
scratch     Adam and a cosine decay to 0 over max_steps: for reduced configurations from random weights
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import keras

from virtual_stain.config.training import TrainingSettings


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of steps with one set of learning layers and one optimizer."""

    name: str
    first_step: int
    end_step: int
    """Exclusive."""
    head_only: bool
    learning_rate: Callable[[int], float]
    """Of an optimizer step, from 0 over the whole run."""
    new_optimizer: Callable[[], keras.optimizers.Optimizer]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The phases of a run, one after the other without gaps."""

    phases: tuple[Phase, ...]
    freeze_batch_norm: bool

    def phase_at(self, step: int) -> Phase:
        """The phase that the step (from 0) belongs to."""
        for phase in self.phases:
            if phase.first_step <= step < phase.end_step:
                return phase
        raise ValueError(f"Expected a step below {self.phases[-1].end_step}. Received: {step}")


def make_recipe(settings: TrainingSettings, steps_per_epoch: float) -> Recipe:
    """The recipe that `settings.recipe` names. `steps_per_epoch`: optimizer steps for one crop of every tile."""
    end = settings.max_steps
    if settings.recipe == "inception":
        phase = Phase(
            "all", 0, end, False, lambda t: staircase(settings, steps_per_epoch, t), lambda: _rmsprop(settings)
        )
        return Recipe((phase,), freeze_batch_norm=False)
    if settings.recipe == "scratch":
        phase = Phase("all", 0, end, False, lambda t: cosine(settings, t, 0), _adam)
        return Recipe((phase,), freeze_batch_norm=False)
    head_end = min(settings.head_steps, end)
    head = Phase("head", 0, head_end, True, lambda t: settings.head_learning_rate, _adam)
    rest = Phase("all", head_end, end, False, lambda t: cosine(settings, t, head_end), _adam)
    # a new optimizer for the second phase: moments of a gradient that was never taken are no estimate
    return Recipe(tuple(p for p in (head, rest) if p.end_step > p.first_step), freeze_batch_norm=True)


def staircase(settings: TrainingSettings, steps_per_epoch: float, step: int) -> float:
    """initial · factor^⌊epochs / decay_epochs⌋: 0.94 every two epochs in the source."""
    decays = math.floor(step / max(steps_per_epoch * settings.decay_epochs, 1.0))
    return settings.learning_rate * settings.decay_factor**decays


def cosine(settings: TrainingSettings, step: int, first_step: int) -> float:
    """A linear rise over warmup_steps, then half a cosine from learning_rate to 0 at max_steps."""
    done, total = step - first_step, max(settings.max_steps - first_step, 1)
    rise = min(1.0, (done + 1) / (settings.warmup_steps + 1))
    return settings.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(done / total, 1.0)))


def average_decay(settings: TrainingSettings, step: int) -> float:
    """Decay of the weight average at optimizer step t (from 0): min(limit, (1 + t) / (10 + t)).

    Without the warm-up, 93 % of the average after 700 steps at 0.9999 would still be the starting weights.
    """
    return min(settings.weight_average, (1 + step) / (10 + step))


def _rmsprop(settings: TrainingSettings) -> keras.optimizers.Optimizer:
    return keras.optimizers.RMSprop(
        learning_rate=settings.learning_rate, rho=settings.rho, momentum=settings.momentum, epsilon=settings.epsilon
    )


def _adam() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam()
