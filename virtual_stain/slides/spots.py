"""The spots of a tissue micro-array: pieces of like size in rows and columns.

Spots lie on a grid, which may be turned a little. Some are missing, some have come apart. Rows are numbered from the
top, columns from the left, as the slide is scanned.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Points
from virtual_stain.slides.resolution import Mpp
from virtual_stain.slides.tissue import TissueMap

_LEAST_SPOTS, _LEAST_LINES, _LEAST_ON_A_LINE = 8, 2, 2.0
_DIAMETER_UM = (300.0, 3000.0)  # needles of 0.6 to 2 mm, with what stretching and loss make of them
_GAP_UM = 60.0  # between the pieces of one spot that has come apart
_ALIKE = 1.5  # times the median diameter, either way: a spot among spots
_LEAST_ALIKE_SHARE = 0.8  # of the tissue's area lies in such pieces
_LEAST_FILLED = 0.5  # of the grid's places
_LINE_GAP = 0.5  # of a median diameter: centres of one row or column lie closer than this


@dataclass(frozen=True, slots=True)
class Spot:
    """One spot."""

    row: int
    """From 1."""
    column: int
    """From 1."""
    centre_px0: tuple[float, float]
    diameter_um: float
    """Of the circle that holds its bounding box's shorter and longer side on average."""
    tissue_um2: float


def find_spots(tissue: TissueMap, mpp: Mpp) -> tuple[Spot, ...]:
    """The spots row by row; () where the tissue is no micro-array."""
    ux, uy = tissue.px0_per_ov[0] * mpp.x, tissue.px0_per_ov[1] * mpp.y
    radius = max(1, round(_GAP_UM / 2 / ux))
    joined = cv2.dilate(tissue.mask.astype(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    area = np.bincount(labels[tissue.mask], minlength=count).astype(np.float64) * ux * uy
    width, height = (stats[:, i] - 2 * radius for i in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT))
    diameter = (width * ux + height * uy) / 2
    centre = stats[:, [cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP]] + stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]] / 2
    size = (diameter >= _DIAMETER_UM[0]) & (diameter <= _DIAMETER_UM[1])
    size[0] = False
    if np.count_nonzero(size) < _LEAST_SPOTS:
        return ()
    usual = float(np.median(diameter[size]))
    alike = size & (diameter < _ALIKE * usual) & (diameter > usual / _ALIKE)
    index = np.flatnonzero(alike)
    if len(index) < _LEAST_SPOTS or area[alike].sum() < _LEAST_ALIKE_SHARE * area[1:].sum():
        return ()
    at = centre[index] * (ux, uy)
    places = _on_grid(at, usual)
    if places is None:
        return ()
    centres = tissue.px0_from_ov.apply(centre[index])
    spots = [
        Spot(int(row) + 1, int(column) + 1, (float(x), float(y)), float(diameter[i]), float(area[i]))
        for i, (row, column), (x, y) in zip(index, places.tolist(), centres, strict=True)
    ]
    return tuple(sorted(spots, key=lambda spot: (spot.row, spot.column)))


def _on_grid(at_um: Points, diameter_um: float) -> npt.NDArray[np.intp] | None:
    """intp[N, 2]: (row, column) of every centre; None where they lie on no grid."""
    turned = _upright(at_um)
    row, column = (_lines(turned[:, axis], _LINE_GAP * diameter_um) for axis in (1, 0))
    rows, columns = int(row.max()) + 1, int(column.max()) + 1
    distinct = len({*zip(row.tolist(), column.tolist(), strict=True)}) == len(at_um)
    filled = len(at_um) >= max(_LEAST_FILLED * rows * columns, _LEAST_ON_A_LINE * max(rows, columns))
    if min(rows, columns) < _LEAST_LINES or not distinct or not filled:
        return None
    return np.stack([row, column], axis=1)


def _upright(at_um: Points) -> Points:
    """The centres turned so that their rows are level: by the direction of nearest neighbours, up to 45 degrees."""
    apart = at_um[:, None] - at_um[None]
    distance = np.hypot(apart[..., 0], apart[..., 1])
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(axis=1)
    step = apart[np.arange(len(at_um)), nearest]
    four = np.exp(4j * np.arctan2(step[:, 1], step[:, 0]))
    angle = float(np.angle(four.mean())) / 4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(at_um @ turn, np.float64)


def _lines(values: npt.NDArray[np.float64], gap: float) -> npt.NDArray[np.intp]:
    """intp[N]: number of the line that a coordinate lies on; lines are further apart than `gap`."""
    order = np.argsort(values, kind="stable")
    number = np.concatenate([[0], np.cumsum(np.diff(values[order]) > gap)]).astype(np.intp)
    result = np.empty(len(values), np.intp)
    result[order] = number
    return result
