"""How far off a proven registration is, and where: told by windows that the fit did not see, as near to those it saw
as they can be without sharing a pixel.

At a finer level (deepen.py) windows are held out of what that level adds; the coarser displacement below it has seen
the same tissue, in coarser pixels. The distance between where such a window is found and where the others predict it
contains the error of the fit, what the two sections do not share, and the window's own error. A person who sets
landmarks meets the first two as well. So its σ states the error at a place, in two further steps that were calibrated
on truth and on people's landmarks (docs/registration.md): where few windows are recognised, the places between them
are worse than the recognised ones (σ / √share), and away from any recognised window the displacement goes on changing
(half its typical slope, and no less than 6 %).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Points
from virtual_stain.registration.field import typical_slope
from virtual_stain.registration.quality import HoldOut, cross_predicted, mixture, spacing_of
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.registration.windows import Matches, find_peaks

Vector = npt.NDArray[np.float64]  # float64[N]

_GROWTH_PER_SLOPE = 0.5
_LEAST_GROWTH = 0.06  # what lies where no window is found may be torn: it is not as smooth as the rest
_LEAST_SHARE = 0.05
_SUBPIXEL = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Precision:
    """What N held-out windows say about the error; lengths in working px (fixed side)."""

    centres: Points
    """float64[N, 2]."""
    distances: Vector
    """float64[N]: between prediction and finding."""
    height: Vector
    """float64[N]: correlation where it was found."""
    trust: Vector
    """float64[N]: probability that the window was recognised, 0–1."""
    recognised_sigma: float
    """σ of one coordinate, of the recognised windows, px; NaN without windows."""
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
        """σ of one coordinate of the error of the pair, px."""
        return self.recognised_sigma / float(np.sqrt(max(self.share, _LEAST_SHARE)))


def no_precision() -> Precision:
    """Of a pair that nothing proves: no window, no σ."""
    empty = np.zeros(0)
    return Precision(np.zeros((0, 2)), empty, empty, empty, float("nan"), 0.0, 1.0, _LEAST_GROWTH)


def measure_precision(
    shape: tuple[int, int], fit: Matches, probes: Matches, field: DisplacementField | None, how: HoldOut
) -> Precision:
    """`field`: the fit to all windows; None: the affine stands alone, and every window is held out from it."""
    if not len(probes):
        return no_precision()
    found = find_peaks(probes)
    predicted = np.zeros_like(probes.centres) if field is None else cross_predicted(shape, fit, probes, how)
    distances = np.linalg.norm(found.shifts - predicted, axis=1)
    sigma_steps, share, trust = mixture(distances / probes.px, (2 * probes.radius + 1) ** 2)
    # a peak between two pixels is drawn towards one of them: that is in every window alike, so none tells of it
    sigma = float(np.hypot(sigma_steps, _SUBPIXEL)) * probes.px
    growth = _LEAST_GROWTH if field is None else max(_GROWTH_PER_SLOPE * typical_slope(field), _LEAST_GROWTH)
    spacing = spacing_of(probes.centres)
    return Precision(probes.centres, distances, found.height, trust, sigma, share, spacing, growth)
