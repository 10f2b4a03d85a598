"""The demo's own arithmetic: folds, matching, comparison with the truth, what it prints."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.phantoms import tiny_pair
from virtual_stain.workflows.demo.indirect import IndirectCheck, IndirectSlide, indirect_config
from virtual_stain.workflows.demo.plan import (
    DEFAULT,
    FULL,
    HELD_OUT_FOLD,
    INDIRECT,
    VALIDATION_FOLD,
    pair_names,
    write_folds,
)
from virtual_stain.workflows.demo.run import DemoResult, ReadingCheck
from virtual_stain.workflows.demo.summary import summary_text, write_result
from virtual_stain.workflows.demo.truth_checks import (
    CountingCheck,
    PredictionCheck,
    RegistrationCheck,
    TileRatioCheck,
    check_counting,
    check_predictions,
    compare_tile_counts,
    match_one_to_one,
)

_coordinate = st.floats(0, 50)
_points = st.lists(st.tuples(_coordinate, _coordinate), min_size=1, max_size=12).map(
    lambda p: np.array(p, np.float64).reshape(-1, 2)
)


@pytest.mark.parametrize("plan", [DEFAULT, FULL, INDIRECT])
def test_at_least_eight_patients_two_of_them_held_out_and_the_configuration_loads(plan):
    folds = [plan.fold(i) for i in range(plan.phantom.pairs)]
    assert len(folds) >= 8
    assert folds.count(HELD_OUT_FOLD) >= 2
    assert folds.count(VALIDATION_FOLD) >= 1
    assert folds.count(HELD_OUT_FOLD) == plan.held_out
    config = plan.load_config()
    assert config.model.weights == "none"
    assert config.tiling.window_um == 307.2


def test_the_folds_stand_beside_the_pairs_and_change_nothing_else(tmp_path):
    rows = [
        {"pair": f"p{i}", "patient": f"x{i}", "marker": "ki67", "he": "a b.tiff", "ihc": "c.tiff"} for i in range(10)
    ]
    with (tmp_path / "pairs.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    path = write_folds(tmp_path / "pairs.csv", DEFAULT)
    with path.open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [{k: v for k, v in r.items() if k != "fold"} for r in written] == rows
    assert [int(r["fold"]) for r in written] == [DEFAULT.fold(i) for i in range(10)]
    assert pair_names(path) == tuple(r["pair"] for r in rows)


@given(_points, _points, st.floats(0.5, 20))
def test_matching_is_one_to_one_and_within_reach(a, b, reach):
    i, j = match_one_to_one(a, b, reach)
    assert len(set(i.tolist())) == len(i) == len(j) == len(set(j.tolist()))
    assert (np.linalg.norm(a[i] - b[j], axis=1) <= reach + 1e-9).all()
    # nothing is left over that could still be matched
    rest_a, rest_b = np.delete(a, i, axis=0), np.delete(b, j, axis=0)
    if len(rest_a) and len(rest_b):
        assert (np.linalg.norm(rest_a[:, None] - rest_b[None], axis=2) > reach - 1e-9).all()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return tiny_pair(tmp_path_factory.mktemp("demo"), size_mm=0.9)


def test_a_perfect_count_has_f1_1_and_half_of_it_two_thirds(pair):
    true = pair.truth.ihc_cells
    perfect = check_counting(pair.truth, true)
    assert (perfect.f1, perfect.class_agreement) == (1.0, 1.0)
    half = check_counting(pair.truth, true.select(np.arange(0, len(true), 2)))
    assert half.precision == 1.0
    assert half.recall == pytest.approx(0.5, abs=0.01)
    assert half.f1 == pytest.approx(2 / 3, abs=0.01)
    moved = check_counting(pair.truth, true.moved(true.xy + 100 / pair.truth.ihc_mpp))
    assert moved.f1 < 0.5


def test_readings_equal_to_the_truth_correlate_fully(pair):
    tiles = pair.truth.tiles
    truth = {(int(c), int(r)): float(v) for c, r, v in zip(tiles.col, tiles.row, tiles.ratio, strict=True) if v == v}
    check = check_predictions(pair.folder, {pair.pair: truth})
    assert check.within_r == pytest.approx(1.0)
    assert check.mae == pytest.approx(0.0)
    assert check.n_tiles == int(tiles.usable.sum())
    opposite = check_predictions(pair.folder, {pair.pair: {k: 1 - v for k, v in truth.items()}})
    assert opposite.within_r == pytest.approx(-1.0)


def test_cells_that_are_lost_in_cold_tiles_alone_show_in_the_slide_and_not_in_the_tiles():
    true = np.array([[2.0, 198.0], [120.0, 80.0]])
    found = compare_tile_counts([(true * [[0.5], [1.0]], true)])
    assert found.bias == pytest.approx(0.0)
    assert found.slide_bias == pytest.approx(121 / 300 - 122 / 400)


def _result(out: Path, plan: str) -> DemoResult:
    return DemoResult(
        plan=plan,
        out=out,
        seconds={"phantoms": 100.0, "training": 200.0},
        registration=[RegistrationCheck("p001", 4.0, 9.5, 5.0, 12.0, 0.97, "accept")],
        counting=[CountingCheck("p001", 0.91, 0.9, 0.92, 0.98)],
        tile_ratios=TileRatioCheck(200, 0.021, -0.004, 0.98, 0.011),
        prediction=PredictionCheck(90, 0.71, {"p001": 0.7, "p002": 0.72}, 0.69, 0.08),
        ceiling_within_r=0.8,
        ceiling_pooled_r=0.75,
        permuted_r=float("nan"),
        readings=[
            ReadingCheck("p001", None, 0.2, 0.4, 0.35, 0.33, "r.html"),
            ReadingCheck("p002", 0.31, 0.2, 0.4, 0.35, 0.33, "r.html", ridge_global_ratio=0.26),
        ],
        peak_gb=3.2,
    )


def test_the_summary_says_what_was_reached_what_was_wanted_and_where_to_look(tmp_path):
    text = summary_text(_result(tmp_path, "default"))
    for part in ("p90 9.5 µm (goal ≤ 15)", "F1 0.910", "error 2.1 points", "0.710 (goal ≥ 0.35)", "under-trained"):
        assert part in text
    assert "global ratio none / 20.0" in text  # a reading that does not exist is not a number
    assert "error +11.0 points, ridge on the true nuclei +6.0)" in text  # of which so much nobody can know
    assert "of whole slides bias +1.1" in text
    assert "300.0 s  in all; peak memory 3.2 GB" in text
    full = summary_text(_result(tmp_path, "full"))
    assert "goal ≥ 0.64 = 0.8 × ceiling" in full
    assert "under-trained" not in full


def test_the_indirect_path_is_in_the_full_demo_and_in_its_own_and_keeps_the_ihc_side():
    assert [plan.indirect for plan in (DEFAULT, INDIRECT, FULL)] == [False, True, True]
    for plan in (DEFAULT, INDIRECT, FULL):
        config = plan.load_config()
        assert config.labels.keep_ihc == plan.indirect
        assert indirect_config(config).tiling == config.tiling
        assert indirect_config(config).model.path == "indirect"
    assert INDIRECT.name != DEFAULT.name, "records of another kind: no folder of the other is taken up"


def test_the_summary_says_what_the_indirect_path_reached(tmp_path):
    result = _result(tmp_path, "indirect")
    assert "indirect path" not in summary_text(result)
    slide = IndirectSlide("p001", 0.25, 0.26, 0.2, 0.87, ("nuclei_lost",), "a.ki67.virtual.ome.tif")
    result.indirect = IndirectCheck(
        PredictionCheck(90, 0.70, {"p001": 0.7}, 0.69, 0.08), 0.68, 0.72, 0.8, -0.011, 0.04, (slide,)
    )
    text = summary_text(result)
    for part in ("0.700 (goal ≥ 0.72; the direct model 0.800)", "counted        r within patient 0.680 (goal ≥ 0.61)",
                 "less expected -1.1 points", "87% of the expected nuclei found (goal ≥ 90%) [nuclei_lost]",
                 "a prediction, not a stain"):  # fmt: skip
        assert part in text
    assert json.loads(write_result(result).read_text())["indirect"]["slides"][0]["found_share"] == 0.87


def test_demo_json_holds_the_same_numbers_and_null_for_what_is_missing(tmp_path):
    value = json.loads(write_result(_result(tmp_path, "default")).read_text())
    assert value["prediction"]["within_r"] == 0.71
    assert value["permuted_r"] is None
    assert value["readings"][0]["global_ratio"] is None
