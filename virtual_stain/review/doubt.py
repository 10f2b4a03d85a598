"""Which labels a person should look at first: a number to order by, never one to report."""

from __future__ import annotations

import math
from collections.abc import Sequence

_STANDARD_ERROR = 0.057
"""Binomial standard error at 50 cells and 20 %: a label that is only just one."""
_ERROR_UM = 30.0
"""Median registration error above which a whole pair has to be reviewed."""
_FLAG = 0.5


def doubt(positive: int, negative: int, flags: Sequence[str], error_median_um: float | None) -> float:
    """≥ 0, larger is more doubtful: standard error, registration error and flags, each 1 at its usual limit.

    The standard error is that of (k + 1) / (n + 2), so that 0 of 5 cells is not taken for certain.
    """
    n = positive + negative + 2
    p = (positive + 1) / n
    place = 2.0 if error_median_um is None else error_median_um / _ERROR_UM
    return math.sqrt(p * (1 - p) / n) / _STANDARD_ERROR + place + _FLAG * len(flags)
