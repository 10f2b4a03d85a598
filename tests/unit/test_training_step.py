"""One optimizer step is one optimizer step, in however many parts it is computed."""

import numpy as np
import pytest
import tensorflow as tf

from virtual_stain.config import ModelSettings, TrainingSettings
from virtual_stain.markers import Marker
from virtual_stain.model import build
from virtual_stain.model.build import BuildOptions, build_network
from virtual_stain.model.small_cnn import small_cnn
from virtual_stain.training.recipes import average_decay, make_recipe
from virtual_stain.training.step import LossWeights, TrainStep

LOSS = LossWeights(min_cells=2, max_cells=50, cells_factor=0.02)
MODEL = ModelSettings(kind="small_cnn", weights="none", crop_px=32, dropout=0.0)


@pytest.fixture
def without_batch_norm(monkeypatch):
    """Batch statistics are a micro-batch's own; without them all ways must agree."""
    monkeypatch.setattr(build, "build_backbone", lambda settings: small_cnn(settings.crop_px, batch_norm=False))


def batches(n, size=8):
    rng = np.random.default_rng(5)
    result = []
    for _ in range(n):
        cells = rng.integers(0, 40, (size, 1)).astype(np.float32)
        cells[0] = 1  # below the minimum
        result.append(
            {
                "crop": tf.constant(rng.integers(0, 256, (size, 32, 32, 3), np.uint8)),
                "cells": tf.constant(cells),
                "positive": tf.constant(np.floor(cells * rng.uniform(0, 1, (size, 1))).astype(np.float32)),
                "trusted": tf.constant((rng.uniform(size=(size, 1)) < 0.8).astype(np.float32)),
                "usable": tf.ones((size, 1)),
            }
        )
    return result


def train(settings, micro_batches, steps=6):
    """(losses, rates, weights, averages) after some optimizer steps."""
    network = build_network(MODEL, (Marker.KI67,), BuildOptions(seed=1))
    recipe = make_recipe(settings, steps_per_epoch=1)
    step = TrainStep(network, settings, LOSS)
    step.use(recipe.phases[0].new_optimizer, head_only=False)
    losses, rates = [], []
    for t, batch in enumerate(batches(steps)):
        rate = recipe.phases[0].learning_rate(t)
        losses.append(step.run(batch, micro_batches, rate, average_decay(settings, t)).numpy())
        rates.append(float(step.optimizer.learning_rate))
    return losses, rates, network.model.get_weights(), [a.numpy() for a in step.averaged], step


@pytest.mark.parametrize(("recipe", "parts_of"), [("inception", (4, 8)), ("scratch", (8,))])
def test_accumulation_changes_neither_rate_nor_weights_nor_average(without_batch_norm, recipe, parts_of):
    """The Keras trap: with gradient_accumulation_steps = M schedule and average run M times too fast."""
    settings = TrainingSettings(recipe=recipe, learning_rate=0.01, max_steps=6, batch_size=8)
    whole = train(settings, 1)
    for m in parts_of:
        parts = train(settings, m)
        np.testing.assert_allclose(parts[0], whole[0], rtol=1e-5)
        assert parts[1] == whole[1]
        for group in (2, 3):
            for a, b in zip(parts[group], whole[group], strict=True):
                # Adam divides by √v: where a gradient is almost 0, rounding is all that is left of it
                np.testing.assert_allclose(a, b, atol=2e-5 if recipe == "inception" else 2e-4)
        assert int(parts[4].optimizer.iterations) == 6
    start = build_network(MODEL, (Marker.KI67,), BuildOptions(seed=1)).model.get_weights()
    moved = [np.abs(a - b).max() for a, b in zip(start, whole[2], strict=True)]
    assert max(moved) > 1e-2, "the tolerance is tight against what was learned"


