"""Where small windows of the fixed side are found again on the moving side.

For each window the whole surface of normalised cross-correlation over a search square is kept, not just its peak:
which of several peaks is meant, only the neighbours can tell (field.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Points
from virtual_stain.registration.foreground import Foreground
from virtual_stain.registration.raster import Image, Mask, Matrix, blur, local_norm, padded, shrink
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.registration.warping import pull, pull_map, pull_mask

_MIN_FILLED = 0.4  # of a window must be tissue on both sides
_SMALLEST_CURVATURE = 1e-4


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """One pass of window matching; all lengths in px of its own resolution."""

    factor: float
    """Size of a pixel's side relative to working resolution: 0.5 = half as many pixels."""
    window: int = 64
    step: int = 24
    radius: int = 12
    blur: float = 1.5
    sigma: float = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """N windows and the correlation of each with its surroundings on the moving side."""

    centres: Points
    """float64[N, 2]: fixed working px."""
    base: Points
    """float64[N, 2]: displacement that was applied before the search, working px."""
    surfaces: npt.NDArray[np.float32]
    """float32[N, 2R + 1, 2R + 1]: correlation at base + (column − R, row − R) · px."""
    px: float
    """Working px per step of a surface."""

    @property
    def radius(self) -> int:
        return (self.surfaces.shape[1] - 1) // 2

    def __len__(self) -> int:
        return len(self.centres)


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """The chosen peak of each window."""

    shifts: Points
    """float64[N, 2]: total displacement u, working px."""
    height: npt.NDArray[np.float64]
    """float64[N]: correlation at the peak."""
    curvature: Points
    """float64[N, 2]: how sharply the correlation falls along x and y, per px²; 0 where it is a ridge."""
    inside: npt.NDArray[np.bool_]
    """bool[N]: the peak is not at the edge of the search square."""


def match_windows(
    fixed: Foreground, moving: Foreground, matrix: Matrix, field: DisplacementField | None, plan: WindowPlan
) -> Matches:
    """Correlates all windows of a regular grid that hold tissue on both sides."""
    mapping = pull_map(fixed.shape, matrix, field)
    moving_mask = pull_mask(moving.mask, mapping)
    layers = [_layer(f, fixed.mask, plan) for f in fixed.channels()]
    targets = [_layer(pull(m, mapping), moving_mask, plan) for m in moving.channels()]
    masks = [shrink(m.astype(np.float32), plan.factor) for m in (fixed.mask, moving_mask)]
    columns_rows = _grid(masks, plan)
    shape = layers[0].shape
    scale = np.array([fixed.shape[1] / shape[1], fixed.shape[0] / shape[0]])
    surfaces = _surfaces(layers, targets, columns_rows, plan)
    centres = columns_rows.astype(np.float64) * scale
    base = np.zeros_like(centres) if field is None else field.at(centres)
    return Matches(centres, base, surfaces, float(scale.mean()))


def _layer(image: Image, mask: Mask, plan: WindowPlan) -> Image:
    small, inside = shrink(image, plan.factor), shrink(mask.astype(np.float32), plan.factor) > 0.5
    return local_norm(blur(small, plan.blur), plan.sigma, inside)


def _grid(masks: Sequence[Image], plan: WindowPlan) -> npt.NDArray[np.intp]:
    """intp[N, 2]: (x, y) such that the window covers [x − window / 2, x + window / 2)."""
    filled = np.minimum(*(cv2.boxFilter(m, -1, (plan.window,) * 2, borderType=cv2.BORDER_CONSTANT) for m in masks))
    offset = plan.step // 2
    ys, xs = np.nonzero(filled[offset :: plan.step, offset :: plan.step] >= _MIN_FILLED)
    return np.stack([xs, ys], axis=1) * plan.step + offset


def _surfaces(
    layers: Sequence[Image], targets: Sequence[Image], centres: npt.NDArray[np.intp], plan: WindowPlan
) -> npt.NDArray[np.float32]:
    half, radius = plan.window // 2, plan.radius
    pad = half + radius
    fixed, moving = ([padded(i, pad) for i in s] for s in (layers, targets))
    result = np.zeros((len(centres), 2 * radius + 1, 2 * radius + 1), np.float32)
    for row, (x, y) in enumerate(centres + pad):
        for f, m in zip(fixed, moving, strict=True):
            template = f[y - half : y + half, x - half : x + half]
            around = m[y - half - radius : y + half + radius, x - half - radius : x + half + radius]
            result[row] += cv2.matchTemplate(around, template, cv2.TM_CCOEFF_NORMED)
    np.nan_to_num(result, copy=False, posinf=0.0, neginf=0.0)
    return np.clip(result / len(fixed), -1.0, 1.0)


