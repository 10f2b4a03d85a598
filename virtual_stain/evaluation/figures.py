"""Everything that `evaluation.json` says of one marker."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.evaluation.agreement import agreement
from virtual_stain.evaluation.bootstrap import RESAMPLES, bootstrap_over_patients
from virtual_stain.evaluation.cut_offs import CutOff, cut_offs_of
from virtual_stain.evaluation.intensities import intensity_figures
from virtual_stain.evaluation.label_trust import error_by_trust
from virtual_stain.evaluation.predict import TileTable
from virtual_stain.evaluation.slide_figures import ReadingRule, SlideFigures, patient_figures, slide_figures
from virtual_stain.evaluation.statistics import clopper_pearson, spearman
from virtual_stain.intervals import LEVEL, OutOfFold, fit_interval, left_out_calibrated, left_out_hits, no_interval
from virtual_stain.markers import ValueDefinition, parse_marker
from virtual_stain.training.metrics import Values, mean_absolute_error, mean_within, pearson, per_group

_TILE_RESAMPLES = 300  # tens of thousands of tiles a resample
Patients = npt.NDArray[np.str_]


def marker_figures(tiles: TileTable, rule: ReadingRule, *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Tile, slide and patient figures of one marker, JSON-able. Intervals: 95 %, bootstrap over patients."""
    marker = parse_marker(str(tiles.marker[0]))
    cut_offs = cut_offs_of(marker, rule.definition)
    known = tiles.select(tiles.labelled)
    slides, patients = slide_figures(tiles, rule), patient_figures(tiles, rule)
    # evaluation.json calls them `classes`, predictions.csv and the bundles' outputs `class_1` to `class_3`
    of_intensities = {"classes": intensity_figures(tiles, rule)} if marker.has_intensities else {}
    points = _out_of_fold(slides, rule.definition)
    calibrated = left_out_calibrated(points)
    return {
        "tiles": _tile_figures(tiles, known, cut_offs, min(resamples, _TILE_RESAMPLES)),
        "slides": [
            dataclasses.asdict(s) | {"error": s.error, "calibrated_ratio": calibrated.get((s.patient, s.pair))}
            for s in slides
        ],
        "slide_agreement": agreement(*_columns(slides), cut_offs, resamples=resamples),
        "calibrated_slide_agreement": _calibrated_agreement(slides, calibrated, resamples),
        "patients": [_patient(p) for p in patients],
        "patient_agreement": agreement(*_columns(patients), cut_offs, resamples=resamples),
        "top_and_global": _top_and_global(slides, resamples),
        "label_trust": error_by_trust(known, rule.definition, resamples=min(resamples, _TILE_RESAMPLES)),
        **_interval(points, rule.definition),
        **of_intensities,
    }


def _tile_figures(tiles: TileTable, known: TileTable, cut_offs: Sequence[CutOff], resamples: int) -> dict[str, Any]:
    counted = tiles.select(tiles.usable > 0)
    within_r = per_group(known.patient, known.truth, known.value, pearson)
    overall = agreement(known.patient, known.truth, known.value, cut_offs, resamples=resamples)
    return {
        "n": len(tiles),
        "n_labelled": len(known),
        "n_patients": len(set(known.patient.tolist())),
        "pearson_within_patient": mean_within(known.patient, known.truth, known.value, pearson),
        "pearson_within_patient_interval": _within_interval(within_r),
        "spearman_within_patient": mean_within(known.patient, known.truth, known.value, spearman),
        "pearson_per_patient": within_r,
        "pearson_pooled": overall["pearson"],
        "spearman_pooled": overall["spearman"],
        "icc_2_1": overall["icc_2_1"],
        "mae": overall["mae"],
        "bias": overall["bias"],
        "limits_of_agreement": overall["limits_of_agreement"],
        "calibration": overall["calibration"],
        "cut_offs": overall["cut_offs"],
        "intervals": overall["intervals"],
        "tumour_cells_pearson": pearson(counted.cells, counted.expected_cells),
        "tumour_cells_mae": mean_absolute_error(counted.cells, counted.expected_cells),
    }


