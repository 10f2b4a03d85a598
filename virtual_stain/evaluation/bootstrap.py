"""Intervals by resampling patients: tiles and slides of one patient are no independent evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
RESAMPLES = 1000
MIN_PATIENTS = 5
"""Below this there is no interval: with four patients a resample holds the same one twice most of the time."""
_MIN_DEFINED = 0.8
Figures = Mapping[str, float | None]


def bootstrap_over_patients(
    patients: npt.NDArray[np.str_],
    figures: Callable[[npt.NDArray[np.intp]], Figures],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """Figure → [low, high], the percentile interval at 95 %; None below 5 patients or where the figure often fails.

    `patients`: str[N] of the rows; `figures`: indices of rows → figures by name. Each resample draws as many patients
    as there are, with replacement, and takes all rows of each. Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, chapter 13.
    """
    rows = [np.flatnonzero(patients == p) for p in sorted(set(patients.tolist()))]
    names = list(figures(np.arange(len(patients))))
    if len(rows) < MIN_PATIENTS:
        return dict.fromkeys(names)
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(resamples):
        chosen = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
        for name, value in figures(chosen).items():
            if value is not None:
                found[name].append(value)
    return {name: _percentiles(values, resamples) for name, values in found.items()}


def _percentiles(values: list[float], resamples: int) -> list[float] | None:
    if len(values) < _MIN_DEFINED * resamples:
        return None
    tail = (1 - LEVEL) / 2
    return [float(v) for v in np.quantile(values, [tail, 1 - tail])]
