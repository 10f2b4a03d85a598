"""Where the negatives of a slide end, from the DAB of its nuclei alone."""

from __future__ import annotations

import numpy as np
import pytest

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cells import Cells
from virtual_stain.counting.doubtful import ratio_range, uncertainty_of
from virtual_stain.counting.populations import fit_populations
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.counting.stain import FEW_POSITIVES, NO_NEGATIVES, UNSTABLE_CUTOFF, Cutoff, cutoff_of, find_cutoff

SETTINGS = CountingSettings()
NEGATIVE_OD, NOISE_OD = 0.012, 0.014


def nuclei(
    n: int,
    positive: float,
    *,
    weakest_od: float = 0.08,
    shape: float = 1.3,
    scale_od: float = 0.5,
    tail_od: float = 0.02,
    tail_share: float = 0.3,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """(mean DAB, truth) of a slide's nuclei."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < positive
    negative = NEGATIVE_OD + rng.normal(0, NOISE_OD, n)
    negative += np.where(rng.random(n) < tail_share, rng.exponential(tail_od, n), 0)
    strong = weakest_od + rng.gamma(shape, scale_od, n)
    dab = np.where(truth, strong, np.minimum(negative, max(weakest_od, 3 * tail_od)))
    return dab.astype(np.float32), truth


def wrong(dab: np.ndarray, truth: np.ndarray) -> float:
    return float(((dab >= find_cutoff(dab, 0.0, SETTINGS).positive_od) != truth).mean())


@pytest.mark.parametrize("positive", [0.1, 0.3, 0.6, 0.9])
def test_weak_positives_of_a_clean_slide_were_called_negative(positive: float) -> None:
    # a share of the strong positives put the cut-off at 0.3 to 0.4 here, and lost a fifth to a third of the positives
    slides = [nuclei(600, positive, seed=seed) for seed in range(6)]
    assert np.median([find_cutoff(dab, 0.0, SETTINGS).positive_od for dab, _ in slides]) < 0.2
    assert np.mean([wrong(dab, truth) for dab, truth in slides]) < 0.02


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_brown_tail_of_negatives_is_not_positive_where_the_strong_ones_stand_apart(seed: int) -> None:
    dab, truth = nuclei(600, 0.2, weakest_od=0.35, shape=3.0, scale_od=0.4, tail_od=0.09, tail_share=0.5, seed=seed)
    assert find_cutoff(dab, 0.0, SETTINGS).positive_od > 0.2
    assert wrong(dab, truth) < 0.03


def test_the_cut_off_moves_with_the_level_of_the_negatives() -> None:
    dab, _ = nuclei(600, 0.3)
    plain, moved = (find_cutoff(d, brown, SETTINGS).positive_od for d, brown in ((dab, 0.0), (dab + 0.2, 0.15)))
    assert moved - plain == pytest.approx(0.2, abs=0.02)


def test_stronger_positives_alone_hardly_move_the_cut_off() -> None:
    weak, strong = (find_cutoff(nuclei(2000, 0.3, scale_od=s)[0], 0.0, SETTINGS).positive_od for s in (0.5, 0.8))
    assert strong / weak < 1.3  # the positives themselves are 1.53 times as strong


def test_without_a_positive_the_cut_off_is_what_other_slides_have_and_flagged() -> None:
    cutoff = find_cutoff(nuclei(300, 0.0)[0], 0.0, SETTINGS)
    assert cutoff.flags == (FEW_POSITIVES,)
    assert 0.12 < cutoff.positive_od < 0.3


def test_without_negatives_everything_stays_positive_by_the_default() -> None:
    dab, _ = nuclei(300, 1.0, weakest_od=0.3)
    cutoff = find_cutoff(dab, 0.0, SETTINGS)
    assert cutoff.flags == (NO_NEGATIVES,)
    assert cutoff.positive_od == SETTINGS.positive_default_od
    assert cutoff.populations is None


def test_too_few_nuclei_have_no_populations() -> None:
    assert fit_populations(np.full(10, 0.02, np.float32), (-0.1, 0.15)) is None


@pytest.mark.parametrize("positive", [0.05, 0.5])
def test_the_doubtful_zone_holds_the_cut_off_and_the_errors(positive: float) -> None:
    dab, truth = nuclei(1500, positive)
    cutoff = find_cutoff(dab, 0.0, SETTINGS)
    low, high = cutoff.doubtful_od
    assert low <= cutoff.positive_od <= high
    mistaken = (dab >= cutoff.positive_od) != truth
    inside = (dab >= low) & (dab < high)
    assert inside[mistaken].mean() > 0.7
    assert inside.mean() < 0.2


def test_the_share_of_positives_is_found_again() -> None:
    for positive in (0.1, 0.4, 0.8):
        dab, truth = nuclei(2000, positive, shape=2.5)
        fit = fit_populations(dab, (-0.1, 0.15))
        assert fit is not None
        assert fit.positive_share == pytest.approx(truth.mean(), abs=0.05)


def test_doubtful_nuclei_make_the_range_of_a_ratio_and_enter_its_uncertainty() -> None:
    dab = np.array([0.01, 0.02, 0.12, 0.18, 0.5, 0.18], np.float32)
    kind = np.array([0, 0, 0, 1, 1, 2], np.uint8)
    tumour = np.array([1, 1, 1, 1, 1, 1], np.bool_)
    cells = Cells(np.zeros((6, 2)), kind, tumour, dab, np.ones(6, np.float32))
    stain = SlideStain(background=(240.0, 240.0, 240.0), positive_od=0.15, doubtful_od=(0.1, 0.2))
    found = ratio_range(cells, stain, tumour_only=True)
    assert (found.low, found.high, found.doubtful) == (1 / 5, 3 / 5, 2)  # what is no nucleus counts nowhere
    counts = cells.counts()
    assert uncertainty_of(counts, found.half_width) == pytest.approx(np.hypot(counts.uncertainty, 0.2))
    assert ratio_range(cells.select(np.zeros(6, np.bool_)), stain, tumour_only=True).to_dict() == {
        "ratio_low": None,
        "ratio_high": None,
        "doubtful_nuclei": 0,
    }


def test_a_few_clean_nuclei_of_a_brown_tissue_are_not_its_negatives() -> None:
    """All the brown tissue's negatives, at 0.2, became positive: eight nuclei at 0 were a peak high enough."""
    rng = np.random.default_rng(0)
    clean, negative, strong = rng.normal(0.0, 0.01, 10), rng.normal(0.2, 0.03, 40), rng.uniform(0.7, 1.5, 12)
    dab = np.concatenate([clean, negative, strong]).astype(np.float32)
    cutoff = find_cutoff(dab, 0.09, SETTINGS)
    assert cutoff.positive_od > 0.3
    assert cutoff.populations is not None
    assert cutoff.populations.negative_od == pytest.approx(0.2, abs=0.03)


def test_a_cut_off_that_jumps_between_two_values_was_read_without_a_doubt() -> None:
    """A slide with a few weakly brown nuclei in the gap: one nucleus less, and the cut-off is another."""
    rng = np.random.default_rng(1)
    weak = [0.07, 0.07, 0.08, 0.08, 0.09, 0.14, 0.14, 0.15, 0.16, 0.23, *np.linspace(0.30, 0.39, 10)]
    dab = np.concatenate([rng.normal(0.013, 0.012, 78), weak, np.linspace(0.46, 1.7, 21)]).astype(np.float32)
    rng.shuffle(dab)
    cutoff = find_cutoff(dab, 0.0, SETTINGS)
    cuts = [found.positive_od for i in range(0, len(dab), 6) if (found := without(dab, i)) is not None]
    assert max(cuts) > 1.5 * min(cuts)
    assert cutoff.doubtful_od[0] <= min(cuts) < max(cuts) <= cutoff.doubtful_od[1]
    assert UNSTABLE_CUTOFF in cutoff.flags


def without(dab: np.ndarray, left_out: int) -> Cutoff | None:
    return cutoff_of(np.delete(dab, left_out), -np.inf, 0.0, SETTINGS)


def test_a_cut_off_in_a_clear_gap_is_stable() -> None:
    dab, _ = nuclei(600, 0.3, weakest_od=0.35, shape=3.0)
    assert UNSTABLE_CUTOFF not in find_cutoff(dab, 0.0, SETTINGS).flags
