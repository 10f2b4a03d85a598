"""Agreement of readings with labels beyond correlation: ranks, ICC, calibration, cut-offs. Plain numpy and scipy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, rankdata

from virtual_stain.training.metrics import pearson

Values = npt.NDArray[np.float64]


def spearman(truth: Values, read: Values) -> float | None:
    """Spearman's rank correlation of float64[N], ties averaged; None where Pearson's of the ranks does not exist."""
    return pearson(rankdata(truth), rankdata(read)) if len(truth) else None


def icc_2_1(truth: Values, read: Values) -> float | None:
    """Intraclass correlation ICC(2,1): two-way random, absolute agreement, one rater; None below 3 values.

    Unlike Pearson's r it falls when the readings are shifted or stretched. Shrout and Fleiss, Psychol. Bull. 1979; 86:
    420–428.
    """
    n = len(truth)
    if n < 3:
        return None
    both = np.stack([truth, read], axis=1)
    grand, rows, raters = both.mean(), both.mean(axis=1), both.mean(axis=0)
    between = 2 * float(((rows - grand) ** 2).sum()) / (n - 1)
    of_raters = n * float(((raters - grand) ** 2).sum())
    rest = float(((both - rows[:, None] - raters[None, :] + grand) ** 2).sum()) / (n - 1)
    total = between + rest + 2 * (of_raters - rest) / n
    return (between - rest) / total if total > 1e-15 else None


def calibration_line(truth: Values, read: Values) -> tuple[float, float] | None:
    """(intercept, slope) of truth on reading by least squares: (0, 1) is calibrated; None where readings are constant.

    A slope below 1: high readings are too high and low ones too low.
    """
    if len(truth) < 3:
        return None
    d = read - read.mean()
    if float(d @ d) <= 1e-12 * len(read):
        return None
    slope = float(d @ (truth - truth.mean()) / (d @ d))
    return float(truth.mean()) - slope * float(read.mean()), slope


def calibration_bins(truth: Values, read: Values, bins: int = 10) -> list[dict[str, float | int]]:
    """Bins of about equally many values, by reading: [{n, read_mean, true_mean}], at least 3 values a bin."""
    bins = max(1, min(bins, len(truth) // 3))
    parts = np.array_split(np.argsort(read, kind="stable"), bins) if len(truth) else []
    return [
        {"n": len(p), "read_mean": float(read[p].mean()), "true_mean": float(truth[p].mean())} for p in parts if len(p)
    ]


def auc(positive: npt.NDArray[np.bool_], score: Values) -> float | None:
    """Area under the ROC curve (Mann–Whitney, ties half); None unless both classes are there."""
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return None
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * m))


def roc_points(positive: npt.NDArray[np.bool_], score: Values) -> tuple[Values, Values]:
    """(false positive rate, sensitivity) float64[M], from (0, 0) to (1, 1), a point per distinct score."""
    order = np.argsort(-score, kind="stable")
    last_of_score = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits, misses = np.cumsum(positive[order])[last_of_score], np.cumsum(~positive[order])[last_of_score]
    zero = np.zeros(1)
    return (
        np.concatenate([zero, misses / max(int((~positive).sum()), 1)]),
        np.concatenate([zero, hits / max(int(positive.sum()), 1)]),
    )


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts at a cut-off; positive: in the higher class."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @property
    def sensitivity(self) -> float | None:
        return _share(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> float | None:
        return _share(self.true_negative, self.true_negative + self.false_positive)


def confusion(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> Confusion:
    """Labels `a` and readings `b`, bool[N], in the higher class."""
    return Confusion(int((a & b).sum()), int((~a & b).sum()), int((~a & ~b).sum()), int((a & ~b).sum()))


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval of hits / n. Clopper and Pearson, Biometrika 1934; 26: 404–413."""
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(beta.ppf(1 - tail, hits + 1, n - hits))
    return low, high


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
