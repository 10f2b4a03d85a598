"""Evaluation on held-out patients: who may be read, what the figures are, what is written."""

import csv
import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest

from tests.fixtures.records import tiny_records
from tests.fixtures.training import tiny_run
from virtual_stain.dataset.pipeline import CropSpec, tile_batches
from virtual_stain.errors import InputError, OutputError, VerificationError
from virtual_stain.evaluation import evaluate as evaluate_module
from virtual_stain.evaluation.evaluate import evaluate
from virtual_stain.evaluation.figures import marker_figures
from virtual_stain.evaluation.held_out import held_out_pairs
from virtual_stain.evaluation.permutation import head_readings, permutation_check
from virtual_stain.evaluation.plots import PICTURES
from virtual_stain.evaluation.predict import TileTable
from virtual_stain.evaluation.slide_figures import ReadingRule, slide_figures
from virtual_stain.evaluation.summary import summary_lines
from virtual_stain.exporting.evaluation import held_out
from virtual_stain.files import folder_lock, sha256_file
from virtual_stain.markers import Marker
from virtual_stain.readings import aggregate
from virtual_stain.records.duplicates import Duplicate, write_duplicates
from virtual_stain.records.manifest import read_manifest, write_manifest
from virtual_stain.records.read import iterate_shard
from virtual_stain.records.write import write_shards
from virtual_stain.training.metrics import limits_of_agreement, mean_within, pearson, per_group
from virtual_stain.training.run_dir import load_run

RULE = ReadingRule(min_tissue_fraction=0.5, min_tumour_cells=50, top_n=3)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("evaluated"))


def table(n=40, seed=0, **columns):
    rng = np.random.default_rng(seed)
    cells = rng.integers(60, 300, n).astype(float)
    values = {
        "pair": np.array([f"p{i % 4}" for i in range(n)]),
        "patient": np.array([f"patient {i % 4 // 2}" for i in range(n)]),
        "marker": np.array(["ki67"] * n),
        "col": np.arange(n),
        "row": np.arange(n),
        "tissue_fraction": np.ones(n),
        "weight": np.ones(n),
        "usable": np.ones(n),
        "clear": np.ones(n),
        "positive": np.floor(cells * rng.uniform(0, 0.9, n)),
        "cells": cells,
        "value": rng.uniform(0, 1, n),
        "expected_cells": rng.uniform(50, 300, n),
        "intensities": np.full((n, 3), np.nan),
        "intensity_shares": np.full((n, 3), np.nan),
        "registration_um": rng.uniform(2, 40, n),
        "fold": np.zeros(n, np.int64),
    }
    values |= columns
    return TileTable(**({"counted": values["positive"], "whole": values["cells"]} | values))


def test_the_test_fold_alone_is_read(done):
    records, run = done
    result = evaluate(run)
    manifest = read_manifest(records)
    held_out = {p.pair for p in manifest.pairs_in([0])}
    assert set(result.tiles.pair.tolist()) == held_out
    assert len(result.tiles) == sum(p.n_records for p in manifest.pairs_in([0]))
    value = json.loads((run / "evaluation.json").read_text())
    assert value["markers"]["ki67"]["tiles"]["n_patients"] == 2
    assert {s["pair"] for s in value["markers"]["ki67"]["slides"]} == held_out
    for name in PICTURES:
        picture = cv2.imread(str(run / name))
        assert picture.shape[0] > 400
        assert picture.std() > 5
    assert json.loads((run / "run.json").read_text())["command"] == "fit", "the record of the training stays"


