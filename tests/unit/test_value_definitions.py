"""Whatever of the four definitions the records carry: learned as such, read as such, told in its unit."""

import csv
import itertools
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.models import TinyPredictor, coloured_is_tissue, tiny_card, tissue_slide
from tests.fixtures.records import tiny_records
from tests.fixtures.training import tiny_config, tiny_run
from virtual_stain.config import ScoringSettings, TissueSettings
from virtual_stain.errors import ConfigError, ModelError
from virtual_stain.evaluation.evaluate import evaluate
from virtual_stain.evaluation.summary import summary_lines
from virtual_stain.exporting.saved_model import export_run
from virtual_stain.labels.label import value_weight
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.model.losses import count_loss_sum
from virtual_stain.model.tile_reading import tile_reading
from virtual_stain.model.value import ValueOutput, value_output
from virtual_stain.readings import aggregate, per_tissue
from virtual_stain.report.dicom import _READINGS, meaning_of
from virtual_stain.scoring.local import LocalPredictor
from virtual_stain.scoring.score import score_slide
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.training.inputs import read_inputs
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
        whole = cells if definition.is_ratio else float(row["tissue_fraction"]) * 4 * CROP_MM2
        assert float(row[f"label_{name}"]) == pytest.approx(counted / whole, rel=1e-3)
    unit = ValueText(definition).unit
    assert f" {unit}" in "\n".join(summary_lines(result))
    page = (run / "evaluation.html").read_text()
    assert definition.value.replace("_", " ") in page
    assert (f"mean abs. error, {ValueText(definition).difference_unit}") in page
    assert "At the clinical cut-offs" not in page, "they are shares of positive cells"


def test_tiles_with_few_cells_are_labels_of_a_count_and_not_of_a_ratio(done):
    definition, _, _, result = done
    few = result.tiles.weight == 0
    assert few.any() == definition.is_ratio
    assert (result.tiles.labelled.sum() == len(result.tiles)) != definition.is_ratio


def test_a_slide_is_told_per_area_over_tiles_that_hold_tumour(done):
    """Per area it matters which tissue is meant: truth and reading are of the same tiles, or the choice of the tiles
    would look like an error of the density, of either sign."""
    definition, _, _, result = done
    if definition.is_ratio:
        return
    slide = result.figures["ki67"]["slides"][0]
    tiles = result.tiles.select(result.tiles.pair == slide["pair"])
    read = tiles.expected_cells >= 10
    assert 0 < read.sum() == slide["n_used"]
    assert slide["true_ratio"] == pytest.approx(tiles.counted[read].sum() / tiles.whole[read].sum())
    weights = tiles.tissue_fraction[read]
    assert slide["read_global_ratio"] == pytest.approx(np.average(tiles.value[read], weights=weights))
    assert slide["n_counted_tumour"] == (tiles.cells >= 10).sum()
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
    monkeypatch.setattr("virtual_stain.scoring.score.find_tissue", coloured_is_tissue)
    path = tissue_slide(tmp_path / "a.tif")
    with open_slide(SlideRef(path)) as slide:
        card = tiny_card(value_definition=ValueDefinition.POSITIVE_COUNT)
        score = score_slide(slide, _Counter(card), ScoringSettings(), TissueSettings())
        values = score.markers[Marker.KI67].value
        assert np.nanmax(values) > 1000
        with pytest.raises(ModelError, match="from 0 to 1"):
            score_slide(slide, _Counter(tiny_card()), ScoringSettings(), TissueSettings())


def test_a_narrow_biopsy_does_not_read_less_than_the_same_tissue_in_a_block():
    """`vstain count` divides by tissue; a reading per area of window was half of it where half is glass."""
    per_window = np.array([2000.0, 4000.0, 0.0])
    read = per_tissue(per_window, [0.5, 1.0, 0.0], ValueDefinition.POSITIVE_COUNT)
    np.testing.assert_array_equal(read, [4000.0, 4000.0, np.nan])
    np.testing.assert_array_equal(per_tissue(per_window, [0.5, 1, 0], ValueDefinition.NEGATIVE_RATIO), per_window)


