"""The interval of a slide reading: what it holds, when it is refused, what it covers."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtual_stain.intervals import (
    MIN_PATIENTS,
    OutOfFold,
    fit_interval,
    left_out_calibrated,
    left_out_hits,
    slide_interval,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cohort(rng, n, folds=3, *, offset=0.2, noise=0.4):
    """(slides, network of fold 0 as a function of true logits): patients read by networks with offsets of their own."""
    truth = rng.normal(-1.2, 0.9, n)
    fold, offsets = np.arange(n) % folds, rng.normal(0, offset, folds)

    def read(logit, offset):
        return sigmoid(0.8 * logit - 0.2 + offset + rng.normal(0, noise, np.shape(logit)))

    slides = [
        OutOfFold(f"patient {i:04d}", "s", int(fold[i]), float(r), float(sigmoid(truth[i])))
        for i, r in enumerate(read(truth, offsets[fold]))
    ]
    return slides, lambda logit: read(logit, offsets[0])


@pytest.mark.parametrize(("n", "folds"), [(24, 3), (60, 5)])
def test_it_covers_what_it_says_over_cohorts(n, folds):
    """2,000 cohorts in tools/bench/bench_interval_coverage.py; here 400, whose standard error is below 1 point."""
    rng = np.random.default_rng(n)
    hits = []
    for _ in range(400):
        slides, read = cohort(rng, n, folds)
        payload = fit_interval(slides)
        new = rng.normal(-1.2, 0.9, 5)
        for reading, truth in zip(read(new), sigmoid(new), strict=True):
            found = slide_interval(payload, float(reading))
            hits.append(found.low <= truth <= found.high)
    assert 0.87 <= np.mean(hits) <= 0.93


def test_readings_of_the_patients_themselves_would_cover_too_little():
    """Residuals of training patients are smaller than those of new ones: the reason for out-of-fold readings."""
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(200):
        slides, read = cohort(rng, 24)
        overfitted = [dataclasses.replace(s, reading=0.7 * s.truth + 0.3 * s.reading) for s in slides]
        payload = fit_interval(overfitted)
        new = rng.normal(-1.2, 0.9, 5)
        found = [slide_interval(payload, float(r)) for r in read(new)]
        hits += [f.low <= t <= f.high for f, t in zip(found, sigmoid(new), strict=True)]
    assert np.mean(hits) < 0.7


def test_by_hand():
    """Readings equal to the truth but for one patient: the interval is that of the sorted residuals."""
    truth = np.linspace(0.1, 0.9, 20)
    slides = [OutOfFold(f"{i:02d}", "s", 0, float(t), float(t)) for i, t in enumerate(truth)]
    payload = fit_interval(slides)
    found = slide_interval(payload, 0.5)
    assert (found.calibrated, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-6)
    assert payload["calibration"] == pytest.approx([0, 1], abs=1e-9)


def test_below_twenty_patients_there_is_none_and_the_reason_says_so():
    slides, _ = cohort(np.random.default_rng(0), 19)
    payload = fit_interval(slides)
    assert payload["available"] is False
    found = slide_interval(payload, 0.3)
    assert (found.available, found.low, found.high, found.calibrated) == (False, None, None, None)
    assert found.reason == f"an interval needs at least {MIN_PATIENTS} patients with out-of-fold readings; there are 19"


def test_slides_of_one_patient_do_not_count_twice():
    slides, _ = cohort(np.random.default_rng(0), 12)
    twice = [dataclasses.replace(s, slide=name) for s in slides for name in ("a", "b")]
    assert fit_interval(twice)["n_patients"] == 12
    assert not fit_interval(twice)["available"]


def test_readings_that_do_not_rise_with_the_truth_give_none():
    slides, _ = cohort(np.random.default_rng(0), 30)
    against = [dataclasses.replace(s, reading=1 - s.reading) for s in slides]
    assert "do not rise" in slide_interval(fit_interval(against), 0.2).reason
    constant = [dataclasses.replace(s, reading=0.25) for s in slides]
    assert "do not rise" in slide_interval(fit_interval(constant), 0.2).reason


def test_without_payload_or_reading_the_reason_says_why():
    assert "no out-of-fold" in slide_interval(None, 0.2).reason
    payload = fit_interval(cohort(np.random.default_rng(0), 24)[0])
    assert "no reading" in slide_interval(payload, None).reason
    with pytest.raises(ValueError, match="method"):
        slide_interval(payload | {"method": "bootstrap"}, 0.2)
    with pytest.raises(ValueError, match="fraction"):
        slide_interval(payload, 20.0)


def test_the_payload_is_json_and_names_nobody():
    slides, _ = cohort(np.random.default_rng(3), 24)
    text = json.dumps(fit_interval(slides), allow_nan=False)
    assert "patient 0" not in text
    assert slide_interval(json.loads(text), 0.2) == slide_interval(fit_interval(slides), 0.2)
    assert fit_interval(list(reversed(slides))) == fit_interval(slides)


@given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_always_inside_0_and_1_and_wider_the_surer(seed, reading, level):
    slides, _ = cohort(np.random.default_rng(seed), 24)
    found = slide_interval(fit_interval(slides, level=level), reading)
    assert 0 <= found.low <= found.high <= 1
    narrower = slide_interval(fit_interval(slides, level=0.4), reading)
    assert narrower.low >= found.low - 1e-12
    assert narrower.high <= found.high + 1e-12


def test_a_cohort_can_check_its_own_interval():
    hits = left_out_hits(cohort(np.random.default_rng(1), 60)[0])
    assert len(hits) == 60
    assert 0.8 <= np.mean(hits) <= 0.98
    assert left_out_hits(cohort(np.random.default_rng(1), MIN_PATIENTS)[0]) == []


def test_one_patient_on_whom_the_rise_hangs_does_not_take_the_interval_away():
    """Without that patient the line is level, which is a calibration like any other; the whole cohort's rises."""
    rng = np.random.default_rng(4)
    reading, truth = rng.uniform(0.2, 0.3, 26), rng.uniform(0.2, 0.4, 26)
    level = truth - 0.01 * (reading - 0.25) - np.polyval(np.polyfit(reading, truth, 1), reading) + 0.3
    slides = [
        OutOfFold(f"{i:02d}", "s", 0, float(r), float(t)) for i, (r, t) in enumerate(zip(reading, level, strict=True))
    ]
    assert not fit_interval(slides)["available"], "without the last patient the readings fall"
    payload = fit_interval([*slides, OutOfFold("26", "s", 0, 0.6, 0.6)])
    assert payload["available"]
    assert min(slope for _, slope in payload["left_out_calibrations"]) == 0
    found = slide_interval(payload, 0.25)
    assert found.low < 0.3 < found.high


