"""Figures of agreement against definitions that are written out, and intervals over patients."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from virtual_stain.evaluation.agreement import agreement
from virtual_stain.evaluation.bootstrap import MIN_PATIENTS, bootstrap_over_patients
from virtual_stain.evaluation.cut_offs import CUT_OFFS, CutOff
from virtual_stain.evaluation.statistics import (
    auc,
    calibration_bins,
    calibration_line,
    clopper_pearson,
    confusion,
    icc_2_1,
    roc_points,
    spearman,
)
from virtual_stain.markers import Marker

RNG = np.random.default_rng(0)


def test_icc_against_the_anova_table_written_out():
    truth, read = RNG.uniform(size=12), RNG.uniform(size=12)
    both = np.stack([truth, read], axis=1)
    n, k = both.shape
    ss_total = ((both - both.mean()) ** 2).sum()
    ss_rows = k * ((both.mean(axis=1) - both.mean()) ** 2).sum()
    ss_cols = n * ((both.mean(axis=0) - both.mean()) ** 2).sum()
    msr, msc, mse = ss_rows / (n - 1), ss_cols / (k - 1), (ss_total - ss_rows - ss_cols) / ((n - 1) * (k - 1))
    assert icc_2_1(truth, read) == pytest.approx((msr - mse) / (msr + (k - 1) * mse + k * (msc - mse) / n))


def test_icc_falls_with_a_shift_that_pearson_does_not_see():
    truth = RNG.uniform(0.1, 0.5, 50)
    figures = agreement(np.arange(50).astype(str), truth, truth + 0.2, resamples=50)
    assert figures["pearson"] == pytest.approx(1)
    assert figures["icc_2_1"] < 0.6
    assert figures["bias"] == pytest.approx(0.2)
    assert icc_2_1(truth, truth) == pytest.approx(1)
    assert icc_2_1(truth[:2], truth[:2]) is None
    assert icc_2_1(np.full(5, 0.2), np.full(5, 0.2)) is None


def test_spearman_is_scipys_with_ties():
    a, b = RNG.integers(0, 5, 40).astype(float), RNG.integers(0, 5, 40).astype(float)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(np.array([]), np.array([])) is None


def test_auc_is_the_share_of_pairs_in_the_right_order():
    positive, score = RNG.uniform(size=30) < 0.4, RNG.integers(0, 6, 30).astype(float)
    pairs = [(p > n) + 0.5 * (p == n) for p in score[positive] for n in score[~positive]]
    assert auc(positive, score) == pytest.approx(np.mean(pairs))
    assert auc(np.ones(4, bool), np.arange(4.0)) is None
    x, y = roc_points(positive, score)
    assert (np.diff(x) * (y[1:] + y[:-1]) / 2).sum() == pytest.approx(np.mean(pairs))
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)


def test_a_value_at_a_cut_off_belongs_where_its_source_says():
    """ER 1–10 % is low positive, so exactly 10 % is not above; Ki67 from 20 % is high, at most 5 % is low."""
    er, ki67 = ({c.fraction: c for c in CUT_OFFS[m]} for m in (Marker.ER, Marker.KI67))
    assert er[0.01].higher(np.array([0.0099, 0.01])).tolist() == [False, True]
    assert er[0.10].higher(np.array([0.10, 0.1001])).tolist() == [False, True]
    assert ki67[0.05].higher(np.array([0.05, 0.051])).tolist() == [False, True]
    assert ki67[0.20].higher(np.array([0.1999, 0.20])).tolist() == [False, True]
    assert [c.label for c in CUT_OFFS[Marker.ER]] == ["≥ 1 %", "> 10 %"]


def test_confusion_of_labels_and_readings():
    cut = CutOff(0.2, "test")
    truth, read = np.array([0.2, 0.19, 0.3, 0.1]), np.array([0.2, 0.25, 0.1, 0.1])
    found = confusion(cut.higher(truth), cut.higher(read))
    assert (found.true_positive, found.false_positive, found.true_negative, found.false_negative) == (1, 1, 1, 1)
    assert (found.sensitivity, found.specificity) == (0.5, 0.5)
    assert confusion(cut.higher(truth[1:2]), cut.higher(read[1:2])).sensitivity is None


def test_calibration_of_stretched_readings():
    truth = RNG.uniform(size=200)
    assert calibration_line(truth, 0.1 + 2 * truth) == pytest.approx((-0.05, 0.5))
    assert calibration_line(truth, np.full(200, 0.3)) is None
    bins = calibration_bins(truth, truth)
    assert sum(b["n"] for b in bins) == 200
    assert all(b["read_mean"] == pytest.approx(b["true_mean"]) for b in bins)
    assert calibration_bins(truth[:0], truth[:0]) == []


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(0, 10, 0, 0.3085), (10, 10, 0.6915, 1), (5, 10, 0.1871, 0.8129)]
)
def test_clopper_pearson_against_tables(hits, n, low, high):
    assert clopper_pearson(hits, n) == pytest.approx((low, high), abs=1e-4)


def test_the_bootstrap_resamples_patients_not_tiles():
    """A hundred tiles of ten patients that differ: the interval must be that of ten values, not of a hundred."""
    patient = np.repeat(np.arange(10), 10).astype(str)
    value = np.repeat(RNG.normal(0, 1, 10), 10)
    wide = bootstrap_over_patients(patient, lambda rows: {"m": float(value[rows].mean())})["m"]
    narrow = bootstrap_over_patients(np.arange(100).astype(str), lambda rows: {"m": float(value[rows].mean())})["m"]
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert wide[0] < value.mean() < wide[1]


def test_the_bootstrap_covers():
    """95 % intervals of the mean over 200 samples of 40 patients."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        value = rng.normal(0.3, 0.1, 40)
        low, high = bootstrap_over_patients(
            np.arange(40).astype(str), lambda rows, v=value: {"m": float(v[rows].mean())}, resamples=200
        )["m"]
        hits += low <= 0.3 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_few_patients_and_figures_that_mostly_fail_have_no_interval():
    few = bootstrap_over_patients(np.arange(MIN_PATIENTS - 1).astype(str), lambda rows: {"m": 1.0})
    assert few == {"m": None}
    assert bootstrap_over_patients(np.arange(9).astype(str), lambda rows: {"m": None}) == {"m": None}


def test_all_figures_at_every_cut_off():
    truth = RNG.uniform(0, 0.5, 40)
    read = np.clip(truth + RNG.normal(0, 0.05, 40), 0, 1)
    figures = agreement(np.arange(40).astype(str), truth, read, CUT_OFFS[Marker.KI67], resamples=200)
    assert [row["cut_off"] for row in figures["cut_offs"]] == [0.05, 0.14, 0.20, 0.30]
    at_20 = figures["cut_offs"][2]
    assert at_20["true_positive"] + at_20["false_negative"] == (truth >= 0.2).sum()
    assert at_20["auc_interval"][0] <= at_20["auc"] <= at_20["auc_interval"][1]
    for name in ("pearson", "spearman", "icc_2_1", "mae", "bias", "lower_limit", "calibration_slope"):
        low, high = figures["intervals"][name]
        assert low <= high
    assert agreement(np.array([], str), np.array([]), np.array([]))["mae"] is None
