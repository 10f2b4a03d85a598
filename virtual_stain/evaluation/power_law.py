"""Error against the number of patients: a power law with its uncertainty, the patient being the unit.

    error(n) = a · n^(−b)     a line in logarithms, by least squares

A floor that no number of patients goes below would be a third number, which three or four sizes cannot tell from a
small b. So the law is stated inside the sizes that were trained, and one doubling beyond them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.evaluation.bootstrap import bootstrap_over_patients

Values = npt.NDArray[np.float64]
MIN_SIZES = 3
"""A line through two points fits whatever they are."""


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """What doubling the number of patients does to an error."""

    doubling: float
    """Factor of the error for each doubling of the patients; below 1 it falls."""
    doubling_interval: tuple[float, float] | None
    """95 %, bootstrap over the patients that were read; None below 5 patients."""
    at_double: float
    """Error at twice the largest number that was trained on."""
    at_double_interval: tuple[float, float] | None

    @property
    def falls(self) -> bool:
        """Whether more patients were shown to help."""
        return self.doubling_interval is not None and self.doubling_interval[1] < 1


def fit_power_law(sizes: Sequence[int], errors: Mapping[str, Sequence[float]], *, resamples: int = 1000) -> PowerLaw:
    """`errors`: patient → mean absolute error at each size, ≥ 0, the same patients at every size.

    Raises ValueError for fewer than three sizes.
    """
    if len(sizes) < MIN_SIZES:
        raise ValueError(f"Expected at least {MIN_SIZES} numbers of patients. Received: {list(sizes)}")
    names = np.array(sorted(errors))
    table = np.array([errors[name] for name in names], np.float64)

    def figures(rows: npt.NDArray[np.intp]) -> dict[str, float | None]:
        return _line(np.asarray(sizes, np.float64), table[rows].mean(axis=0))

    found = figures(np.arange(len(names)))
    spans = bootstrap_over_patients(names, figures, resamples=resamples)
    doubling, at_double = (found[key] for key in ("doubling", "at_double"))
    assert doubling is not None
    assert at_double is not None
    return PowerLaw(doubling, _span(spans["doubling"]), at_double, _span(spans["at_double"]))


def _span(interval: list[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])


def _line(sizes: Values, errors: Values) -> dict[str, float | None]:
    x, y = np.log2(sizes), np.log(np.maximum(errors, 1e-9))
    dx = x - x.mean()
    slope = float(dx @ y / (dx @ dx))
    return {"doubling": float(np.exp(slope)), "at_double": float(np.exp(y.mean() + slope * (x[-1] + 1 - x.mean())))}