def test_unequal_weights_between_parts_do_not_matter(without_batch_norm):
    """All trusted crops in one part: a mean of the parts' means would be another gradient."""
    settings = TrainingSettings(recipe="inception", batch_size=8, max_steps=1)
    batch = batches(1)[0] | {"trusted": tf.constant([[1.0]] * 2 + [[0.0]] * 6), "cells": tf.fill((8, 1), 20.0)}
    results = []
    for m in (1, 4):
        network = build_network(MODEL, (Marker.KI67,), BuildOptions(seed=1))
        step = TrainStep(network, settings, LOSS)
        step.use(make_recipe(settings, 1).phases[0].new_optimizer, head_only=False)
        step.run(batch, m, 0.01, 0.5)
        results.append(network.model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_average_follows_its_formula(without_batch_norm):
    settings = TrainingSettings(recipe="scratch", learning_rate=0.01, max_steps=3, batch_size=8)
    network = build_network(MODEL, (Marker.KI67,), BuildOptions(seed=1))
    step = TrainStep(network, settings, LOSS)
    step.use(make_recipe(settings, 1).phases[0].new_optimizer, head_only=False)
    expected = network.model.get_weights()
    for t, batch in enumerate(batches(3)):
        step.run(batch, 1, 0.01, average_decay(settings, t))
        d = average_decay(settings, t)
        expected = [d * e + (1 - d) * w for e, w in zip(expected, network.model.get_weights(), strict=True)]
    for a, e in zip(step.averaged, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), e, atol=1e-6)


def test_the_gradient_is_clipped_to_its_global_norm(without_batch_norm):
    """With plain steps of RMSprop at epsilon 100 the change is rate · g / √(v + 100): its norm shows the clipping."""
    settings = TrainingSettings(recipe="inception", epsilon=100.0, momentum=0.0, rho=0.999999, clip_norm=1e-3)
    network = build_network(MODEL, (Marker.KI67,), BuildOptions(seed=1))
    step = TrainStep(network, settings, LOSS)
    step.use(make_recipe(settings, 1).phases[0].new_optimizer, head_only=False)
    before = [v.numpy() for v in network.model.trainable_variables]
    step.run(batches(1)[0], 1, 1.0, 0.5)
    change = np.sqrt(
        sum(((v.numpy() - b) ** 2).sum() for v, b in zip(network.model.trainable_variables, before, strict=True))
    )
    assert change == pytest.approx(1e-3 / 10, rel=0.02)


def test_head_only_leaves_the_rest_as_it_is():
    settings = TrainingSettings(recipe="finetune", batch_size=8)
    network = build_network(MODEL, (Marker.KI67,), BuildOptions(seed=1))
    head = {id(v) for layer in network.head for v in layer.trainable_variables}
    step = TrainStep(network, settings, LOSS)
    step.use(make_recipe(settings, 1).phases[0].new_optimizer, head_only=True)
    before = {id(v): v.numpy() for v in network.model.trainable_variables}
    step.run(batches(1)[0], 2, 0.01, 0.5)
    for v in network.model.trainable_variables:
        assert (v.numpy() == before[id(v)]).all() == (id(v) not in head), v.path


def test_a_batch_without_any_label_is_no_nan(without_batch_norm):
    settings = TrainingSettings(recipe="inception", batch_size=8)
    network = build_network(MODEL, (Marker.KI67,), BuildOptions(seed=1))
    step = TrainStep(network, settings, LOSS)
    step.use(make_recipe(settings, 1).phases[0].new_optimizer, head_only=False)
    before = network.model.get_weights()
    batch = batches(1)[0] | {"trusted": tf.zeros((8, 1)), "usable": tf.zeros((8, 1))}
    assert step.run(batch, 1, 0.01, 0.5).numpy()[:2].tolist() == [0, 0]
    for a, b in zip(network.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_trap_keras_epsilon_at_the_rate_of_the_source_destroys_what_was_learned(without_batch_norm):
    """RMSprop divides by √(v + ε): with 1e-7 every weight moves by the rate, however small its gradient."""
    moved = {}
    for epsilon in (1.0, 1e-7):
        settings = TrainingSettings(recipe="inception", batch_size=8, epsilon=epsilon)
        network = build_network(MODEL, (Marker.KI67,), BuildOptions(seed=1))
        step = TrainStep(network, settings, LOSS)
        step.use(make_recipe(settings, 1).phases[0].new_optimizer, head_only=False)
        kernels = [v for v in network.model.trainable_variables if len(v.shape) == 4]
        before = [v.numpy() for v in kernels]
        for batch in batches(8):
            step.run(batch, 1, 0.01, 0.5)
        change = sum(((v.numpy() - b) ** 2).sum() for v, b in zip(kernels, before, strict=True))
        moved[epsilon] = float(np.sqrt(change / sum((b**2).sum() for b in before)))
    assert moved[1.0] < 0.05, "a few per cent of the weights in eight steps"
    assert moved[1e-7] > 1.0, "more than the weights themselves"
