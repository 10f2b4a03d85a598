"""Where the H&E tissue has no IHC tissue under it: missing on that slide, or torn off and moved elsewhere.

No window tells anything there, so no error can be stated. The outlines of two sections differ by themselves, and the
IHC tissue may lie off by the stated error; so a place counts as bare only where the nearest IHC tissue is further than
both. Beside such a place the IHC tissue is known to end, and there the stated error alone is the margin: what was torn
off is bare up to the tear.

Bare ground may cut a piece of tissue off from the rest. What lies under such a piece may be tissue that was moved there
from elsewhere. Nothing on the way to it tells, so its own windows have to (`pieces`, ErrorEvidence.confirms).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Points
from virtual_stain.registration.foreground import Foreground
from virtual_stain.registration.raster import Image, Mask, Matrix
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.registration.warping import pull_map, pull_mask

_Value = TypeVar("_Value", np.bool_, np.intp)
_STEP = 2  # working px per cell
_LEAST_CELLS = 2.0  # of a distance that cells can tell
_BRIDGE_CELLS = 2.0  # what joins two pieces is wider than twice this


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
        return self.values_at(self.cells, he_points)

    def values_at(self, values: npt.NDArray[_Value], he_points: npt.ArrayLike) -> npt.NDArray[_Value]:
        """[N]: of an image of the same cells, at float64[N, 2] H&E level-0 px; 0 outside."""
        points: Points = np.asarray(he_points, np.float64).reshape(-1, 2)
        column, row = np.floor((points - self.origin_px0) / self.cell_px0).astype(np.intp).T
        rows, columns = values.shape
        known = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        result = np.zeros(len(points), values.dtype)
        result[known] = values[row[known], column[known]]
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


def pieces(fixed: Foreground, bare: BareTissue) -> npt.NDArray[np.intp]:
    """intp[rows, columns]: the pieces that bare ground cuts the rest of the H&E tissue into, from 1; 0 elsewhere.

    Tissue that borders no bare ground is 0 as well: it is a piece of its own on the H&E slide.
    """
    if not bare.cells.any():
        return np.zeros(bare.cells.shape, np.intp)
    half = _STEP // 2
    return cut_pieces(fixed.mask[half::_STEP, half::_STEP], bare.cells)


def with_pieces(bare: BareTissue, fixed: Foreground, taken: Mask) -> BareTissue:
    """The same with the pieces of tissue `taken` (bool[rows, columns]) counted as bare, and all glass nearer to them
    than to other tissue: a tile at the rim of a piece has nothing else to be judged by."""
    if not taken.any():
        return bare
    half = _STEP // 2
    tissue = fixed.mask[half::_STEP, half::_STEP]
    around = ~tissue & (_distance(taken) < _distance(tissue & ~taken))
    return dataclasses.replace(bare, cells=bare.cells | taken | around)


def cut_pieces(tissue: Mask, bare: Mask) -> npt.NDArray[np.intp]:
    """intp[H, W]: see `pieces`."""
    none = np.zeros(tissue.shape, np.intp)
    covered = tissue & ~bare
    if not bare.any() or not covered.any():
        return none
    # lumens part nothing
    solid = ~bare & (_distance(_distance(covered) > _LEAST_CELLS) > _LEAST_CELLS)
    core = solid & (_distance(~solid) > _BRIDGE_CELLS)
    if not core.any():
        return none
    _, of_core = cv2.connectedComponents(core.astype(np.uint8), connectivity=8)
    # the rim of a piece goes with the nearest core
    _, nearest = cv2.distanceTransformWithLabels(
        (~core).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    name = np.zeros(int(nearest.max()) + 1, np.intp)
    name[nearest[core]] = of_core[core]
    result = np.where(covered, name[nearest], 0).astype(np.intp)
    beside = np.unique(result[covered & (_distance(bare) <= _LEAST_CELLS)])
    return np.where(np.isin(result, beside), result, 0)


def _distance(mask: Mask) -> Image:
    """float32[H, W]: from every cell to the nearest one of `mask`; very far where there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
