"""Scores of a count against known nuclei, and the baseline that it has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
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


def table_row(name: str, scores: list[Score]) -> str:
    """One picture, or the mean of several with the mean absolute ratio error."""

    def mean(field: str) -> float:
        return float(np.mean([getattr(s, field) for s in scores]))

    error = float(np.mean([abs(s.ratio_error) for s in scores])) if len(scores) > 1 else scores[0].ratio_error
    return (
        f"  {name:12s} F1 {mean('f1'):.3f} (P {mean('precision'):.2f} R {mean('recall'):.2f})   positive "
        f"{mean('f1_positive'):.3f}   negative {mean('f1_negative'):.3f}   ratio error {error:+.1f}"
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


def baseline_cells(scene: Scene) -> Cells:
    """Fixed stain vectors, Otsu on either stain, watershed on the distance, DAB above Otsu: the usual first script."""
    from skimage.color import rgb2hed
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.segmentation import watershed

    hed = rgb2hed(scene.rgb)
    blue, brown = (gaussian(hed[..., i], 0.5 / scene.mpp) for i in (0, 2))
    mask = (blue > threshold_otsu(blue)) | (brown > threshold_otsu(brown))
    distance = ndimage.distance_transform_edt(mask)
    peaks = peak_local_max(gaussian(distance, 1), min_distance=round(2.5 / scene.mpp), labels=mask.astype(int))
    markers = np.zeros(mask.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-distance, markers, mask=mask)
    area = np.bincount(labels.ravel(), minlength=len(peaks) + 1)[1:] * scene.mpp**2
    index = np.flatnonzero(area >= 10) + 1
    if not len(index):
        return Cells.empty()
    dab = np.asarray(ndimage.mean(hed[..., 2], labels, index))
    centres = np.array(ndimage.center_of_mass(mask, labels, index))[:, ::-1] + 0.5
    positive = (dab > threshold_otsu(hed[..., 2])).astype(np.uint8)
    areas = area[index - 1].astype(np.float32)
    return Cells(centres, positive, np.ones(len(index), bool), np.maximum(dab, 0).astype(np.float32), areas)
