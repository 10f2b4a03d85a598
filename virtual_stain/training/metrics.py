"""Agreement of readings with labels; over tiles, within a group, pooled. Plain numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
_MIN_TILES = 3


def pearson(truth: Values, read: Values) -> float | None:
    """Pearson's r of float64[N] and float64[N]; None below 3 values or where one of them does not vary."""
    if len(truth) < _MIN_TILES:
        return None
    a, b = truth - truth.mean(), read - read.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    # a constant reading (up to rounding) has no correlation, not a correlation of 0
    if scale <= 1e-12 * len(truth):
        return None
    return float(a @ b) / scale


def mean_within(
    groups: npt.NDArray[np.str_] | npt.NDArray[np.bytes_],
    truth: Values,
    read: Values,
    figure: Callable[[Values, Values], float | None],
) -> float | None:
    """Mean of `figure` over the groups (patients, pairs) that have one; None when none has.

    Pooled figures reward knowing the patient; within a patient only the tile counts.
    """
    values = per_group(groups, truth, read, figure)
    known = [v for v in values.values() if v is not None]
    return float(np.mean(known)) if known else None


def per_group(
    groups: npt.NDArray[np.str_] | npt.NDArray[np.bytes_],
    truth: Values,
    read: Values,
    figure: Callable[[Values, Values], float | None],
) -> dict[str, float | None]:
    """group → `figure` over its values, groups sorted."""
    return {str(g): figure(truth[groups == g], read[groups == g]) for g in sorted(set(groups.tolist()))}


def mean_absolute_error(truth: Values, read: Values) -> float | None:
    """Mean |read − truth|; None without values."""
    return float(np.abs(read - truth).mean()) if len(truth) else None


def limits_of_agreement(truth: Values, read: Values) -> tuple[float, float, float] | None:
    """(bias, lower, upper): mean difference read − truth and ± 1.96 standard deviations; None below 3 values.

    Bland and Altman, Lancet 1986; 327: 307–310.
    """
    if len(truth) < _MIN_TILES:
        return None
    difference = read - truth
    bias, spread = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
    return bias, bias - spread, bias + spread