def test_whiter_glass_beside_the_tissue_changes_no_count():
    """Crops of pure white are left out of a ratio; a count that left them out of its area doubled."""

    def reading(glass):
        tile = np.full((1, 64, 64, 3), glass, np.uint8)
        tile[:, :, :32] = 150
        inputs = keras.Input((32, 32, 3), dtype="uint8")
        dark = keras.ops.mean(keras.ops.cast(inputs < 200, "float32"), axis=(1, 2, 3))
        outputs = {"ki67": 1000.0 * dark, "ki67_tumour_cells": 10.0 * dark}
        return tile_reading(keras.Model(inputs, outputs), tf.constant(tile), ValueDefinition.POSITIVE_COUNT)

    grey, white = reading(244), reading(255)
    assert float(grey["ki67"][0]) == float(white["ki67"][0]) == 500.0
    assert np.isnan(float(tile_reading_of_padding()))


def tile_reading_of_padding():
    model = keras.Sequential([keras.Input((32, 32, 3), dtype="uint8"), keras.layers.Rescaling(1.0)])
    named = keras.Model(model.inputs, {"ki67": keras.ops.mean(model.outputs[0], axis=(1, 2, 3))})
    tile = tf.constant(np.full((1, 64, 64, 3), 255, np.uint8))
    return tile_reading(named, tile, ValueDefinition.POSITIVE_COUNT)["ki67"][0]


@pytest.mark.parametrize(
    ("overlap", "tissue", "flags", "expected"),
    [(1.0, 1.0, (), 1), (1.0, 1.0, ("few_cells",), 1), (0.85, 1.0, (), 0), (1.0, 0.7, (), 0), (1.0, None, (), 0),
     (1.0, 1.0, ("stains_unclear",), 0), (1.0, 1.0, ("blur_he",), 0)],
)  # fmt: skip
def test_missing_ihc_tissue_is_missing_cells(overlap, tissue, flags, expected):
    """A ratio does not feel it; a count would be learned up to a third too low."""
    assert value_weight(ValueDefinition.POSITIVE_COUNT, 0.0, True, flags, overlap, tissue) == expected
    assert value_weight(ValueDefinition.POSITIVE_COUNT, 1.0, False, flags, overlap, tissue) == 0
    assert value_weight(ValueDefinition.NEGATIVE_RATIO, 0.5, True, flags, overlap, tissue) == 0.5


def test_fit_ignored_the_value_that_it_was_asked_for(tmp_path):
    """--set counting.value_definition=X on records of another value trained the other one, and run.json said X."""
    tiny_records(tmp_path, tile_px=64, window_um=19.2)
    with pytest.raises(ConfigError, match="negative_count") as error:
        read_inputs(tmp_path, tiny_config("counting.value_definition=negative_count"), 0)
    assert "build-records" in error.value.hint
    tiny_records(tmp_path / "n", tile_px=64, window_um=19.2, value_definition="negative_count")
    inputs = read_inputs(tmp_path / "n", tiny_config(), 0)
    assert inputs.config.counting.value_definition is ValueDefinition.NEGATIVE_COUNT, "what run.json will say"


def test_readings_of_counts_are_not_weighted_by_cells():
    density, cells = [1000.0, 3000.0], [900.0, 100.0]
    count = ValueDefinition.POSITIVE_COUNT
    read = aggregate(density, cells, top_n=30, definition=count, tissue_fraction=[0.5, 1.0])
    assert read.global_mean == 2000.0
    assert read.global_ratio == pytest.approx((1000 * 0.5 + 3000 * 1.0) / 1.5)
    assert read.expected_tumour_cells == 1000.0
    with pytest.raises(ValueError, match="tissue fraction"):
        aggregate(density, cells, top_n=30, definition=count, tissue_fraction=[1.0])
    with pytest.raises(ValueError, match="fractions"):
        aggregate(density, cells, top_n=30)
    with pytest.raises(ValueError, match="finite"):
        aggregate([math.inf, 1.0], cells, top_n=30, definition=count, tissue_fraction=[1.0, 1.0])


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


def test_no_name_of_a_dicom_measurement_is_too_long_for_it():
    """DICOM's code meanings end at 64 characters, and `vstain dicom` ended there as a bug, twice."""
    for definition, marker, reading in itertools.product(ValueDefinition, Marker, _READINGS):
        text = meaning_of(ValueText(definition), marker, reading)
        assert len(text) <= 64, text
