"""Schedules and phases, in optimizer steps."""

import itertools

import keras
import pytest

from virtual_stain.config import TrainingSettings
from virtual_stain.training.recipes import average_decay, cosine, make_recipe, staircase


def test_the_source_recipe_is_the_rmsprop_of_inception():
    recipe = make_recipe(TrainingSettings(), steps_per_epoch=100)
    assert [(p.first_step, p.end_step, p.head_only) for p in recipe.phases] == [(0, 1_000_000, False)]
    optimizer = recipe.phases[0].new_optimizer()
    assert isinstance(optimizer, keras.optimizers.RMSprop)
    assert (optimizer.rho, optimizer.momentum, optimizer.epsilon) == (0.9, 0.9, 1.0)
    assert float(optimizer.learning_rate) == pytest.approx(0.01)
    assert not recipe.freeze_batch_norm


def test_the_rate_falls_by_6_per_cent_every_two_epochs_in_steps():
    settings = TrainingSettings()
    rates = [staircase(settings, 100, t) for t in (0, 199, 200, 399, 400, 2000)]
    expected = [0.01, 0.01, 0.0094, 0.0094, 0.01 * 0.94**2, 0.01 * 0.94**10]
    assert rates == pytest.approx(expected)


def test_less_than_a_step_an_epoch_does_not_collapse_the_rate():
    """Few tiles and a large batch: an epoch is a fraction of a step; the rate still falls at most once a step."""
    assert staircase(TrainingSettings(), 0.01, 10) >= 0.01 * 0.94**10 - 1e-12


def test_the_cosine_rises_falls_and_ends_at_zero():
    settings = TrainingSettings(recipe="scratch", learning_rate=1e-3, max_steps=1000, warmup_steps=10)
    rates = [cosine(settings, t, 0) for t in range(1001)]
    assert rates[0] == pytest.approx(1e-3 / 11)
    assert max(rates) == rates[10]
    assert rates[10] == pytest.approx(1e-3, rel=1e-3)
    assert rates[500] == pytest.approx(5e-4, rel=1e-6)
    assert rates[1000] == pytest.approx(0, abs=1e-12)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_fine_tuning_is_head_first_then_all_with_a_new_optimizer():
    settings = TrainingSettings(
        recipe="finetune", learning_rate=1e-5, head_learning_rate=1e-3, head_steps=50, max_steps=200
    )
    recipe = make_recipe(settings, 10)
    head, rest = recipe.phases
    assert recipe.freeze_batch_norm
    assert (head.first_step, head.end_step, head.head_only) == (0, 50, True)
    assert (rest.first_step, rest.end_step, rest.head_only) == (50, 200, False)
    assert recipe.phase_at(49) is head
    assert recipe.phase_at(50) is rest
    assert head.learning_rate(49) == pytest.approx(1e-3)
    assert rest.learning_rate(50) == pytest.approx(1e-5)
    assert head.new_optimizer() is not head.new_optimizer()


@pytest.mark.parametrize(("head_steps", "names"), [(0, ["all"]), (500, ["head"]), (20, ["head", "all"])])
def test_phases_leave_no_gap(head_steps, names):
    recipe = make_recipe(TrainingSettings(recipe="finetune", head_steps=head_steps, max_steps=100), 10)
    assert [p.name for p in recipe.phases] == names
    assert all(recipe.phase_at(t).first_step <= t for t in range(100))
    with pytest.raises(ValueError, match="below 100"):
        recipe.phase_at(100)


def test_the_average_warms_up():
    settings = TrainingSettings()
    assert average_decay(settings, 0) == pytest.approx(0.1)
    assert average_decay(settings, 90) == pytest.approx(0.91)
    assert average_decay(settings, 10**7) == 0.9999
    # after 700 steps the starting weights have all but gone; at a fixed 0.9999 they would be 93 % of the average
    left = 1.0
    for t in range(700):
        left *= average_decay(settings, t)
    assert left < 1e-10
    assert 0.9999**700 > 0.93
