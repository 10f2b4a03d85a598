"""Where the H&E tissue has no IHC tissue under it: missing on that slide, or torn off and moved elsewhere.

No window tells anything there, so no error can be stated. The outlines of two sections differ by themselves, and the
IHC tissue may lie off by the stated error; so a place counts as bare only where the nearest IHC tissue is further than
both. Beside such a place the IHC tissue is known to end, and there the stated error alone is the margin: what was torn
off is bare up to the tear.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Points
from virtual_stain.registration.foreground import Foreground
from virtual_stain.registration.raster import Image, Mask, Matrix
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.registration.warping import pull_map, pull_mask

_STEP = 2  # working px per cell
_LEAST_CELLS = 2.0  # of a distance that cells can tell


@dataclass(frozen=True, slots=True, eq=False)
class BareTissue:
    """Cells of the H&E; outside them nothing is bare."""

    cells: Mask
    """bool[rows, columns]."""
    origin_px0: tuple[float, float]
    """(x, y) of the corner of cell [0, 0], H&E level-0 px."""
    cell_px0: tuple[float, float]
    """(width, height) of a cell, H&E level-0 px."""

    def at(self, he_points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """bool[N] at float64[N, 2] H&E level-0 px."""
        points: Points = np.asarray(he_points, np.float64).reshape(-1, 2)
        column, row = np.floor((points - self.origin_px0) / self.cell_px0).astype(np.intp).T
        rows, columns = self.cells.shape
        known = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        result = np.zeros(len(points), np.bool_)
        result[known] = self.cells[row[known], column[known]]
        return result


def nothing_bare() -> BareTissue:
    """Where nothing is known of it."""
    return BareTissue(np.zeros((0, 0), np.bool_), (0.0, 0.0), (1.0, 1.0))


def find_bare(
    fixed: Foreground,
    moving: Foreground,
    matrix: Matrix,
    field: DisplacementField | None,
    *,
    error_px: float,
    outline_px: float,
) -> BareTissue:
    """`error_px`: the stated error; `outline_px`: by how much the sections' own outlines may differ; working px."""
    under = pull_mask(moving.mask, pull_map(fixed.shape, matrix, field))
    half = _STEP // 2
    tissue, under = fixed.mask[half::_STEP, half::_STEP], under[half::_STEP, half::_STEP]
    error = error_px / _STEP
    cells = bare_cells(tissue, under, error=error, outline=max(outline_px / _STEP, error, _LEAST_CELLS))
    px0_from_work = fixed.px0_from_work
    (x, y), scale = px0_from_work.apply([[0.0, 0.0]])[0], np.diag(px0_from_work.matrix)[:2] * _STEP
    return BareTissue(cells, (float(x), float(y)), (float(scale[0]), float(scale[1])))


def bare_cells(tissue: Mask, under: Mask, *, error: float, outline: float) -> Mask:
    """bool[H, W]: the tissue, with its holes of up to twice `outline`, under which there is none; lengths in cells."""
    away = _distance(under)
    # lumens of a lost part are lost with it
    solid = tissue | (_distance(_distance(tissue) > outline) > outline)
    certain = solid & (away > outline)
    if not certain.any():
        return certain
    result: Mask = solid & (away > error + 1.0) & (_distance(certain) <= outline)
    return result


def _distance(mask: Mask) -> Image:
    """float32[H, W]: from every cell to the nearest one of `mask`; very far where there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
