"""One set of figures for every level: tiles, slides, patients; each with its interval over patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.evaluation.bootstrap import RESAMPLES, bootstrap_over_patients
from virtual_stain.evaluation.cut_offs import CutOff
from virtual_stain.evaluation.statistics import (
    auc,
    calibration_bins,
    calibration_line,
    confusion,
    icc_2_1,
    spearman,
)
from virtual_stain.training.metrics import Values, limits_of_agreement, mean_absolute_error, pearson


def agreement(
    patients: npt.NDArray[np.str_],
    truth: Values,
    read: Values,
    cut_offs: Sequence[CutOff] = (),
    *,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """JSON-able figures of read float64[N] against truth float64[N], fractions; `patients` str[N].

    None = does not exist (too few values, no variation). `intervals`: 95 %, bootstrap over patients; None below 5.
    """

    def figures(rows: npt.NDArray[np.intp]) -> dict[str, float | None]:
        return _figures(truth[rows], read[rows], cut_offs)

    values = figures(np.arange(len(truth)))
    intervals = bootstrap_over_patients(patients, figures, resamples=resamples)
    lower, upper = values["lower_limit"], values["upper_limit"]
    return {
        "n": len(truth),
        "n_patients": len(set(patients.tolist())),
        "pearson": values["pearson"],
        "spearman": values["spearman"],
        "icc_2_1": values["icc_2_1"],
        "mae": values["mae"],
        "bias": values["bias"],
        "limits_of_agreement": None if lower is None or upper is None else [lower, upper],
        "calibration": {
            "intercept": values["calibration_intercept"],
            "slope": values["calibration_slope"],
            "bins": calibration_bins(truth, read),
        },
        "cut_offs": [_at(c, truth, read, values, intervals) for c in cut_offs],
        "intervals": {name: pair for name, pair in intervals.items() if "@" not in name},
    }


def _figures(truth: Values, read: Values, cut_offs: Sequence[CutOff]) -> dict[str, float | None]:
    line, limits = calibration_line(truth, read), limits_of_agreement(truth, read)
    values: dict[str, float | None] = {
        "pearson": pearson(truth, read),
        "spearman": spearman(truth, read),
        "icc_2_1": icc_2_1(truth, read),
        "mae": mean_absolute_error(truth, read),
        "bias": None if limits is None else limits[0],
        "lower_limit": None if limits is None else limits[1],
        "upper_limit": None if limits is None else limits[2],
        "calibration_intercept": None if line is None else line[0],
        "calibration_slope": None if line is None else line[1],
    }
    for cut in cut_offs:
        counts = confusion(cut.higher(truth), cut.higher(read))
        values |= {
            _key("auc", cut): auc(cut.higher(truth), read),
            _key("sensitivity", cut): counts.sensitivity,
            _key("specificity", cut): counts.specificity,
        }
    return values


def _at(
    cut: CutOff,
    truth: Values,
    read: Values,
    values: dict[str, float | None],
    intervals: dict[str, list[float] | None],
) -> dict[str, Any]:
    counts = confusion(cut.higher(truth), cut.higher(read))
    row: dict[str, Any] = {
        "cut_off": cut.fraction,
        "higher": cut.label,
        "source": cut.source,
        "true_positive": counts.true_positive,
        "false_positive": counts.false_positive,
        "true_negative": counts.true_negative,
        "false_negative": counts.false_negative,
    }
    for name in ("auc", "sensitivity", "specificity"):
        row |= {name: values[_key(name, cut)], f"{name}_interval": intervals[_key(name, cut)]}
    return row


def _key(name: str, cut: CutOff) -> str:
    return f"{name}@{cut.fraction:g}"
