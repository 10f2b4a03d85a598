"""Whether the registration is right at all, told by windows that had no part in it.

Evidence windows lie on a coarse grid. For each, the displacement is fitted again *without* the windows near it and
compared with where the evidence window itself is found, over the whole search square and with no preference for
the prediction. If the registration is right, the distances r gather near 0; where a window cannot be recognised
(or everywhere, when the slides do not belong together) they spread evenly over the square. So r is a mixture: a
share `consensus` of a two-dimensional normal error with σ (Rayleigh distances), the rest uniform.
Expectation–maximisation gives both; a binomial test says whether the windows near 0 are more than chance.

How far off it is where it is right, other windows tell (precision.py): these ones must lie so far from all others that
nothing but a right registration can predict them, and the prediction itself suffers from that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from virtual_stain.geometry import Points
from virtual_stain.registration.field import FieldSettings, fit_field
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.registration.windows import Matches, find_peaks

Vector = npt.NDArray[np.float64]  # float64[N]

_EM_STEPS = 60
_LEAST_SIGMA_PX = 0.15


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What N held-out windows say."""

    windows: int
    consensus: float
    """Share of recognised windows, 0–1."""
    chance_log10: float
    """log10 of the probability that unrelated sides agree at least so well."""

    def __len__(self) -> int:
        return self.windows


def gather_evidence(
    shape: tuple[int, int], fit: Matches, probes: Matches, settings: FieldSettings, keep_away_px: float
) -> Evidence:
    """How well `probes` are predicted by fields fitted to `fit` without the windows within `keep_away_px` of them."""
    n = len(probes)
    if n == 0:
        return Evidence(0, 0.0, 0.0)
    predicted = cross_predicted(shape, fit, probes, HoldOut(settings, keep_away_px, stride=2))
    distances = np.linalg.norm(find_peaks(probes).shifts - predicted, axis=1)
    side = (2 * probes.radius + 1) * probes.px
    _, consensus, _ = mixture(distances, side**2)
    return Evidence(n, consensus, _log_chance(distances, side))


@dataclass(frozen=True, slots=True)
class HoldOut:
    """How windows are predicted that the fit does not see."""

    settings: FieldSettings
    keep_away_px: float
    """No window whose middle lies nearer than this, along both axes, has a part in the prediction."""
    stride: int
    """Every so many-th window along each axis is held out together."""
    prior: DisplacementField | None = None
    """What the fit adds to (field.py)."""


def cross_predicted(shape: tuple[int, int], fit: Matches, probes: Matches, how: HoldOut) -> Points:
    """float64[N, 2]: the displacement at every probe, from a field fitted to `fit` without the windows near it."""
    predicted = np.zeros_like(probes.centres)
    spacing = spacing_of(probes.centres)
    cell = np.rint((probes.centres - probes.centres.min(axis=0)) / spacing).astype(np.intp) % how.stride
    folds = cell[:, 0] + how.stride * cell[:, 1]
    for fold in range(how.stride**2):
        held = folds == fold
        if not held.any():
            continue
        apart = np.abs(fit.centres[:, None] - probes.centres[held][None]).max(axis=2).min(axis=1)
        keep = apart >= how.keep_away_px
        rest = Matches(fit.centres[keep], fit.base[keep], fit.surfaces[keep], fit.px)
        field = fit_field(shape, rest, how.settings, how.prior) or how.prior
        if field is not None:
            predicted[held] = field.at(probes.centres[held])
    return predicted


def spacing_of(centres: Points) -> float:
    """Between neighbouring windows of a regular grid."""
    steps = np.concatenate([np.diff(np.unique(np.round(centres[:, axis], 3))) for axis in range(2)])
    return float(steps.min()) if len(steps) else 1.0


def mixture(distances: Vector, area: float) -> tuple[float, float, Vector]:
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
