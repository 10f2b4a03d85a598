"""An honest interval for a slide reading: calibration and CV+ from out-of-fold residuals, the patient being the unit.

Every patient is read by the network of a fold that has not seen it (cross-validation). On these readings, with the
jackknife+/CV+ of Barber, Candès, Ramdas and Tibshirani, Ann. Statist. 2021; 49: 486–507:

    calibration   c₋ᵢ: least squares of z(truth) on z(reading) over all patients but i; a line that would fall is level
    residual      Rᵢ = |z(truthᵢ) − c₋ᵢ(z(readingᵢ))|
    interval      from the α(n+1)-th smallest of c₋ᵢ(z) − Rᵢ to the (1−α)(n+1)-th smallest of c₋ᵢ(z) + Rᵢ

z = arcsin √p: on this scale the error of a proportion hardly depends on p (Anscombe, Biometrika 1948; 35: 246–254), so
the interval is narrow near 0 and 1 and never leaves 0…1. Ranks that are not whole are interpolated: coverage is then
the nominal one on average (docs/evaluation.md has the measurement) and not, at 24 patients, 92 % for 90 %.

The interval belongs to one of the cross-validated networks. A network trained anew has an offset of its own.

No TensorFlow, and nothing but numpy: training writes the payload, `bundle.json` carries it, scoring applies it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MIN_PATIENTS = 20
"""Below this no interval is given: the outermost residuals alone would decide it."""
LEVEL = 0.90
METHOD = "cv_plus"
SCALE = "arcsine"
_RESAMPLES = 1000
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """One slide that the network which read it has never seen."""

    patient: str
    slide: str
    fold: int
    """The fold whose network read it."""
    reading: float
    """`global_ratio`, fraction."""
    truth: float
    """Σ positive / Σ tumour cells, fraction."""


@dataclass(frozen=True, slots=True)
class SlideInterval:
    """What can be said about one slide's reading. Without an interval the numbers are None and `reason` says why."""

    calibrated: float | None
    """The reading after calibration, fraction: the middle of what is expected, not of the interval."""
    low: float | None
    high: float | None
    level: float
    """Nominal coverage, e.g. 0.9: over many new patients of the same kind, this share of intervals holds the truth."""
    reason: str | None
    beyond_patients: tuple[float, float] | None = None
    """Lowest and highest reading of the patients behind the interval, fractions, where this one lies outside them: the
    line through their readings is then drawn beyond the last of them."""

    @property
    def available(self) -> bool:
        return self.reason is None


def fit_interval(slides: Iterable[OutOfFold], *, level: float = LEVEL) -> dict[str, Any]:
    """The payload of one marker for `bundle.json`; `slide_interval` applies it. Holds no patient and no slide.

    Of a patient with several slides one enters (chosen by hash): residuals of one patient are no independent evidence.
    Too few patients, or readings that do not rise with the truth: `available` is false and `reason` says why.
    Raises ValueError for values outside 0…1.
    """
    points = _one_a_patient(slides)
    payload = no_interval("", level=level) | {"n_patients": len(points), "n_folds": len({p.fold for p in points})}
    needed = _patients_needed(level)
    if len(points) < needed:
        return payload | {
            "reason": f"an interval needs at least {needed} patients with out-of-fold readings; there are {len(points)}"
        }
    found = _fitted(points)
    if found["calibration"][1] == 0:
        return payload | {"reason": "the out-of-fold readings do not rise with the truth"}
    return payload | {"available": True, "reason": None, "calibration_intervals": _line_intervals(points)} | found


def no_interval(reason: str, *, level: float = LEVEL) -> dict[str, Any]:
    """The payload of a marker whose slide readings get no interval, and why."""
    return {
        "method": METHOD,
        "scale": SCALE,
        "reading": "global_ratio",
        "level": level,
        "n_patients": 0,
        "n_folds": 0,
        "available": False,
        "reason": reason,
    }


def _fitted(points: Sequence[OutOfFold]) -> dict[str, Any]:
    z, truth = _arcsine([p.reading for p in points]), _arcsine([p.truth for p in points])
    lines = np.array([_line(np.delete(z, i), np.delete(truth, i)) for i in range(len(z))])
    residual = np.abs(truth - (lines[:, 0] + lines[:, 1] * z))
    order = np.argsort(residual)  # nobody's place in the list says whose it is
    return {
        "calibration": list(_line(z, truth)),
        "left_out_calibrations": [[round(float(v), 9) for v in line] for line in lines[order]],
        "left_out_residuals": [round(float(r), 9) for r in residual[order]],
        "reading_range": [float(min(p.reading for p in points)), float(max(p.reading for p in points))],
    }


def _line_intervals(points: Sequence[OutOfFold]) -> dict[str, list[float]]:
    """95 % percentile intervals of the calibration line's numbers, patients drawn anew."""
    z, truth = _arcsine([p.reading for p in points]), _arcsine([p.truth for p in points])
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(z), (_RESAMPLES, len(z)))
    x, y = z[rows], truth[rows]
    dx = x - x.mean(axis=1, keepdims=True)
    slope = np.maximum(0.0, (dx * y).sum(axis=1) / np.maximum((dx * dx).sum(axis=1), 1e-12 * len(z)))  # as in `_line`
    intercept = y.mean(axis=1) - slope * x.mean(axis=1)
    spans = {"intercept": np.quantile(intercept, [0.025, 0.975]), "slope": np.quantile(slope, [0.025, 0.975])}
    return {name: [float(low), float(high)] for name, (low, high) in spans.items()}


