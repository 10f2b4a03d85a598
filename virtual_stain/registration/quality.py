"""Whether the registration is right at all, told by windows that had no part in it.

Evidence windows lie on four coarse grids, each between the others. On a grid none overlaps another. For each window the
displacement is fitted again *without* the windows near it. Two things follow from where it puts the window:

- The rank of the correlation there among all places of the search square. On unrelated slides every rank is equally
  likely. Fisher's method (1925) joins the ranks of one grid, and the mean over the grids is `chance_log10`. The mean
  depends less on where a grid happens to lie than any one of them.
- The distance to where the window is found by itself. If the registration is right, distances gather near 0. Where a
  window cannot be recognised they spread evenly over the square. So they are a mixture: a share `consensus` of a
  two-dimensional normal error with σ (Rayleigh distances), the rest uniform. Expectation–maximisation gives both.

The search and the fit have looked for agreement, so unrelated slides do a little better than evenly spread ranks:
docs/registration.md states by how much, and the limit allows for it.

How far off it is where it is right, other windows tell (precision.py): these ones must lie so far from all others that
nothing but a right registration can predict them, and the prediction itself suffers from that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import special

from virtual_stain.geometry import Points
from virtual_stain.registration.field import FieldSettings, fit_field
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.registration.windows import Matches, correlations_at, find_peaks

Vector = npt.NDArray[np.float64]  # float64[N]

_EM_STEPS = 60
_STRIDE = 3  # two windows held out together leave windows of the fit between them
_COARSER = 2  # nodes of the prediction over those of the fit: no window lies near
_LEAST_LOG10 = -300.0  # no smaller probability has a logarithm that scipy finds
_LEAST_WINDOWS = 4  # of a grid that is asked
_LEAST_SIGMA_PX = 0.15


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What held-out windows say."""

    windows: int
    """On one grid."""
    consensus: float
    """Share of recognised windows, 0–1."""
    chance_log10: float
    """log10 of the probability that unrelated sides agree at least so well."""
    correlation: float = 0.0
    """Mean of the windows' correlation where the others predict them, −1–1."""

    def __len__(self) -> int:
        return self.windows


def gather_evidence(
    shape: tuple[int, int], fit: Matches, probes: Matches, settings: FieldSettings, keep_away_px: float
) -> Evidence:
    """How well `probes` are predicted by fields fitted to `fit` without the windows within `keep_away_px` of them.

    `probes`: windows on a grid whose step is half their side, so every second one along each axis overlaps no other.
    """
    coarse = dataclasses.replace(
        settings, node_px=_COARSER * settings.node_px, smoothness=settings.smoothness / _COARSER**2
    )
    how = HoldOut(coarse, keep_away_px, _STRIDE)
    counts, chances, distances, heights = [], [], [], []
    for grid in _grids(probes):
        predicted = cross_predicted(shape, fit, grid, how)
        distances.append(np.linalg.norm(find_peaks(grid).shifts - predicted, axis=1))
        chances.append(_fisher_log10(_ranks(grid, predicted)))
        heights.append(correlations_at(grid, predicted))
        counts.append(len(grid))
    if not counts:
        return Evidence(0, 0.0, 0.0)
    side = (2 * probes.radius + 1) * probes.px
    _, consensus, _ = mixture(np.concatenate(distances), side**2)
    height = float(np.concatenate(heights).mean())
    return Evidence(round(float(np.mean(counts))), consensus, float(np.mean(chances)), height)


def _grids(probes: Matches) -> Iterator[Matches]:
    """The four grids on which no window overlaps another; those with hardly a window are left out."""
    if not len(probes):
        return
    cell = np.rint((probes.centres - probes.centres.min(axis=0)) / spacing_of(probes.centres)).astype(np.intp) % 2
    for number in range(4):
        inside = cell[:, 0] + 2 * cell[:, 1] == number
        if np.count_nonzero(inside) >= _LEAST_WINDOWS:
            yield Matches(probes.centres[inside], probes.base[inside], probes.surfaces[inside], probes.px)


def _ranks(probes: Matches, predicted: Points) -> Vector:
    """float64[N], 0–1: share of each search square that correlates better than the predicted place, give or take a
    step."""
    at = np.rint((predicted - probes.base) / probes.px).astype(np.intp) + probes.radius
    columns, rows = np.clip(at, 0, 2 * probes.radius).T
    around = np.stack([cv2.dilate(surface, np.ones((3, 3), np.uint8)) for surface in probes.surfaces])
    here = around[np.arange(len(probes)), rows, columns][:, None, None]
    places = around[0].size
    better = np.count_nonzero(around > here, axis=(1, 2)) + 0.5 * np.count_nonzero(around == here, axis=(1, 2))
    ranks: Vector = np.maximum(better / places, 0.5 / places)
    return ranks


def _fisher_log10(ranks: Vector) -> float:
    """log10 of the probability of ranks at least as good, were all equally likely (Fisher's method)."""
    if not len(ranks):
        return 0.0
    total, terms = -float(np.log(ranks).sum()), np.arange(len(ranks))
    # upper tail of χ² with 2 N degrees of freedom at 2 · total; scipy.stats has it, and takes half a second to import
    tail = special.logsumexp(special.xlogy(terms, total) - special.gammaln(terms + 1)) - total
    return max(float(tail / np.log(10.0)), _LEAST_LOG10)


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
