"""Every stage of the demo beside the truth of its phantoms."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.geometry import Box, Points
from virtual_stain.labels.store import TileStore
from virtual_stain.phantom.truth import PairTruth, read_truth
from virtual_stain.registration.store import read_registration

MATCH_UM = 6.0
"""A detected nucleus is right when its centre lies this close to a true one's, one to one."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RegistrationCheck:
    """One pair: true error at landmarks all over the tissue, beside what the registration says of itself."""

    pair: str
    median_um: float
    p90_um: float
    stated_median_um: float | None
    stated_p95_um: float | None
    below_stated_p95: float
    """Share of the landmarks whose true error is below the stated p95."""
    verdict: str


@dataclass(frozen=True, slots=True)
class CountingCheck:
    """Detected nuclei of one IHC slide against the true ones."""

    pair: str
    f1: float
    precision: float
    recall: float
    class_agreement: float
    """Share of matched nuclei whose class (positive, negative) is right."""


@dataclass(frozen=True, slots=True)
class TileRatioCheck:
    """Labels (registered, counted) against the true ratio of the same tiles."""

    n_tiles: int
    mae: float
    bias: float
    r: float
    slide_bias: float = float("nan")
    """Of Σ positive / Σ cells over the same tiles, mean over the slides. A count that loses negative cells where few
    are positive has a small `bias` and a large one here."""


def check_registration(cohort: Path, records: Path, pair: str) -> RegistrationCheck:
    """True error of a pair at its landmarks, in µm of the IHC slide."""
    truth = read_truth(cohort, pair)
    found = read_registration(records / "work" / pair)
    gap_px0 = found.transform.to_ihc(truth.landmarks_he) - truth.landmarks_ihc
    error_um = np.linalg.norm(gap_px0, axis=1) * truth.ihc_mpp
    stated = found.error_p95_um
    return RegistrationCheck(
        pair=pair,
        median_um=float(np.median(error_um)),
        p90_um=float(np.quantile(error_um, 0.9)),
        stated_median_um=found.error_median_um,
        stated_p95_um=stated,
        below_stated_p95=float(np.mean(error_um <= stated)) if stated is not None else 0.0,
        verdict=str(found.verdict),
    )


def check_tile_ratios(cohort: Path, records: Path, pairs: Sequence[str]) -> TileRatioCheck:
    """Labels that carry a ratio, of all pairs, against the truth of exactly their windows."""
    return compare_tile_counts([_tile_counts(cohort, records, pair) for pair in pairs])


def _tile_counts(cohort: Path, records: Path, pair: str) -> tuple[Floats, Floats]:
    """(label, true) float64[N, 2]: positive and negative cells of the labelled tiles that hold true tumour cells."""
    truth = read_truth(cohort, pair)
    label: list[tuple[float, float]] = []
    true: list[tuple[float, float]] = []
    with TileStore(records / "work" / pair / "tiles.h5") as store:
        table = store.table()
    for i in np.flatnonzero((table["weight"] > 0) & ~table.dropped):
        box = Box(*(float(table[name][i]) for name in ("x_px0", "y_px0", "width_px0", "height_px0")))
        counts = truth.counts_in(box)
        if counts.ratio is not None:
            true.append((counts.positive, counts.negative))
            label.append((float(table["positive"][i]), float(table["negative"][i])))
    return np.array(label, np.float64).reshape(-1, 2), np.array(true, np.float64).reshape(-1, 2)


def compare_tile_counts(pairs: Sequence[tuple[Floats, Floats]]) -> TileRatioCheck:
    """Per pair (label, true) float64[N, 2]: positive and negative cells of the same tiles."""
    label, true = (np.concatenate([_ratios(pair[side]) for pair in pairs]) for side in (0, 1))
    of_slides = [_ratios(counted.sum(axis=0)) - _ratios(real.sum(axis=0)) for counted, real in pairs if len(counted)]
    return TileRatioCheck(
        n_tiles=len(label),
        mae=float(np.abs(label - true).mean()),
        bias=float((label - true).mean()),
        r=float(np.corrcoef(label, true)[0, 1]),
        slide_bias=float(np.mean(of_slides)),
    )


