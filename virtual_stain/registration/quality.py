"""How far off the registration is, told by windows that had no part in it.

Evidence windows lie on a coarse grid. For each, the displacement is fitted again *without* the windows near it and
compared with where the evidence window itself is found, over the whole search square and with no preference for
the prediction. If the registration is right, the distances r gather near 0; where a window cannot be recognised
(or everywhere, when the slides do not belong together) they spread evenly over the square. So r is a mixture: a
share `consensus` of a two-dimensional normal error with σ (Rayleigh distances), the rest uniform.
Expectation–maximisation gives both; a binomial test says whether the windows near 0 are more than chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from virtual_stain.geometry import Points
from virtual_stain.registration.field import FieldSettings, fit_field
from virtual_stain.registration.windows import Matches, find_peaks

Vector = npt.NDArray[np.float64]  # float64[N]

RAYLEIGH_MEDIAN = 1.1774
RAYLEIGH_P95 = 2.4477
_FOLDS = 4
_EM_STEPS = 60
_LEAST_SIGMA_PX = 0.15


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What N held-out windows say; lengths in working px (fixed side)."""

    centres: Points
    """float64[N, 2]."""
    distances: Vector
    """float64[N]: between prediction and finding."""
    height: Vector
    """float64[N]: correlation where it was found."""
    trust: Vector
    """float64[N]: probability that the window was recognised, 0–1."""
    sigma: float
    """σ of one coordinate of the error, px; NaN without windows."""
    consensus: float
    """Share of recognised windows, 0–1."""
    chance_log10: float
    """log10 of the probability that unrelated sides agree at least so well."""
    spacing: float
    """Between neighbouring windows, px."""

    def __len__(self) -> int:
        return len(self.centres)


def gather_evidence(
    shape: tuple[int, int], fit: Matches, probes: Matches, settings: FieldSettings, keep_away_px: float
) -> Evidence:
    """Distances of `probes` from fields fitted to `fit` without the windows within `keep_away_px` of them."""
    n = len(probes)
    if n == 0:
        empty = np.zeros(0)
        return Evidence(np.zeros((0, 2)), empty, empty, empty, float("nan"), 0.0, 0.0, 1.0)
    found = find_peaks(probes)
    predicted = _cross_predicted(shape, fit, probes, settings, keep_away_px)
    distances = np.linalg.norm(found.shifts - predicted, axis=1)
    side = (2 * probes.radius + 1) * probes.px
    sigma, consensus, trust = _mixture(distances, side**2)
    chance = _log_chance(distances, side)
    return Evidence(probes.centres, distances, found.height, trust, sigma, consensus, chance, _spacing(probes.centres))


def _cross_predicted(
    shape: tuple[int, int], fit: Matches, probes: Matches, settings: FieldSettings, keep_away_px: float
) -> Points:
    predicted = np.zeros_like(probes.centres)
    spacing = _spacing(probes.centres)
    cell = np.rint((probes.centres - probes.centres.min(axis=0)) / spacing).astype(np.intp)
    folds = cell[:, 0] % 2 + 2 * (cell[:, 1] % 2)
    for fold in range(_FOLDS):
        held = folds == fold
        if not held.any():
            continue
        apart = np.abs(fit.centres[:, None] - probes.centres[held][None]).max(axis=2).min(axis=1)
        keep = apart >= keep_away_px
        rest = Matches(fit.centres[keep], fit.base[keep], fit.surfaces[keep], fit.px)
        field = fit_field(shape, rest, settings)
        if field is not None:
            predicted[held] = field.at(probes.centres[held])
    return predicted


def _spacing(centres: Points) -> float:
    steps = np.concatenate([np.diff(np.unique(np.round(centres[:, axis], 3))) for axis in range(2)])
    return float(steps.min()) if len(steps) else 1.0


def _mixture(distances: Vector, area: float) -> tuple[float, float, Vector]:
    """(σ, share, trust of each) of Rayleigh(σ) distances among evenly spread points on `area`."""
    sigma, share = max(float(np.median(distances)) / 3.0, 1.0), 0.5
    trust = np.full(len(distances), 0.5)
    for _ in range(_EM_STEPS):
        near = share * np.exp(-(distances**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
        trust = near / (near + (1 - share) / area + 1e-300)
        share = float(np.clip(trust.mean(), 1e-3, 1 - 1e-3))
        sigma = max(float(np.sqrt((trust * distances**2).sum() / (2 * trust.sum() + 1e-9))), _LEAST_SIGMA_PX)
    return sigma, share, trust


def _log_chance(distances: Vector, side: float) -> float:
    """log10 of the binomial probability of so many windows within a fixed distance, the best of three, all counted."""
    n = len(distances)
    best = 0.0
    for fraction in (0.06, 0.1, 0.15):
        within = fraction * side
        hits = int(np.count_nonzero(distances < within))
        p = float(np.pi * within**2 / side**2)
        best = min(best, float(binom.logsf(hits - 1, n, p)) / np.log(10.0) + np.log10(3.0))
    return best
