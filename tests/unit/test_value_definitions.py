"""Whatever of the four definitions the records carry: learned as such, read as such, told in its unit."""

import csv
import json
import math

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.models import TinyPredictor, coloured_is_tissue, tiny_card, tissue_slide
from tests.fixtures.training import tiny_run
from virtual_stain.config import ScoringSettings, TissueSettings
from virtual_stain.errors import ModelError
from virtual_stain.evaluation.evaluate import evaluate
from virtual_stain.evaluation.summary import summary_lines
from virtual_stain.export.saved_model import export_run
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.model.losses import count_loss_sum
from virtual_stain.model.value import ValueOutput, value_output
from virtual_stain.readings import aggregate
from virtual_stain.score.local import LocalPredictor
from virtual_stain.score.score import score_slide
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.training.run_dir import load_run
from virtual_stain.value_text import ValueText

COUNTS = (ValueDefinition.POSITIVE_COUNT, ValueDefinition.NEGATIVE_COUNT)
CROP_MM2 = (32 * 0.3 / 1000) ** 2
LEARNING = ("training.max_steps=60", "training.validate_every_steps=20")


@pytest.fixture(scope="module", params=[d.value for d in ValueDefinition if d is not ValueDefinition.POSITIVE_RATIO])
def done(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    records, run = tiny_run(folder, *LEARNING, value_definition=request.param, cells_per_tile=120, tiles_per_pair=16)
    return ValueDefinition(request.param), records, run, evaluate(run)


def test_the_four_values_of_a_crop_belong_together():
    logit, log_cells = tf.constant([-1.5, 0.0, 2.0]), tf.math.log(tf.constant([3.0, 40.0, 7.0]))
    read = {d: value_output(d, 32, 0.3).read(logit, log_cells).numpy() for d in ValueDefinition}
    share = 1 / (1 + np.exp(-logit.numpy()))
    np.testing.assert_allclose(read[ValueDefinition.POSITIVE_RATIO], share, rtol=1e-5)
    np.testing.assert_allclose(read[ValueDefinition.NEGATIVE_RATIO], 1 - share, rtol=1e-5)
    np.testing.assert_allclose(read[ValueDefinition.POSITIVE_COUNT], share * [3, 40, 7] / CROP_MM2, rtol=1e-5)
    both = read[ValueDefinition.POSITIVE_COUNT] + read[ValueDefinition.NEGATIVE_COUNT]
    np.testing.assert_allclose(both, np.array([3, 40, 7]) / CROP_MM2, rtol=1e-5)


def test_a_count_needs_the_area_that_it_is_a_count_of():
    with pytest.raises(ValueError, match="area of a crop"):
        ValueOutput(ValueDefinition.POSITIVE_COUNT)


def test_the_loss_of_a_count_is_half_the_poisson_deviance():
    """Never negative, so that two validations can be compared by their ratio; 0 and level where the count is met."""
    counted, weights = tf.constant([0.0, 3.0, 50.0]), tf.constant([1.0, 2.0, 0.5])
    log_rate = tf.math.log(tf.constant([0.2, 5.0, 31.0]))
    rate, k = np.exp(log_rate.numpy()), counted.numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = weights.numpy() * (rate - k + np.where(k > 0, k * np.log(k / rate), 0.0))
    assert float(count_loss_sum(log_rate, counted, weights)) == pytest.approx(expected.sum(), rel=1e-5)
    met = tf.Variable(tf.math.log(counted[1:]))
    with tf.GradientTape() as tape:
        loss = count_loss_sum(met, counted[1:], weights[1:])
    assert float(loss) == pytest.approx(0.0, abs=1e-4)
    np.testing.assert_allclose(tape.gradient(loss, met).numpy(), 0.0, atol=1e-4)


def test_a_value_is_learned_and_evaluated_in_its_own_unit(done):
    definition, _, run, result = done
    assert result.figures["ki67"]["tiles"]["pearson_pooled"] > 0.7, "60 steps on discs that show it"
    value = json.loads((run / "evaluation.json").read_text())
    assert (value["value_definition"], value["unit"]) == (definition.value, definition.unit)
    with (run / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    name = "ratio" if definition.is_ratio else "cells_per_mm2"
    for row in rows[:6]:
        positive, cells = int(row["label_positive"]), int(row["label_tumour_cells"])
        counted = positive if definition.of_positive else cells - positive
        whole = cells if definition.is_ratio else 4 * CROP_MM2
        assert float(row[f"label_{name}"]) == pytest.approx(counted / whole, rel=1e-5)
    unit = ValueText(definition).unit
    assert f" {unit}" in "\n".join(summary_lines(result))
    page = (run / "evaluation.html").read_text()
    assert definition.value in page
    assert (f"mean abs. error, {ValueText(definition).difference_unit}") in page
    assert "At the clinical cut-offs" not in page, "they are shares of positive cells"


def test_tiles_with_few_cells_are_labels_of_a_count_and_not_of_a_ratio(done):
    definition, _, _, result = done
    few = result.tiles.weight == 0
    assert few.any() == definition.is_ratio
    assert (result.tiles.labelled.sum() == len(result.tiles)) != definition.is_ratio


def test_a_slide_is_told_per_area_over_tiles_that_hold_tumour(done):
    """Stroma would dilute the truth of a density, and the reading leaves it out."""
    definition, _, _, result = done
    if definition.is_ratio:
        return
    slide = result.figures["ki67"]["slides"][0]
    tiles = result.tiles.select(result.tiles.pair == slide["pair"])
    held = tiles.cells >= 10
    assert slide["true_ratio"] == pytest.approx(tiles.counted[held].sum() / tiles.whole[held].sum())
    assert slide["read_global_ratio"] == slide["read_global_mean"]
    assert not result.figures["ki67"]["interval"]["available"]


def test_the_bundle_answers_what_the_network_does_and_says_what_it_is(done, tmp_path):
    definition, _, run, _ = done
    version = export_run(run, tmp_path / "model")
    predictor = LocalPredictor(tmp_path / "model", ScoringSettings(precision="float32"))
    assert predictor.card.value_definition is definition
    tiles = np.random.default_rng(1).integers(60, 230, (2, 64, 64, 3), np.uint8)
    found = predictor.predict(tiles)["ki67"]
    crops = tiles.reshape(2, 2, 32, 2, 32, 3).swapaxes(2, 3).reshape(8, 32, 32, 3)
    expected = load_run(run).model(crops, training=False)["ki67"].numpy().reshape(2, 4).mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    card = (version / "model_card.md").read_text()
    assert f"Value: {definition.value} ({definition.unit})" in card
    assert f"mean absolute error, {ValueText(definition).difference_unit}" in card


class _Counter(TinyPredictor):
    """Answers redness as cells per mm²."""

    def predict(self, tiles):
        return {n: v * (2550.0 if n == "ki67" else 1.0) for n, v in super().predict(tiles).items()}


def test_a_count_above_one_is_a_reading_and_of_a_ratio_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("virtual_stain.score.score.find_tissue", coloured_is_tissue)
    path = tissue_slide(tmp_path / "a.tif")
    with open_slide(SlideRef(path)) as slide:
        card = tiny_card(value_definition=ValueDefinition.POSITIVE_COUNT)
        score = score_slide(slide, _Counter(card), ScoringSettings(), TissueSettings())
        values = score.markers[Marker.KI67].value
        assert np.nanmax(values) > 1000
        with pytest.raises(ModelError, match="from 0 to 1"):
            score_slide(slide, _Counter(tiny_card()), ScoringSettings(), TissueSettings())


def test_readings_of_counts_are_not_weighted_by_cells():
    density, cells = [1000.0, 3000.0], [900.0, 100.0]
    read = aggregate(density, cells, top_n=30, definition=ValueDefinition.POSITIVE_COUNT)
    assert read.global_ratio == read.global_mean == 2000.0
    assert read.expected_tumour_cells == 1000.0
    with pytest.raises(ValueError, match="fractions"):
        aggregate(density, cells, top_n=30)
    with pytest.raises(ValueError, match="finite"):
        aggregate([math.inf, 1.0], cells, top_n=30, definition=ValueDefinition.POSITIVE_COUNT)


@pytest.mark.parametrize(
    ("definition", "value", "text", "difference"),
    [
        (ValueDefinition.POSITIVE_RATIO, 0.2871, "28.7 %", "28.7 points"),
        (ValueDefinition.NEGATIVE_RATIO, 1.0, "100.0 %", "100.0 points"),
        (ValueDefinition.POSITIVE_COUNT, 1234.4, "1,234 /mm²", "1,234 /mm²"),
        (ValueDefinition.NEGATIVE_COUNT, None, "–", "–"),
    ],
)
def test_values_are_written_in_their_unit(definition, value, text, difference):
    shown = ValueText(definition)
    assert (shown.text(value), shown.difference(value)) == (text, difference)
    assert shown.of(Marker.ER) == f"ER-{'positive' if definition.of_positive else 'negative'} tumour cells"