def _ratios(counts: Floats) -> Floats:
    result: Floats = counts[..., 0] / counts.sum(axis=-1)
    return result


def read_cells(folder: Path) -> Cells:
    """The cells.csv of `vstain count`, level-0 px."""
    with (folder / "cells.csv").open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    return Cells(
        xy=np.array([[float(line["x"]), float(line["y"])] for line in lines], np.float64).reshape(-1, 2),
        cell_class=np.array([CellClass[line["class"].upper()] for line in lines], np.uint8),
        tumour=np.array([line["tumour"] == "1" for line in lines], np.bool_),
        dab_od=np.array([float(line["dab_od"]) for line in lines], np.float32),
        area_um2=np.array([float(line["area_um2"]) for line in lines], np.float32),
    )


def check_counting(truth: PairTruth, found: Cells) -> CountingCheck:
    """`found`: a count of the whole IHC slide in its level-0 px. All nuclei, tumour or not; OTHER is no detection."""
    found = found.select(found.cell_class != CellClass.OTHER)
    true = truth.ihc_cells
    a, b = match_one_to_one(found.xy * truth.ihc_mpp, true.xy * truth.ihc_mpp, MATCH_UM)
    precision, recall = len(a) / max(len(found), 1), len(b) / max(len(true), 1)
    return CountingCheck(
        pair=truth.pair,
        f1=2 * len(a) / max(len(found) + len(true), 1),
        precision=precision,
        recall=recall,
        class_agreement=float(np.mean(found.cell_class[a] == true.cell_class[b])) if len(a) else 0.0,
    )


def match_one_to_one(a: Points, b: Points, reach: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Indices into float64[N, 2] and float64[M, 2] of pairs within `reach`, nearest first, each point at most once."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(a).sparse_distance_matrix(cKDTree(b), reach, output_type="ndarray")
    pairs = pairs[np.argsort(pairs["v"], kind="stable")]
    free_a, free_b = np.ones(len(a), np.bool_), np.ones(len(b), np.bool_)
    chosen: list[tuple[int, int]] = []
    for i, j in zip(pairs["i"].tolist(), pairs["j"].tolist(), strict=True):
        if free_a[i] and free_b[j]:
            free_a[i] = free_b[j] = False
            chosen.append((i, j))
    index = np.array(chosen, np.intp).reshape(-1, 2)
    return index[:, 0], index[:, 1]


@dataclass(frozen=True, slots=True)
class PredictionCheck:
    """Held-out tiles: what the network reads from H&E alone, beside the true ratio of the tiles."""

    n_tiles: int
    within_r: float
    """Pearson r within each held-out patient, mean."""
    per_patient_r: dict[str, float]
    pooled_r: float
    mae: float


def read_predictions(path: Path) -> dict[str, dict[tuple[int, int], float]]:
    """pair → (col, row) → read fraction, of the tiles that enter a reading (`used`), from predictions.csv."""
    result: dict[str, dict[tuple[int, int], float]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            if line["used"] == "1" and line["ratio"]:
                result.setdefault(line["pair"], {})[int(line["col"]), int(line["row"])] = float(line["ratio"])
    return result


def check_predictions(cohort: Path, predictions: dict[str, dict[tuple[int, int], float]]) -> PredictionCheck:
    """Readings against the true ratio of realised cells, over tiles that are usable by the truth."""
    per_patient: dict[str, float] = {}
    all_read: list[Floats] = []
    all_true: list[Floats] = []
    for pair, readings in sorted(predictions.items()):
        tiles = read_truth(cohort, pair).tiles
        index = [i for i in np.flatnonzero(tiles.usable) if (tiles.col[i], tiles.row[i]) in readings]
        read = np.array([readings[int(tiles.col[i]), int(tiles.row[i])] for i in index])
        true = tiles.ratio[index]
        per_patient[pair] = float(np.corrcoef(read, true)[0, 1])
        all_read.append(read)
        all_true.append(true)
    read, true = np.concatenate(all_read), np.concatenate(all_true)
    return PredictionCheck(
        n_tiles=len(read),
        within_r=float(np.mean(list(per_patient.values()))),
        per_patient_r=per_patient,
        pooled_r=float(np.corrcoef(read, true)[0, 1]),
        mae=float(np.abs(read - true).mean()),
    )