def find_peaks(matches: Matches, expected: Points | None = None, reach_px: float = np.inf) -> Peaks:
    """The highest point of each surface; with `expected` (total displacement, working px) less what is far from it.

    The penalty is 0.15 at a distance of `reach_px`. Sub-pixel by a parabola along each axis.
    """
    radius, n = matches.radius, len(matches)
    steps = np.arange(-radius, radius + 1, dtype=np.float64)
    surface = matches.surfaces
    if expected is not None and np.isfinite(reach_px):
        relative = (expected - matches.base) / matches.px
        reach = reach_px / matches.px
        dx2 = (steps[None] - relative[:, :1]) ** 2
        dy2 = (steps[None] - relative[:, 1:]) ** 2
        surface = surface - (0.15 / reach**2) * (dy2[:, :, None] + dx2[:, None, :]).astype(np.float32)
    best = surface.reshape(n, -1).argmax(axis=1) if n else np.zeros(0, np.intp)
    rows, columns = np.divmod(best, 2 * radius + 1)
    inside = (rows > 0) & (columns > 0) & (rows < 2 * radius) & (columns < 2 * radius)
    r, c = np.clip(rows, 1, 2 * radius - 1), np.clip(columns, 1, 2 * radius - 1)
    index = np.arange(n)
    centre = matches.surfaces[index, r, c]
    offset_x, bend_x = _parabola(matches.surfaces[index, r, c - 1], centre, matches.surfaces[index, r, c + 1])
    offset_y, bend_y = _parabola(matches.surfaces[index, r - 1, c], centre, matches.surfaces[index, r + 1, c])
    shifts = matches.base + matches.px * np.stack([steps[c] + offset_x, steps[r] + offset_y], axis=1)
    curvature = np.stack([bend_x, bend_y], axis=1) / matches.px**2
    return Peaks(shifts, centre.astype(np.float64), curvature, inside)


def correlations_at(matches: Matches, shifts: Points) -> npt.NDArray[np.float64]:
    """float64[N]: each window's correlation at a total displacement, float64[N, 2] working px; bilinear."""
    at = ((shifts - matches.base) / matches.px + matches.radius).astype(np.float32)
    at = np.clip(at, 0, np.float32(2 * matches.radius))
    found = [
        cv2.remap(surface, x.reshape(1, 1), y.reshape(1, 1), cv2.INTER_LINEAR)[0, 0]
        for surface, (x, y) in zip(matches.surfaces, at, strict=True)
    ]
    return np.array(found, np.float64)


def own_errors(matches: Matches, peaks: Peaks) -> npt.NDArray[np.float64]:
    """float64[N]: σ of one coordinate of the error that each peak has by itself, working px; at most the search radius.

    The surface tells it without knowing where the peak should be. What is not common to both sides tilts the surface at
    random; how steeply, its slopes far from the peak show, of which 1 − height² are not due to what is common. A tilt
    moves the peak by slope / curvature.
    """
    radius, surface = matches.radius, matches.surfaces.astype(np.float64)
    steps = np.arange(-radius, radius + 1, dtype=np.float64)
    at = (peaks.shifts - matches.base) / matches.px
    distance2 = (steps[None, None] - at[:, :1, None]) ** 2 + (steps[None, :, None] - at[:, 1:, None]) ** 2
    far = distance2 > (radius / 2) ** 2
    slopes = (
        ((surface[:, :, 2:] - surface[:, :, :-2]) / 2, far[:, :, 1:-1]),
        ((surface[:, 2:] - surface[:, :-2]) / 2, far[:, 1:-1]),
    )
    variance = np.stack([(s**2 * f).sum(axis=(1, 2)) / f.sum(axis=(1, 2)) for s, f in slopes], axis=1)
    variance *= 1.0 - np.clip(peaks.height, 0.0, 1.0)[:, None] ** 2
    bend = np.maximum(peaks.curvature * matches.px**2, _SMALLEST_CURVATURE)
    moved: npt.NDArray[np.float64] = np.sqrt((variance / bend**2).mean(axis=1))
    return np.minimum(moved, radius) * matches.px


def _parabola(
    before: npt.NDArray[np.float32], centre: npt.NDArray[np.float32], after: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(offset of the vertex within ± 1, curvature ≥ 0)."""
    bend = np.maximum(2.0 * centre.astype(np.float64) - before - after, _SMALLEST_CURVATURE)
    offset = (after.astype(np.float64) - before) / (2.0 * bend)
    return np.clip(offset, -1.0, 1.0), bend
