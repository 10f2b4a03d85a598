"""The IHC slide as a raster on the H&E slide sees it: the same pixels whatever area is read.

`read_warped_window` follows any transform, but rounds positions relative to the window that it was asked for: the same
place seen from two windows differs by a grey level here and there. Here the transform is known at knots that lie on
whole numbers of the raster, in 1/2048 px of the slide, and all that follows is arithmetic of whole numbers. OpenCV
samples at 1/32 px in any case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Affine2D, Size
from virtual_stain.labels.raster import Area, Raster
from virtual_stain.registration.transform import DisplacementField, PairTransform
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.window import MAX_FINENESS, best_level, fineness_of, interpolation, shrunk

_Plane = npt.NDArray[np.float64]  # float64[rows, columns]
_Whole = npt.NDArray[np.int32]

KNOT_PX = 4
"""Raster pixels between two knots; the map is bilinear between them."""
_SUB = 2048  # parts of a px of the slide's level that a knot is known in
_TABLE = 32  # parts of a px that OpenCV samples at
_PAD_PX = 2  # raster px around what is averaged down: the reach of the filter
_SAMPLED_ONCE = 1.25  # px of the level per raster px up to which one sample is enough: a scan has no finer contrast
_REACH_PX = 6  # px of the slide's level around the outermost samples: the reach of Lanczos, and rounding
_STRIP_PX = 128  # raster rows at a time: bounds the memory


@dataclass(frozen=True, slots=True)
class Sampling:
    """How finely the IHC slide is looked at; the same for all of a pair."""

    level: int
    fineness: int
    """Samples per raster pixel and axis."""
    exact: bool
    """Whether every pixel is the same for each area that is read; else each tile must be read by itself."""


def sampling_of(ihc: Slide, transform: PairTransform, raster: Raster) -> Sampling:
    """The level to read and the samples to take, by the matrix of the pair."""
    he_from_raster = Affine2D.scale_and_shift("he_px0", "raster", raster.step_px0)
    finest = (transform.ihc_from_he @ he_from_raster).scales[1]
    level = best_level(ihc, finest)
    scales = ihc.level_scales[level]
    # a level whose pixels are no whole numbers of level-0 pixels is interpolated, by the position that is asked for
    whole = all(s.is_integer() for s in scales)
    return Sampling(
        level, fineness_of(finest / _SAMPLED_ONCE, max(scales)), whole and finest <= max(scales) * MAX_FINENESS
    )


def read_raster(
    ihc: Slide, transform: PairTransform, raster: Raster, area: Area, sampling: Sampling
) -> npt.NDArray[np.uint8]:
    """uint8[height, width, 3] of `area`; white outside the scan. Raises SlideError naming file and region."""
    fine = sampling.fineness
    pad = _PAD_PX if fine > 1 else 0
    wide = Area(area.x - pad, area.y - pad, area.x1 + pad, area.y1 + pad)
    columns, rows = _knots(wide.x, wide.x1), _knots(wide.y, wide.y1)
    scale_x, scale_y = ihc.level_scales[sampling.level]
    x, y = positions(transform, raster, columns * KNOT_PX, rows * KNOT_PX)
    knots = [np.rint(plane * (_SUB / scale)).astype(np.int64) for plane, scale in ((x, scale_x), (y, scale_y))]
    (x0, x1), (y0, y1) = ((int(k.min()) // _SUB - _REACH_PX, int(k.max()) // _SUB + _REACH_PX) for k in knots)
    patch = ihc.read_patch(sampling.level, x0, y0, Size(x1 - x0, y1 - y0)).image
    # cv2 puts the first pixel's centre at 0
    near = [(k - (start * _SUB + _SUB // 2)).astype(np.int32) for k, start in zip(knots, (x0, y0), strict=True)]
    at, weight = _between(wide.x, wide.x1, int(columns[0]), fine)
    lines = [_blend(k[:, at], k[:, at + 1], weight, _steps(fine), _steps(fine)) for k in near]
    image = np.empty((area.height, area.width, 3), np.uint8)
    for top in range(area.y, area.y1, _STRIP_PX):
        bottom = min(top + _STRIP_PX, area.y1)
        row, share = _between(top - pad, bottom + pad, int(rows[0]), fine)
        divisor = _steps(fine) * (_SUB // _TABLE)
        fx, fy = (_blend(line[row], line[row + 1], share[:, None], _steps(fine), divisor) for line in lines)
        strip = _remap(patch, fx, fy, fine)
        image[top - area.y : bottom - area.y] = shrunk(strip, fine)[pad : pad + bottom - top, pad : pad + area.width]
    return image


def positions(
    transform: PairTransform, raster: Raster, columns: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> tuple[_Plane, _Plane]:
    """x and y, each float64[rows, columns], ihc_px0 of crossings of the raster. Every one is computed by itself, so
    that it does not depend on the others."""
    x = raster.origin_px0[0] + columns * raster.step_px0[0]
    y = raster.origin_px0[1] + rows * raster.step_px0[1]
    if transform.displacement is None:
        across, down = np.broadcast_to(x, (len(y), len(x))), np.broadcast_to(y[:, None], (len(y), len(x)))
    else:
        u = _displacement(transform.displacement, x, y)
        across, down = x + u[..., 0], y[:, None] + u[..., 1]
    a = transform.ihc_from_he.matrix
    return a[0, 0] * across + a[0, 1] * down + a[0, 2], a[1, 0] * across + a[1, 1] * down + a[1, 2]


def _displacement(field: DisplacementField, x: _Plane, y: _Plane) -> npt.NDArray[np.float64]:
    """float64[len(y), len(x), 2]: as `DisplacementField.at`, of all crossings."""
    rows, columns = field.values_px0.shape[:2]
    left, right, wx = _neighbours(x, field.origin_px0[0], field.spacing_px0[0], columns)
    above, below, wy = _neighbours(y, field.origin_px0[1], field.spacing_px0[1], rows)
    first, last = int(above.min()), int(below.max()) + 1
    nodes = field.values_px0[first:last].astype(np.float64)
    lines = nodes[:, left] * (1 - wx)[:, None] + nodes[:, right] * wx[:, None]
    result: npt.NDArray[np.float64] = (
        lines[above - first] * (1 - wy)[:, None, None] + lines[below - first] * wy[:, None, None]
    )
    return result


def _neighbours(
    position: _Plane, origin: float, spacing: float, nodes: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], _Plane]:
    """The nodes before and after every position, and how much the second one counts; constant outside."""
    steps = np.clip((position - origin) / spacing, 0, nodes - 1)
    before = np.minimum(steps.astype(np.intp), max(nodes - 2, 0))
    return before, np.minimum(before + 1, nodes - 1), steps - before


def _knots(start: int, stop: int) -> npt.NDArray[np.int64]:
    """int64[K]: the knots, in units of `KNOT_PX`, that raster pixels [start, stop) lie between."""
    return np.arange(start // KNOT_PX, -(-stop // KNOT_PX) + 1, dtype=np.int64)


def _steps(fine: int) -> int:
    """Parts between two knots that samples lie at: they are at odd ones."""
    return 2 * KNOT_PX * fine


def _between(start: int, stop: int, first: int, fine: int) -> tuple[npt.NDArray[np.intp], _Whole]:
    """For every sample of raster pixels [start, stop): which knot comes before it, counted from knot `first`, and how
    many of `_steps` it lies beyond."""
    step = 2 * np.arange(start * fine, stop * fine, dtype=np.int64) + 1
    return (step // _steps(fine) - first).astype(np.intp), (step % _steps(fine)).astype(np.int32)


def _blend(before: _Whole, after: _Whole, weight: _Whole, steps: int, divisor: int) -> _Whole:
    """(before · (steps − weight) + after · weight) / divisor, rounded: whole numbers, the same wherever they begin."""
    mixed = after - before
    mixed *= weight
    mixed += before * np.int32(steps)
    mixed += np.int32(divisor // 2)
    if divisor & (divisor - 1):
        return np.asarray(mixed // np.int32(divisor), np.int32)
    mixed >>= np.int32(divisor.bit_length() - 1)
    return mixed


def _remap(patch: npt.NDArray[np.uint8], x: _Whole, y: _Whole, fine: int) -> npt.NDArray[np.uint8]:
    """`patch` at `x`, `y`: int32[h, w], in 1/32 px."""
    place = np.empty((*x.shape, 2), np.int16)
    place[..., 0], place[..., 1] = x >> 5, y >> 5
    part = (((y & (_TABLE - 1)) << 5) | (x & (_TABLE - 1))).astype(np.uint16)
    sampled = cv2.remap(
        patch, place, part, interpolation(fine), borderMode=cv2.BORDER_CONSTANT, borderValue=(255, 255, 255)
    )
    return np.asarray(sampled, np.uint8)


def lattice(area: Area) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(columns, rows): the first raster pixels of the cells of `KNOT_PX`² that `area` touches."""
    return tuple(  # type: ignore[return-value]
        np.arange(start // KNOT_PX, math.ceil(stop / KNOT_PX), dtype=np.int64) * KNOT_PX
        for start, stop in ((area.x, area.x1), (area.y, area.y1))
    )