def test_the_check_is_made_also_where_readings_say_nothing():
    """Readings without any relation to the truth: no interval in a bundle, and the method covers all the same."""
    rng = np.random.default_rng(2)
    hits, refused = [], 0
    for _ in range(60):
        values = rng.uniform(0.1, 0.5, (27, 2))
        slides = [OutOfFold(f"{i:02d}", "s", 0, float(r), float(t)) for i, (r, t) in enumerate(values)]
        refused += not fit_interval(slides)["available"]
        hits += left_out_hits(slides)
    assert 15 <= refused <= 45
    assert len(hits) == 60 * 27
    assert 0.87 <= np.mean(hits) <= 0.94


def test_a_reading_beyond_the_patients_is_told():
    slides, _ = cohort(np.random.default_rng(0), 30)
    payload = fit_interval(slides)
    least, most = payload["reading_range"]
    assert slide_interval(payload, (least + most) / 2).beyond_patients is None
    assert slide_interval(payload, most).beyond_patients is None
    assert slide_interval(payload, most + 0.01).beyond_patients == (least, most)
    assert slide_interval(payload, 0.0).beyond_patients == (least, most)


def test_levels_need_enough_patients():
    slides, _ = cohort(np.random.default_rng(0), 24)
    assert "at least 100 patients" in fit_interval(slides, level=0.99)["reason"]
    assert math.isclose(fit_interval(slides)["level"], 0.9)


def test_readings_that_are_pulled_to_the_middle_are_calibrated_back():
    """A model from few patients reads 70 % of the differences and ten points too much."""
    rng = np.random.default_rng(4)
    truth = rng.uniform(0.05, 0.6, 40)
    read = np.clip(0.15 + 0.6 * truth + rng.normal(0, 0.015, 40), 0, 1)
    slides = [
        OutOfFold(f"p{i}", f"s{i}", i % 4, float(r), float(t)) for i, (r, t) in enumerate(zip(read, truth, strict=True))
    ]
    payload = fit_interval(slides)
    spans = payload["calibration_intervals"]
    assert spans["slope"][0] < payload["calibration"][1] < spans["slope"][1]
    assert spans["slope"][0] > 1.2, "the raw readings are shown to be flat"
    assert spans["intercept"][0] < payload["calibration"][0] < spans["intercept"][1]
    by_others = left_out_calibrated(slides)
    calibrated = np.array([by_others[s.patient, s.slide] for s in slides])
    assert np.abs(calibrated - truth).mean() < 0.6 * np.abs(read - truth).mean()


def test_a_calibration_is_refused_where_patients_are_too_few():
    slides, _ = cohort(np.random.default_rng(0), MIN_PATIENTS)
    assert left_out_calibrated(slides) == {}
    assert "calibration_intervals" not in fit_interval(slides[:-1])
    more, _ = cohort(np.random.default_rng(0), MIN_PATIENTS + 1)
    assert len(left_out_calibrated(more)) == MIN_PATIENTS + 1