def test_predictions_csv_agrees_with_the_records_and_the_figures(done):
    records, run = done
    result = evaluate(run, records)
    with (run / "predictions.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(result.tiles)
    for pair in read_manifest(records).pairs_in([0]):
        mine = [r for r in lines if r["pair"] == pair.pair and float(r["label_weight"]) > 0]
        assert sum(int(r["label_positive"]) for r in mine) == pair.positive
        assert sum(int(r["label_tumour_cells"]) for r in mine) == pair.positive + pair.negative
    known = [r for r in lines if float(r["label_weight"]) > 0]
    error = np.mean([abs(float(r["ratio"]) - float(r["label_ratio"])) for r in known])
    assert error == pytest.approx(result.figures["ki67"]["tiles"]["mae"], abs=1e-5)
    text = "\n".join(summary_lines(result))
    assert "held-out tiles of 2 patients" in text
    assert str(run) in text


def test_trained_on_patients_are_refused_by_their_hash(done, tmp_path):
    """Other records that hold one patient of the training among strangers."""
    _, run = done
    tiny_records(tmp_path, tile_px=64, window_um=19.2, seed=5)
    with pytest.raises(InputError, match="4 of its 6 patients were seen in training"):
        evaluate(run, tmp_path)


def test_records_that_were_built_again_since_the_training_are_told_apart_from_strangers(done):
    records, run = done
    text = (records / "manifest.json").read_text()
    try:
        (records / "manifest.json").write_text(text.replace('"min_tumour_cells": 20', '"min_tumour_cells": 21'))
        with pytest.raises(InputError, match="4 of its 6 patients") as caught:
            evaluate(run)
        assert "built again since" in str(caught.value)
    finally:
        (records / "manifest.json").write_text(text)


def test_the_same_slide_under_another_patient_is_refused(done, tmp_path):
    records, run = done
    tiny_records(tmp_path, tile_px=64, window_um=19.2, seed=5)
    manifest = read_manifest(tmp_path)
    strangers = tuple(dataclasses.replace(p, patient_id=f"{i:064x}") for i, p in enumerate(manifest.pairs))
    loaded = load_run(run)
    with pytest.raises(InputError, match="4 of its 6 patients"):
        held_out_pairs(loaded, tmp_path, dataclasses.replace(manifest, pairs=strangers))
    unseen = tuple(dataclasses.replace(p, he_content_sha256=f"{i:064x}") for i, p in enumerate(strangers))
    chosen = held_out_pairs(loaded, tmp_path, dataclasses.replace(manifest, pairs=unseen))
    assert len(chosen) == 6, "of other records every patient is read, whatever the fold"
    assert records != tmp_path


def test_tissue_on_two_sides_that_was_found_after_the_training_is_refused(done):
    """`fit` cannot know what `vstain records verify` finds later; figures on such patients are no evidence."""
    records, run = done
    folds = {p.fold: p.pair for p in read_manifest(records).pairs}
    digest = sha256_file(records / "manifest.json")
    try:
        write_duplicates(records, digest, [Duplicate(folds[0], folds[2], 5)])
        with pytest.raises(VerificationError, match="5 tiles look alike"):
            evaluate(run)
        write_duplicates(records, digest, [Duplicate(folds[2], folds[2], 5)])
        evaluate(run)
        assert json.loads((run / "evaluation.json").read_text())["duplicate_tissue"], "on one side it is reported"
    finally:
        (records / "duplicates.json").unlink()


def test_figures_are_of_the_weights_that_read_also_while_the_training_goes_on(done, tmp_path, monkeypatch):
    """The training may find better weights while the shards are verified: their sha256 let export take the figures of
    the old ones for theirs."""
    run = shutil.copytree(done[1], tmp_path / "run")
    old, best = sha256_file(run / "best.h5"), run / "best.h5"

    def verified(*_):
        best.write_bytes(best.read_bytes() + b" ")

    monkeypatch.setattr(evaluate_module, "verify_shards", verified)
    evaluate(run)
    assert json.loads((run / "evaluation.json").read_text())["runs"][0]["best_sha256"] == old
    assert held_out(run).figures is None


def test_other_records_have_their_own_folder(done, tmp_path):
    _, run = done
    tiny_records(tmp_path, tile_px=64, window_um=19.2, seed=5)
    manifest = read_manifest(tmp_path)
    new = [
        dataclasses.replace(p, patient_id=f"{i:064x}", he_content_sha256=f"{i:064x}")
        for i, p in enumerate(manifest.pairs)
    ]
    write_manifest(tmp_path, dataclasses.replace(manifest, pairs=tuple(new)))
    result = evaluate(run, tmp_path, excel=True)
    assert result.folder == run / f"evaluation-{tmp_path.name}"
    assert (result.folder / "predictions.csv").read_bytes().startswith(b"\xef\xbb\xbfpair,")
    assert json.loads((result.folder / "run.json").read_text())["command"] == "evaluate"


def test_the_runs_folder_under_another_name_keeps_the_record_of_the_training(done, monkeypatch):
    _, run = done
    before = (run / "run.json").read_bytes()
    monkeypatch.chdir(run.parent)
    evaluate(run.relative_to(run.parent), out=run.parent / "records" / ".." / run.name)
    assert (run / "run.json").read_bytes() == before


@pytest.mark.parametrize("content", ['{"command": "fit"}', "[]", "no JSON"])
def test_a_folder_of_another_command_gets_no_evaluation(done, tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(OutputError, match="belongs to another command"):
        evaluate(done[1], out=tmp_path)
    assert (tmp_path / "run.json").read_text() == content
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_two_runs_do_not_write_one_evaluation(done, tmp_path):
    with folder_lock(tmp_path), pytest.raises(OutputError, match="writing here"):
        evaluate(done[1], out=tmp_path)
    evaluate(done[1], out=tmp_path)
    evaluate(done[1], out=tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["command"] == "evaluate"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fingerprint": "f" * 16}, "hashed with another key"),
        ({"window_um": 25.6}, "window"),
        ({"marker": "er"}, "markers"),
    ],
)
def test_records_that_cannot_be_compared_are_refused(done, tmp_path, changes, sentence):
    _, run = done
    tiny_records(tmp_path, **({"tile_px": 64, "window_um": 19.2} | changes))
    with pytest.raises(InputError, match=sentence):
        evaluate(run, tmp_path)


def test_records_that_went_away_are_asked_for(done, tmp_path):
    records, run = done
    hidden = records.with_name("moved")
    records.rename(hidden)
    try:
        with pytest.raises(InputError, match="no longer at"):
            evaluate(run)
        assert evaluate(run, hidden).folder == run
    finally:
        hidden.rename(records)


def test_perfect_readings_are_perfect():
    t = table()
    t = dataclasses.replace(t, value=t.positive / t.cells, expected_cells=t.cells)
    figures = marker_figures(t, RULE)
    assert figures["tiles"]["pearson_within_patient"] == pytest.approx(1)
    assert figures["tiles"]["mae"] == pytest.approx(0, abs=1e-12)
    assert figures["slide_agreement"]["mae"] == pytest.approx(0, abs=1e-12)
    for slide in figures["slides"]:
        assert slide["read_top_mean"] == pytest.approx(slide["true_top_mean"])


def test_knowing_the_patient_alone_is_no_correlation_within():
    patient = np.array(["a"] * 20 + ["b"] * 20)
    truth = np.r_[RNG.normal(0.2, 0.02, 20), RNG.normal(0.6, 0.02, 20)]
    read = np.r_[RNG.normal(0.2, 0.02, 20), RNG.normal(0.6, 0.02, 20)]
    assert pearson(truth, read) > 0.9
    assert abs(mean_within(patient, truth, read, pearson)) < 0.4


def test_correlation_where_there_is_none_is_none():
    assert pearson(np.array([0.1, 0.2]), np.array([0.1, 0.2])) is None
    assert pearson(np.full(5, 0.3), RNG.uniform(size=5)) is None
    assert per_group(np.array(["a", "a"]), np.zeros(2), np.zeros(2), pearson) == {"a": None}
    assert mean_within(np.array(["a", "a"]), np.zeros(2), np.zeros(2), pearson) is None
    assert limits_of_agreement(np.zeros(2), np.zeros(2)) is None
    bias, low, high = limits_of_agreement(np.zeros(4), np.array([1.0, 1.0, 3.0, 3.0]))
    assert (bias, high - bias) == pytest.approx((2, 1.96 * np.std([1, 1, 3, 3], ddof=1)))
    assert low == pytest.approx(2 * bias - high)


def test_tiles_without_tissue_cells_or_reading_enter_no_slide_reading():
    t = table(8, pair=np.array(["p"] * 8))
    t.tissue_fraction[0], t.expected_cells[1], t.value[2] = 0.49, 49.9, np.nan
    figures = slide_figures(t, RULE)[0]
    kept = [3, 4, 5, 6, 7]
    assert figures.n_used == 5
    assert figures.read_global_mean == pytest.approx(t.value[kept].mean())
    assert figures.read_global_ratio == pytest.approx(np.average(t.value[kept], weights=t.expected_cells[kept]))
    assert figures.read_top_mean == pytest.approx(np.sort(t.value[kept])[-3:].mean())
    assert figures.true_ratio == pytest.approx(t.positive.sum() / t.cells.sum())


def test_untrusted_counts_are_not_the_truth():
    t = table(4, pair=np.array(["p"] * 4), usable=np.array([1.0, 1.0, 0.0, 1.0]), weight=np.array([1.0, 0, 0, 0]))
    figures = slide_figures(t, RULE)[0]
    assert figures.true_ratio == pytest.approx(t.positive[[0, 1, 3]].sum() / t.cells[[0, 1, 3]].sum())
    assert figures.true_mean == pytest.approx(t.truth[0])


def test_classes_that_cannot_be_told_are_not_the_truth():
    """Their number of cells is a label, their ratio is none: it must not enter the slide's either."""
    t = table(4, pair=np.array(["p"] * 4), weight=np.array([1.0, 0, 1, 1]), clear=np.array([1.0, 0, 1, 1]))
    t.positive[1] = t.cells[1]
    kept = [0, 2, 3]
    figures = marker_figures(t, RULE)
    assert figures["slides"][0]["true_ratio"] == pytest.approx(t.positive[kept].sum() / t.cells[kept].sum())
    assert figures["tiles"]["tumour_cells_mae"] == pytest.approx(np.abs(t.cells - t.expected_cells).mean())


def test_the_flag_of_unclear_stains_reaches_the_evaluation(tmp_path):
    manifest = tiny_records(tmp_path, tile_px=64, window_um=19.2, patients=1, tiles_per_pair=3, few_cells_every=0)
    (pair,) = manifest.pairs
    tiles = [r for s in pair.shards for r in iterate_shard(tmp_path / s.file)]
    tiles[1] |= {"tile/flags": ["border", "stains_unclear"], "label/weight": 0.0}
    write_shards(tmp_path, pair.pair, tiles, shard_bytes=10**9)
    spec = CropSpec(markers=(Marker.KI67,), tile_px=64, crop_px=32)
    (batch,) = tile_batches(tmp_path, [pair], spec, 4)
    assert batch["clear"].numpy().tolist() == [True, False, True]


def test_a_slide_without_a_valid_tile_has_no_reading():
    figures = slide_figures(table(3, pair=np.array(["p"] * 3), expected_cells=np.zeros(3)), RULE)[0]
    assert (figures.read_global_ratio, figures.read_global_mean, figures.read_top_mean, figures.error) == (None,) * 4


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_evaluation_reads_a_slide_as_scoring_does(n):
    """Two implementations on purpose (scoring deploys without training); they must agree."""
    t = table(n, seed=n, pair=np.array(["p"] * n))
    ours = slide_figures(t, RULE)[0]
    theirs = aggregate(t.value, t.expected_cells, top_n=RULE.top_n)
    assert ours.read_top_mean == pytest.approx(theirs.top_mean, rel=1e-12)
    assert ours.read_global_mean == pytest.approx(theirs.global_mean, rel=1e-12)
    assert ours.read_global_ratio == pytest.approx(theirs.global_ratio, rel=1e-12)


def test_the_permutation_check_finds_signal_and_none_in_permuted_labels():
    """On features as a trained network leaves them: one strong direction, many weak ones."""
    rng = np.random.default_rng(1)
    signal = rng.normal(size=600)
    x = rng.normal(size=(600, 200)) + 3 * signal[:, None] * rng.uniform(0.5, 1, 200)
    y = signal + rng.normal(size=600)
    targets = np.stack([y[:400], *(rng.permutation(y[:400]) for _ in range(20))], axis=1)
    read = head_readings(x[:400], targets, x[400:])
    r = [pearson(y[400:], read[:, i]) for i in range(21)]
    assert r[0] > 0.6
    assert abs(np.mean(r[1:])) < 0.1


def test_a_leak_does_not_survive_as_zero():
    """Were the permuted labels still in the features, the check would show it."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(300, 30)), rng.normal(size=300)
    leaked = x.copy()
    leaked[:, 0] = y
    assert pearson(y[200:], head_readings(leaked[:200], y[:200, None], leaked[200:])[:, 0]) > 0.9


def test_the_check_runs_on_a_run(done):
    records, run = done
    check = permutation_check(load_run(run), records, n_refits=5)
    assert len(check.permuted_r) == 5
    assert check.true_labels_r is not None
    assert -1 <= check.mean_r <= 1
    again = permutation_check(load_run(run), records, n_refits=5)
    np.testing.assert_allclose(again.permuted_r, check.permuted_r, atol=1e-4)
