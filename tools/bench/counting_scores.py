"""Scores of a count against known nuclei."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from tools.bench.counting_data import Scene
from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.geometry import Points

REACH_UM = 6.0
_TILE_UM, _MIN_TILE_CELLS = 307.2, 50


@dataclass(frozen=True)
class Score:
    """One picture; fractions and points of per cent."""

    f1: float
    precision: float
    recall: float
    f1_positive: float
    f1_negative: float
    ratio_error: float
    """Positive share of all nuclei, ours − truth, points."""


def score(scene: Scene, cells: Cells) -> Score:
    """Detection with one-to-one pairs within 6 µm; the classes once more each by itself."""
    cells = cells.select(cells.cell_class != CellClass.OTHER)
    positive, reach = cells.cell_class == CellClass.POSITIVE, REACH_UM / scene.mpp
    hits = len(pairs(cells.xy, scene.xy, reach))
    ratio = float(positive.mean()) if len(positive) else 0.0
    return Score(
        f1=_f1(hits, len(cells), len(scene.xy)),
        precision=hits / max(1, len(cells)),
        recall=hits / max(1, len(scene.xy)),
        f1_positive=_class_f1(cells.xy[positive], scene.xy[scene.positive], reach),
        f1_negative=_class_f1(cells.xy[~positive], scene.xy[~scene.positive], reach),
        ratio_error=100 * (ratio - float(scene.positive.mean())),
    )


def _class_f1(found: Points, truth: Points, reach: float) -> float:
    return _f1(len(pairs(found, truth, reach)), len(found), len(truth))


def _f1(hits: int, found: int, truth: int) -> float:
    return 2 * hits / max(1, found + truth)


def pairs(found: Points, truth: Points, reach: float) -> list[tuple[int, int]]:
    """One-to-one, nearest first."""
    if not len(found) or not len(truth):
        return []
    near = cKDTree(truth).query_ball_point(found, reach)
    candidates = sorted((float(np.hypot(*(found[i] - truth[j]))), i, j) for i, js in enumerate(near) for j in js)
    used_found, used_truth, result = set(), set(), []
    for _, i, j in candidates:
        if i not in used_found and j not in used_truth:
            used_found.add(i)
            used_truth.add(j)
            result.append((i, j))
    return result


HEADER = f"{'pictures':34s} {'method':9s}   F1    P    R     F1+   F1-   ratio error, points"


def table_row(name: str, method: str, scores: list[Score]) -> str:
    """One picture, or the mean of several with the mean absolute ratio error."""

    def mean(field: str) -> float:
        return float(np.mean([getattr(s, field) for s in scores]))

    errors = [s.ratio_error for s in scores]
    shown = f"{errors[0]:+.1f}" if len(errors) == 1 else f"{np.mean(np.abs(errors)):.1f}"
    return (
        f"{name:34s} {method:9s} {mean('f1'):.3f} {mean('precision'):.2f} {mean('recall'):.2f}  "
        f"{mean('f1_positive'):.3f} {mean('f1_negative'):.3f}   {shown}"
    )


def tile_errors(scene: Scene, cells: Cells) -> npt.NDArray[np.float64]:
    """Ratio of tumour cells per 307 µm tile, ours − truth, points; tiles with too few cells are left out."""
    side = _TILE_UM / scene.mpp
    truth = Cells(scene.xy, scene.positive.astype(np.uint8), scene.tumour, *_zeros(len(scene.xy)))
    errors = []
    for y in np.arange(0, scene.rgb.shape[0] - side + 1, side):
        for x in np.arange(0, scene.rgb.shape[1] - side + 1, side):
            ours, known = (c.select(_inside(c.xy, x, y, side)).counts() for c in (cells, truth))
            if known.total >= _MIN_TILE_CELLS and ours.ratio is not None and known.ratio is not None:
                errors.append(100 * (ours.ratio - known.ratio))
    return np.array(errors)


def _zeros(n: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    return np.zeros(n, np.float32), np.zeros(n, np.float32)


def _inside(xy: Points, x: float, y: float, side: float) -> npt.NDArray[np.bool_]:
    return (xy[:, 0] >= x) & (xy[:, 0] < x + side) & (xy[:, 1] >= y) & (xy[:, 1] < y + side)
