"""Where a slide's negative nuclei end: the cut-off of positive, from the slide's own two populations.

By the International Ki67 Working Group any brown in a nucleus counts, however weak (Nielsen et al., J. Natl. Cancer
Inst. 113, 2021). So the cut-off follows the negatives, not the strength of the positives. The DAB of nuclei is a
mixture:

- negatives in focus: a normal distribution around their own level, whose width the paler half of them gives;
- negatives with a tail: brown haze, cytoplasm and neighbours out of focus, exponential beyond that level;
- positives: a gamma distribution beyond it, from faint to strong.

Expectation–maximisation fits it (Dempster, Laird & Rubin, J. R. Stat. Soc. B 39, 1977). From one positive in twenty to
nine in ten a nucleus is doubtful. Inside that zone the cut-off lies where fewest nuclei are, near where both are as
likely. Weak priors, worth a few nuclei each, stand in for what a slide cannot tell: with hardly a positive the cut-off
comes out near 0.2. One prior couples the two: strong positives go with a long tail, since what is brown around them
comes from them; it grows with the square of their strength.

Everything is counted in bins, so that a slide of a million nuclei costs as much as a tile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

_BIN = 0.005
_EDGES = np.arange(-0.4, 2.5 + _BIN, _BIN)
_MIDDLES = (_EDGES[:-1] + _EDGES[1:]) / 2
_SMOOTH_OD = 0.012  # of the histogram in which the negatives' peak is looked for
_PEAK_SHARE = 0.3  # of the highest peak, that the palest one must have to be the negatives'
_MIN_NUCLEI = 15
_MIN_BELOW = 8  # nuclei paler than the peak, for a width
_WIDTHS_OD = (0.008, 0.05)
_DEFAULT_WIDTH_OD = 0.015
_ROUNDS = 50
_DOUBTFUL = (0.05, 0.9)  # share of positives at which nuclei begin and cease to be doubtful
_VALLEY_WIDTH = 0.1  # of the kernel that nuclei are counted with, as a share of how far beyond the negatives it stands
_LEAST_VALLEY_OD = 0.05
_VALLEY_EMPTY = 10.0  # nuclei per unit of optical density that are as good as none
_VALLEY_PRICE = 0.1  # of being unlike even odds, × squared log-odds, in logarithms of the number of nuclei

# priors: what is expected, and how many nuclei that is worth
_POSITIVE_SHARE, _POSITIVE_SHARE_WEIGHT = 0.15, 6.0
_TAIL_SHARE, _TAIL_SHARE_WEIGHT = 0.15, 12.0
_TAIL_OF_STRENGTH, _TAIL_WEIGHT = 0.11, 4.0  # × the square of the positives' mean
_STRENGTH_OD, _STRENGTH_WEIGHT = 0.6, 4.0
_SHAPE, _SHAPE_WEIGHT = 2.0, 3.0
_TAIL_RANGE = (0.015, 0.2)
_SHAPE_RANGE = (1.1, 6.0)
_LEAST_LOG_OD = 0.02  # beyond the negatives' level, below which logarithms say nothing
_LEAST_SPREAD = 0.05  # of the positives' logarithms


@dataclass(frozen=True, slots=True)
class Populations:
    """The nuclei of a slide by their mean DAB; optical densities, all but the first beyond `negative_od`."""

    negative_od: float
    """Level of the negatives."""
    width_od: float
    """Standard deviation of those in focus."""
    tail_share: float
    """Of the negatives."""
    tail_od: float
    """Mean of the tail."""
    positive_share: float
    """Of all nuclei."""
    positive_od: float
    """Mean of the positives."""
    positive_shape: float
    nuclei: int

    def densities(self, dab_od: F64) -> tuple[F64, F64]:
        """Nuclei per unit of optical density at `dab_od`, of one nucleus in all: negatives, positives."""
        core, tail, positive = _parts(self, np.asarray(dab_od, np.float64))
        return core + tail, positive

    @property
    def positives(self) -> float:
        """How many nuclei are positive."""
        return self.positive_share * self.nuclei

    def where(self, share: float, ceiling_od: float) -> float:
        """Smallest DAB, beyond the negatives in focus, of which more than `share` is positive; at most the ceiling."""
        beyond = np.arange(self.width_od, ceiling_od, _BIN / 2)
        negative, positive = self.densities(self.negative_od + beyond)
        enough = np.flatnonzero(positive > share * (negative + positive))
        return self.negative_od + (float(beyond[enough[0]]) if len(enough) else ceiling_od)

    def doubtful(self, ceiling_od: float) -> tuple[float, float]:
        """From where to where a nucleus may be either."""
        low, high = (self.where(share, ceiling_od) for share in _DOUBTFUL)
        return low, high


def sparsest(fit: Populations, dab_od: npt.NDArray[np.float32], low_od: float, high_od: float) -> float:
    """The density between the two that parts the nuclei best: where few are, and both classes are about as likely."""
    at = np.arange(low_od, high_od, _BIN / 2)
    if len(at) == 0:
        return low_od
    count = _counted(dab_od)
    filled = count > 0
    width = (_VALLEY_WIDTH * np.maximum(at - fit.negative_od, _LEAST_VALLEY_OD))[:, None]
    kernel = np.exp(-0.5 * ((at[:, None] - _MIDDLES[filled]) / width) ** 2) / (width * math.sqrt(2 * math.pi))
    negative, positive = fit.densities(at)
    log_odds = np.log(np.maximum(positive, 1e-9) / np.maximum(negative, 1e-9))
    cost = np.log(kernel @ count[filled] + _VALLEY_EMPTY) + _VALLEY_PRICE * log_odds**2
    return float(at[np.argmin(cost)])


def fit_populations(dab_od: npt.NDArray[np.float32], negative_od: tuple[float, float]) -> Populations | None:
    """The populations of nuclei with these mean densities.

    `negative_od`: between these the peak of the negatives lies. None where there are too few nuclei, or no such peak:
    nearly all are positive.
    """
    count = _counted(dab_od)
    level = _negative_peak(count, *negative_od) if count.sum() >= _MIN_NUCLEI else None
    if level is None:
        return None
    paler = dab_od[dab_od <= level]
    width = _DEFAULT_WIDTH_OD
    if len(paler) >= _MIN_BELOW:
        width = float(np.clip(1.4826 * np.median(level - paler), *_WIDTHS_OD))
    fit = Populations(
        negative_od=level,
        width_od=width,
        tail_share=_TAIL_SHARE,
        tail_od=max(2 * width, _TAIL_OF_STRENGTH * _STRENGTH_OD**2),
        positive_share=_POSITIVE_SHARE,
        positive_od=_STRENGTH_OD,
        positive_shape=_SHAPE,
        nuclei=int(count.sum()),
    )
    filled = count > 0
    for _ in range(_ROUNDS):
        fit = _improved(fit, _MIDDLES[filled], count[filled])
    return fit


def _counted(dab_od: npt.NDArray[np.float32]) -> F64:
    """Nuclei per bin; what lies beyond the bins is in the last ones."""
    return np.histogram(np.clip(dab_od, _MIDDLES[0], _MIDDLES[-1]), _EDGES)[0].astype(np.float64)


def _negative_peak(count: F64, from_od: float, to_od: float) -> float | None:
    """Of the palest population in this range that is no mere ripple."""
    at = np.arange(-9, 10) * _BIN
    kernel = np.exp(-0.5 * (at / _SMOOTH_OD) ** 2)
    smooth = np.convolve(count, kernel / kernel.sum(), "same")
    peak = (smooth[1:-1] >= smooth[:-2]) & (smooth[1:-1] > smooth[2:]) & (smooth[1:-1] >= _PEAK_SHARE * smooth.max())
    found = _MIDDLES[1:-1][peak & (_MIDDLES[1:-1] >= from_od)]
    return float(found[0]) if len(found) and found[0] <= to_od else None


def _parts(fit: Populations, at: F64) -> tuple[F64, F64, F64]:
    """Densities of negatives in focus, of those with a tail, of positives."""
    beyond = at - fit.negative_od
    ahead = beyond > 0
    z = np.maximum(beyond, _BIN / 2)
    negative = 1 - fit.positive_share
    core = np.exp(-0.5 * (beyond / fit.width_od) ** 2) / (fit.width_od * math.sqrt(2 * math.pi))
    tail = np.where(ahead, np.exp(-z / fit.tail_od) / fit.tail_od, 0.0)
    shape, scale = fit.positive_shape, fit.positive_od / fit.positive_shape
    log_positive = (shape - 1) * np.log(z) - z / scale - shape * math.log(scale) - math.lgamma(shape)
    positive = np.where(ahead, np.exp(log_positive), 0.0)
    return (
        negative * (1 - fit.tail_share) * core,
        negative * fit.tail_share * tail,
        fit.positive_share * positive,
    )


def _improved(fit: Populations, at: F64, count: F64) -> Populations:
    """One round of expectation and maximisation."""
    core, tail, positive = _parts(fit, at)
    weight = count / (core + tail + positive + 1e-12)
    core, tail, positive = core * weight, tail * weight, positive * weight
    n_core, n_tail, n_positive = float(core.sum()), float(tail.sum()), float(positive.sum())
    z = np.maximum(at - fit.negative_od, _BIN / 2)
    strength = (positive @ z + _STRENGTH_WEIGHT * _STRENGTH_OD) / (n_positive + _STRENGTH_WEIGHT)
    tail_od = (tail @ z + _TAIL_WEIGHT * _TAIL_OF_STRENGTH * strength**2) / (n_tail + _TAIL_WEIGHT)
    return Populations(
        negative_od=fit.negative_od,
        width_od=fit.width_od,
        tail_share=(n_tail + _TAIL_SHARE_WEIGHT * _TAIL_SHARE) / (n_core + n_tail + _TAIL_SHARE_WEIGHT),
        tail_od=float(np.clip(tail_od, *_TAIL_RANGE)),
        positive_share=(n_positive + _POSITIVE_SHARE_WEIGHT * _POSITIVE_SHARE)
        / (n_core + n_tail + n_positive + _POSITIVE_SHARE_WEIGHT),
        positive_od=float(strength),
        positive_shape=_shape(z, positive, float(strength)),
        nuclei=fit.nuclei,
    )


def _shape(z: F64, positive: F64, strength: float) -> float:
    """Of the gamma distribution, from how far the mean lies above the geometric one (Minka's closed form)."""
    total = float(positive.sum()) + _SHAPE_WEIGHT
    log_mean = positive @ np.log(np.maximum(z, _LEAST_LOG_OD))
    log_mean = (log_mean + _SHAPE_WEIGHT * (math.log(strength) - 1 / (2 * _SHAPE))) / total
    mean = (positive @ z + _SHAPE_WEIGHT * strength) / total
    spread = max(math.log(mean) - float(log_mean), _LEAST_SPREAD)
    shape = (3 - spread + math.sqrt((spread - 3) ** 2 + 24 * spread)) / (12 * spread)
    return float(np.clip(shape, *_SHAPE_RANGE))