def _within_interval(per_patient: dict[str, float | None]) -> list[float] | None:
    known = np.array([v for v in per_patient.values() if v is not None])
    names = np.array([k for k, v in per_patient.items() if v is not None])

    def mean(rows: npt.NDArray[np.intp]) -> dict[str, float | None]:
        return {"mean": float(known[rows].mean())} if len(rows) else {"mean": None}

    return bootstrap_over_patients(names, mean)["mean"]


def _columns(figures: list[SlideFigures]) -> tuple[Patients, Values, Values]:
    """(patient, counted, read) of those that have both."""
    known = [(s.patient, s.true_ratio, s.read_global_ratio) for s in figures if s.error is not None]
    return (
        np.array([k[0] for k in known], np.str_),
        np.array([k[1] for k in known], np.float64),
        np.array([k[2] for k in known], np.float64),
    )


def _patient(patient: SlideFigures) -> dict[str, Any]:
    value = dataclasses.asdict(patient) | {"error": patient.error}
    del value["pair"]
    return value


def _top_and_global(slides: list[SlideFigures], resamples: int) -> dict[str, Any]:
    """The source's hot-spot reading beside the global one: each against its own truth, and the first against both."""
    pairs = {
        "global_ratio_vs_global_truth": ("read_global_ratio", "true_ratio"),
        "top_mean_vs_top_truth": ("read_top_mean", "true_top_mean"),
        "top_mean_vs_global_truth": ("read_top_mean", "true_ratio"),
    }
    result = {}
    for name, (read, true) in pairs.items():
        known = [(s.patient, getattr(s, true), getattr(s, read)) for s in slides]
        known = [k for k in known if k[1] is not None and k[2] is not None]
        columns = [np.array([k[i] for k in known]) for i in range(3)]
        found = agreement(columns[0].astype(np.str_), columns[1], columns[2], resamples=resamples)
        result[name] = {key: found[key] for key in ("n", "pearson", "spearman", "mae", "bias", "intervals")}
    return result


def _out_of_fold(slides: list[SlideFigures], definition: ValueDefinition) -> list[OutOfFold]:
    """The slides that interval and calibration are made of; none of a count."""
    return [
        OutOfFold(s.patient, s.pair, s.fold, s.read_global_ratio, s.true_ratio)
        for s in slides
        if definition.is_ratio and s.read_global_ratio is not None and s.true_ratio is not None
    ]


def _calibrated_agreement(
    slides: list[SlideFigures], calibrated: dict[tuple[str, str], float], resamples: int
) -> dict[str, Any] | None:
    """Of readings calibrated by the other patients, beside `slide_agreement` of the raw ones; None: too few."""
    known = [s for s in slides if (s.patient, s.pair) in calibrated and s.true_ratio is not None]
    if not known:
        return None
    patients = np.array([s.patient for s in known])
    truth, read = np.array([s.true_ratio for s in known]), np.array([calibrated[s.patient, s.pair] for s in known])
    found = agreement(patients, truth, read, resamples=resamples)
    del found["cut_offs"]  # of none
    return found


def _interval(points: list[OutOfFold], definition: ValueDefinition) -> dict[str, Any]:
    """The interval of a slide reading, from readings that are all out of fold, and how it fares on these patients."""
    if not definition.is_ratio:
        return {"interval": no_interval("it is made for ratios, and the value is a count"), "interval_check": None}
    hits = left_out_hits(points)
    checked = None
    if hits:
        low, high = clopper_pearson(sum(hits), len(hits))
        checked = {"n": len(hits), "hits": sum(hits), "nominal": LEVEL, "clopper_pearson": [low, high]}
    return {"interval": fit_interval(points), "interval_check": checked}
