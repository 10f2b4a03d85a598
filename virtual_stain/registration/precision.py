"""How far off a proven registration is, and where: told by windows that the fit did not see, as near to those it saw
as they can be without sharing a pixel.

At a finer level (deepen.py) windows are held out of what that level adds; the coarser displacement below it has seen
the same tissue, in coarser pixels. The distance between where such a window is found and where the others predict it
contains the error of the transform and what a person who sets landmarks would meet as well, but two things more:

- the window's own error, which its correlation surface tells by itself (`own_errors`), whatever was predicted;
- the cost of holding it out: the transform that is used has seen all windows. The two predictions of a place differ by
  that (of a best estimate from more data, the improvement is independent of the error that is left).

Both are taken out. The first is a formula for weak independent noise, so both together may explain two thirds of what
is seen at most. Two further steps were calibrated on truth and on people's landmarks (docs/registration.md): the tail
is longer than a normal error's, and away from any recognised window the displacement goes on changing (half its typical
slope, and no less than 6 %).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from virtual_stain.geometry import Points
from virtual_stain.registration.field import typical_slope
from virtual_stain.registration.quality import HoldOut, cross_predicted, mixture, spacing_of
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.registration.windows import Matches, find_peaks, own_errors

Vector = npt.NDArray[np.float64]  # float64[N]

_GROWTH_PER_SLOPE = 0.5
_LEAST_GROWTH = 0.06  # what lies where no window is found may be torn: it is not as smooth as the rest
_LEAST_SHARE = 0.05
_LEAST_LEFT = 1 / 3  # of the variance that is seen
_SUBPIXEL = 0.17
_TINY = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Precision:
    """What N held-out windows say about the error; lengths in working px (fixed side)."""

    centres: Points
    """float64[N, 2]."""
    distances: Vector
    """float64[N]: between prediction and finding."""
    usual: Vector
    """float64[N]: σ of one coordinate of such a distance that this window would have on an average place."""
    height: Vector
    """float64[N]: correlation where it was found."""
    trust: Vector
    """float64[N]: probability that the window was recognised, 0–1."""
    recognised_sigma: float
    """σ of one coordinate of the distances of the recognised windows, px; NaN without windows."""
    error_sigma: float
    """σ of one coordinate of the error of the transform there: the same without what only windows meet, px."""
    share: float
    """Of the windows that were recognised, 0–1."""
    spacing: float
    """Between neighbouring windows, px."""
    growth: float
    """σ per px of distance from the recognised windows."""

    def __len__(self) -> int:
        return len(self.centres)

    @property
    def sigma(self) -> float:
        """σ of one coordinate of the distances of the pair, px: what the next level's search has to hold."""
        return self.recognised_sigma / float(np.sqrt(max(self.share, _LEAST_SHARE)))


def no_precision() -> Precision:
    """Of a pair that nothing proves: no window, no σ."""
    empty, unknown = np.zeros(0), float("nan")
    return Precision(np.zeros((0, 2)), empty, empty, empty, empty, unknown, unknown, 0.0, 1.0, _LEAST_GROWTH)


def measure_precision(
    shape: tuple[int, int], fit: Matches, probes: Matches, field: DisplacementField | None, how: HoldOut
) -> Precision:
    """`field`: the fit to all windows; None: the affine stands alone, and every window is held out from it."""
    if not len(probes):
        return no_precision()
    found = find_peaks(probes)
    predicted, cost = np.zeros_like(probes.centres), np.zeros(len(probes))
    if field is not None:
        predicted = cross_predicted(shape, fit, probes, how)
        cost = ((field.at(probes.centres) - predicted) ** 2).sum(axis=1) / 2
    distances = np.linalg.norm(found.shifts - predicted, axis=1)
    sigma_steps, share, trust = mixture(distances / probes.px, (2 * probes.radius + 1) ** 2)
    sigma = sigma_steps * probes.px
    own, weights = own_errors(probes, found), trust + _TINY
    common = common_variance(distances, own, trust)
    usual = np.sqrt(common + own**2 + _TINY)
    usual *= np.sqrt(np.average((distances / usual) ** 2 / 2, weights=weights))
    left = max(common - float(np.average(cost, weights=weights)), _LEAST_LEFT * sigma**2)
    # a peak between two pixels is drawn towards one of them: that is in every window alike, so none tells of it
    error = float(np.hypot(np.sqrt(left), _SUBPIXEL * probes.px))
    growth = _LEAST_GROWTH if field is None else max(_GROWTH_PER_SLOPE * typical_slope(field), _LEAST_GROWTH)
    spacing = spacing_of(probes.centres)
    return Precision(probes.centres, distances, usual, found.height, trust, sigma, error, share, spacing, growth)


def common_variance(distances: Vector, own: Vector, trust: Vector) -> float:
    """float64[N] each → the variance of one coordinate that the distances have beyond the windows' `own` errors (σ).

    Paule & Mandel 1982: such that the squares, each over what is expected of it, are 1 on average; so no single sharp
    window decides.
    """

    def excess(variance: float) -> float:
        return float((trust * (distances**2 / 2 / (variance + own**2 + _TINY) - 1)).sum())

    most = float((distances**2).max()) / 2
    return float(brentq(excess, 0.0, most)) if most > 0 and excess(0.0) > 0 else 0.0