def slide_interval(payload: Mapping[str, Any] | None, reading: float | None) -> SlideInterval:
    """Applies a marker's payload to one slide.

    `payload`: of `fit_interval`; None or {}: the bundle has none. `reading`: the slide's `global_ratio`, fraction, None
    where there is none. Raises ValueError for a payload that is not ours or a reading outside 0…1.
    """
    if not payload:
        return SlideInterval(None, None, None, LEVEL, "the model carries no out-of-fold residuals")
    if payload.get("method") != METHOD or payload.get("scale") != SCALE:
        raise ValueError(f"Expected an interval of method {METHOD} on the {SCALE} scale. Received: {payload!r:.120}")
    level = float(payload["level"])
    if not payload["available"]:
        return SlideInterval(None, None, None, level, str(payload["reason"]))
    if reading is None:
        return SlideInterval(None, None, None, level, "the slide has no reading")
    if not 0 <= reading <= 1:
        raise ValueError(f"Expected a fraction from 0 to 1. Received: {reading}")
    low, high = _ends(payload, reading, level)
    intercept, slope = (float(v) for v in payload["calibration"])
    calibrated = _fraction(intercept + slope * float(_arcsine([reading])[0]))
    least, most = (float(v) for v in payload.get("reading_range", (0.0, 1.0)))
    beyond = None if least <= reading <= most else (least, most)
    return SlideInterval(calibrated, low, high, level, None, beyond)


def _ends(fitted: Mapping[str, Any], reading: float, level: float) -> tuple[float, float]:
    z = float(_arcsine([reading])[0])
    lines = np.asarray(fitted["left_out_calibrations"], np.float64)
    residual = np.asarray(fitted["left_out_residuals"], np.float64)
    centre = lines[:, 0] + lines[:, 1] * z
    n, alpha = len(residual), 1 - level
    low, high = _at_rank(centre - residual, alpha * (n + 1)), _at_rank(centre + residual, (1 - alpha) * (n + 1))
    return _fraction(low), _fraction(max(low, high))


def left_out_hits(slides: Iterable[OutOfFold], *, level: float = LEVEL) -> list[bool]:
    """For every patient: does the interval that the *other* patients give hold this one's truth?

    Empty where the others are too few. The check that an evaluation can make on its own images; it is made of the
    method, also where the readings do not rise with the truth and a bundle is given no interval.
    """
    points = _one_a_patient(slides)
    if len(points) - 1 < _patients_needed(level):
        return []
    hits = []
    for index, point in enumerate(points):
        low, high = _ends(_fitted([*points[:index], *points[index + 1 :]]), point.reading, level)
        hits.append(low <= point.truth <= high)
    return hits


def left_out_calibrated(slides: Iterable[OutOfFold], *, level: float = LEVEL) -> dict[tuple[str, str], float]:
    """(patient, slide) → its reading after the calibration that the *other* patients give, fraction.

    Empty where the others are too few. A calibration judged on the patients that it was fitted to would flatter itself.
    """
    known = list(slides)
    points = _one_a_patient(known)
    if len(points) - 1 < _patients_needed(level):
        return {}
    result: dict[tuple[str, str], float] = {}
    for slide in known:
        others = [p for p in points if p.patient != slide.patient]
        intercept, slope = _line(_arcsine([p.reading for p in others]), _arcsine([p.truth for p in others]))
        result[slide.patient, slide.slide] = _fraction(intercept + slope * float(_arcsine([slide.reading])[0]))
    return result


def _patients_needed(level: float) -> int:
    return max(MIN_PATIENTS, round(1 / (1 - level)))


def _one_a_patient(slides: Iterable[OutOfFold]) -> list[OutOfFold]:
    chosen: dict[str, OutOfFold] = {}
    for slide in slides:
        if not (0 <= slide.reading <= 1 and 0 <= slide.truth <= 1):
            raise ValueError(f"Expected fractions from 0 to 1. Received: {slide}")
        before = chosen.get(slide.patient)
        if before is None or _lot(slide) < _lot(before):
            chosen[slide.patient] = slide
    return [chosen[p] for p in sorted(chosen)]


def _lot(slide: OutOfFold) -> str:
    return hashlib.sha256(f"{slide.patient}/{slide.slide}".encode()).hexdigest()


def _arcsine(fraction: Sequence[float]) -> Values:
    z: Values = np.arcsin(np.sqrt(np.asarray(fraction, np.float64)))
    return z


def _fraction(z: float) -> float:
    return math.sin(min(max(z, 0.0), math.pi / 2)) ** 2


def _line(x: Values, y: Values) -> tuple[float, float]:
    """(intercept, slope) by least squares among lines that do not fall: slope 0 where y does not rise with x."""
    dx = x - x.mean()
    spread = float(dx @ dx)
    slope = max(0.0, float(dx @ (y - y.mean())) / spread) if spread > 1e-12 * len(x) else 0.0
    return float(y.mean()) - slope * float(x.mean()), slope


def _at_rank(values: Values, rank: float) -> float:
    """The `rank`-th smallest, ranks from 1, linear between neighbours."""
    ordered = np.sort(values)
    return float(np.interp(rank, np.arange(1, len(ordered) + 1), ordered))
