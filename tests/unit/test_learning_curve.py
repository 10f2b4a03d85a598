"""How many patients do I need: nested subsets, a power law with its interval, no promise that the data do not make."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests.fixtures.records import tiny_records
from tests.fixtures.training import TINY
from virtual_stain.cli.main import _run
from virtual_stain.dataset.split import recorded_split, require_no_shared_tissue, split_by_patient
from virtual_stain.errors import VerificationError
from virtual_stain.evaluation.curve import CurvePoint, curve_figures, curve_plot, curve_sentence
from virtual_stain.evaluation.figures import marker_figures
from virtual_stain.evaluation.html import evaluation_html
from virtual_stain.evaluation.power_law import fit_power_law
from virtual_stain.evaluation.predict import TileTable
from virtual_stain.evaluation.slide_figures import ReadingRule

RULE = ReadingRule(0.5, 50.0, 30)


def patients(pairs):
    return {p.patient_id for p in pairs}


def test_fewer_patients_are_a_part_of_more_and_the_others_stay_where_they_are(tmp_path):
    manifest = tiny_records(tmp_path, patients=12, tiles_per_pair=2, few_cells_every=0)
    splits = [split_by_patient(manifest, 1, 0.2, n) for n in (2, 4, 0)]
    small, middle, whole = splits
    assert len(patients(small.train)) == 2
    assert patients(small.train) < patients(middle.train) < patients(whole.train)
    assert small.test == middle.test == whole.test
    assert small.validation == middle.validation == whole.validation
    assert patients(small.train) | patients(small.unused) == patients(whole.train)
    assert recorded_split(manifest, 1, small.patients()) == small
    assert "unused" not in whole.patients()


def test_the_same_tissue_in_a_patient_who_is_left_out_is_no_leak(tmp_path):
    manifest = tiny_records(tmp_path, patients=9, tiles_per_pair=2, few_cells_every=0)
    split = split_by_patient(manifest, 0, 0.2, 2)
    trained, tested, left = (side[0].pair for side in (split.train, split.test, split.unused))
    require_no_shared_tissue(tmp_path, split, [{"pair": trained, "other": left, "n_tiles": 3}])
    with pytest.raises(VerificationError, match="two sides"):
        require_no_shared_tissue(tmp_path, split, [{"pair": trained, "other": tested, "n_tiles": 3}])


def test_a_power_law_is_found_with_an_interval_that_holds_it():
    rng = np.random.default_rng(0)
    sizes = [4, 8, 16, 32]
    law = 0.2 * np.array(sizes) ** -0.5
    errors = {f"p{i}": list(law * rng.lognormal(0, 0.3) * rng.lognormal(0, 0.1, 4)) for i in range(40)}
    found = fit_power_law(sizes, errors, resamples=300)
    low, high = found.doubling_interval
    assert low < 2**-0.5 < high
    assert found.falls
    assert found.at_double == pytest.approx(np.mean(list(errors.values()), axis=0)[-1] * 2**-0.5, rel=0.15)


def test_errors_that_do_not_fall_promise_nothing():
    rng = np.random.default_rng(1)
    errors = {f"p{i}": list(rng.lognormal(-2.5, 0.5, 3)) for i in range(12)}
    law = fit_power_law([4, 8, 16], errors, resamples=300)
    assert not law.falls
    figures = {"sizes": [4, 8, 16], "mae": [0.08, 0.08, 0.08], "intervals": [[0.06, 0.1]] * 3, "n_patients": 12}
    figures["law"] = {
        "doubling": law.doubling,
        "doubling_interval": law.doubling_interval,
        "at_double": law.at_double,
        "at_double_interval": law.at_double_interval,
        "falls": law.falls,
    }
    text = curve_sentence("ki67", "slides", {"value_definition": "positive_ratio", "slides": figures})
    assert "that more patients help is not shown" in text
    assert "8.0 points" in text


def test_two_sizes_are_no_law():
    with pytest.raises(ValueError, match="at least 3"):
        fit_power_law([4, 8], {"a": [0.1, 0.1]})


def read_tiles(offset, seed):
    """Ten patients, eight tiles each, read with an offset a patient of about so many points."""
    rng = np.random.default_rng(seed)
    n, tiles = 10, 8
    pair = np.repeat([f"p{i:02d}" for i in range(n)], tiles)
    positive = rng.integers(20, 60, n * tiles).astype(float)
    off = np.repeat(offset * rng.choice([-1, 1], n) * rng.uniform(0.8, 1.2, n), tiles)
    ones, nan = np.ones(n * tiles), np.full(n * tiles, np.nan)
    return TileTable(
        pair=pair, patient=pair, marker=np.full(n * tiles, "ki67"), col=np.arange(n * tiles), row=np.arange(n * tiles),
        tissue_fraction=ones, weight=ones, usable=ones, clear=ones, positive=positive, cells=100 * ones,
        counted=positive, whole=100 * ones, value=np.clip(positive / 100 + off, 0, 1), expected_cells=100 * ones,
        intensities=np.full((n * tiles, 3), np.nan), intensity_shares=np.full((n * tiles, 3), np.nan),
        registration_um=nan,
        fold=np.zeros(n * tiles, np.int64),
    )  # fmt: skip


def test_the_curve_of_read_tiles_falls_as_their_offsets_do():
    points = [CurvePoint(n, read_tiles(0.16 / n**0.5, n), RULE) for n in (4, 8, 16)]
    found = curve_figures(points, "ki67")
    assert found["sizes"] == [4, 8, 16]
    assert found["slides"]["n_patients"] == 10
    assert found["slides"]["mae"] == pytest.approx([0.08, 0.0566, 0.04], rel=0.15)
    low, high = found["slides"]["law"]["doubling_interval"]
    assert low < 2**-0.5 < high < 1
    text = curve_sentence("ki67", "slides", found)
    assert "with 16 training patients the slide error is" in text
    assert "32 patients may be expected to give" in text
    assert curve_plot({"ki67": found})[:4] == b"\x89PNG"


def test_the_command_trains_every_size_and_tells_what_came_of_it(tmp_path, capsys, monkeypatch):
    """Without the networks: which trainings are asked for, and what is made of their readings."""
    records, out, asked = tmp_path / "records", tmp_path / "curve", []
    tiny_records(records, patients=9, tile_px=64, window_um=19.2, tiles_per_pair=2, few_cells_every=0)
    monkeypatch.setattr(
        "virtual_stain.training.cross_validation.fit_cross_validated",
        lambda records, folder, config, **options: asked.append((folder.name, config.training.max_patients)),
    )
    found = {f"patients-{n}": SimpleNamespace(tiles=read_tiles(0.1 / n, n), rule=RULE) for n in (1, 2, 3)}
    monkeypatch.setattr("virtual_stain.evaluation.evaluate.evaluate", lambda folder, **options: found[folder.name])
    sets = [part for line in TINY for part in ("--set", line)]
    command = ["fit", str(records), "--out", str(out), "--cv", "3", "--learning-curve", "3,1,2", "-q", *sets]
    assert _run(command) == 0
    assert asked == [("patients-1", 1), ("patients-2", 2), ("patients-3", 3)]
    said = capsys.readouterr().out
    assert "Ki67, 10 patients read: with 3 training patients the slide error is" in said
    assert str(out / "learning_curve.png") in said
    assert json.loads((out / "learning_curve.json").read_text())["markers"]["ki67"]["sizes"] == [1, 2, 3]


@pytest.mark.slow
def test_the_command_leaves_a_table_a_plot_and_sentences(tmp_path, capsys):
    records, out = tmp_path / "records", tmp_path / "curve"
    tiny_records(records, patients=9, tile_px=64, window_um=19.2, tiles_per_pair=4, few_cells_every=0)
    sets = [part for line in (*TINY, "training.max_steps=4") for part in ("--set", line)]
    command = ["fit", str(records), "--out", str(out), "--cv", "3", "--learning-curve", "3,1,2", "-q", *sets]
    assert _run(command) == 0
    said = capsys.readouterr().out
    assert "Ki67, 9 patients read: with 3 training patients the slide error is" in said
    figures = json.loads((out / "learning_curve.json").read_text())["markers"]["ki67"]
    assert figures["sizes"] == [1, 2, 3]
    assert len(figures["tiles"]["mae"]) == 3
    assert figures["tiles"]["n_patients"] == 9
    assert (out / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    run = json.loads((out / "patients-2" / "fold-0" / "run.json").read_text())
    assert len(run["data"]["patients"]["train"]) == 2


@pytest.mark.parametrize("sizes", ["1,2", "1,2,40", "one,2,3", "0,1,2"])
def test_sizes_that_cannot_be_are_refused_before_anything_is_trained(tmp_path, sizes, capsys):
    records = tmp_path / "records"
    tiny_records(records, patients=9, tile_px=64, window_um=19.2, tiles_per_pair=2, few_cells_every=0)
    sets = [part for line in TINY for part in ("--set", line)]
    command = ["fit", str(records), "--out", str(tmp_path / "c"), "--cv", "3", "--learning-curve", sizes, *sets]
    assert _run(command) != 0
    assert "--learning-curve" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_the_report_shows_calibrated_readings_beside_the_raw_ones_and_refuses_few_patients():
    """Slides pulled to the middle by a network from few patients: the other patients' line takes most of it away."""
    few = marker_figures(read_tiles(0.05, 0), RULE, resamples=20)
    assert few["calibrated_slide_agreement"] is None
    assert {s["calibrated_ratio"] for s in few["slides"]} == {None}
    rng = np.random.default_rng(2)
    tiles = TileTable.joined([read_tiles(0.0, seed) for seed in range(3)])
    patient = np.repeat([f"p{i:02d}" for i in range(30)], 8)
    level = np.repeat(rng.uniform(0.05, 0.6, 30), 8)
    positive = np.round(100 * level)
    tiles = dataclasses.replace(
        tiles, pair=patient, patient=patient, positive=positive, counted=positive, value=0.15 + 0.5 * level
    )
    found = marker_figures(tiles, RULE, resamples=20)
    assert found["calibrated_slide_agreement"]["mae"] < 0.2 * found["slide_agreement"]["mae"]
    assert found["calibrated_slide_agreement"]["calibration"]["slope"] == pytest.approx(1, abs=0.1)
    spans = found["interval"]["calibration_intervals"]
    assert spans["slope"][0] > 1
    value = {"markers": {"ki67": found}, "value_definition": "positive_ratio", "unit": "fraction", "run": "r",
             "held_out": "x", "duplicate_tissue": [], "kind": "run", "fold": 0, "best_step": 1, "runs": [],
             "rule": dataclasses.asdict(RULE)}  # fmt: skip
    page = evaluation_html(value, dict.fromkeys(("scatter.png", "bland_altman.png", "calibration.png", "roc.png",
                                                 "top_global.png", "label_trust.png"), b""))  # fmt: skip
    assert "slides, calibrated by the other patients" in page
    assert "Calibration on the scale arcsin √p: slope" in page
