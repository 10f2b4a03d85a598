"""Likely outlines around points, looked for twice, and what lies just beyond them.

Around each point the best closed outline is traced (counting/contours.py), and once more, finer, around the middle of
what that finds. Its score is how much of it is an edge, and how clear that edge is.
"""

from __future__ import annotations

import math

import numpy as np

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.contours import F32, F64, Contours, Rays, areas, nearest_pixel, on_grid, shapes, trace

SOME_EDGE = np.float32(0.04)
"""Fall of the signal across an edge that is there at all."""

_FIRST_LOOK_ANGLES, _FIRST_LOOK_STEP_UM = 16, 0.75
_ANGLES, _STEP_UM = 32, 0.5
_CLEAR_EDGE = np.float32(0.3)  # … and one that is beyond doubt; a typical nucleus: 0.7
_FULL_RADIUS_UM = 3.0  # smaller outlines must have the clearer edges: clumps of chromatin have outlines too
_SURROUND_UM = 1.5  # beyond the outline: where the surroundings are measured
_SURROUND_QUANTILE = 0.25  # … on the quarter of it that has no neighbour


def outlines_around(
    points: F64, fine: F32, mpp: float, settings: CountingSettings, least_um: float | None = None, wall_um: float = 0.0
) -> tuple[Contours, F32]:
    """The outlines around `points` that are likely by score and area, and their scores.

    `fine`: float32[h, w], logarithmic signal, smooth; `least_um`: smallest radius, where it is not the settings';
    `wall_um`: as `trace` takes it.
    """
    low, high = settings.min_radius_um if least_um is None else least_um, settings.max_radius_um
    first = trace(fine, points, mpp, Rays.between(low, high, _FIRST_LOOK_STEP_UM, _FIRST_LOOK_ANGLES), wall_um)
    first_score = _score(first, mpp)
    likely = first_score > 0.5 * settings.min_edge_score
    points = _middles(first.select(likely), first_score[likely], mpp, fine.shape)
    found = trace(fine, points, mpp, Rays.between(low, high, _STEP_UM, _ANGLES), wall_um)
    score = _score(found, mpp)
    found = _cut(found, mpp, fine.shape)
    area = areas(found.corners(mpp)) * mpp * mpp
    likely = (score >= settings.min_edge_score) & (area >= settings.min_area_um2) & (area <= settings.max_area_um2)
    return found.select(likely), score[likely]


def _score(contours: Contours, mpp: float) -> F32:
    """float32[N]: clearness × completeness × size of every outline, 0–1."""
    clear = np.clip(contours.edge / _CLEAR_EDGE, -1, 1).mean(axis=1)
    complete = (contours.edge > SOME_EDGE).mean(axis=1, dtype=np.float32)
    area = areas(contours.corners(mpp))
    size = np.minimum(np.sqrt(area / math.pi) * mpp / _FULL_RADIUS_UM, 1)
    return np.asarray(np.maximum(clear * complete * size, 0), np.float32)


def _middles(contours: Contours, score: F32, mpp: float, shape: tuple[int, ...]) -> F64:
    """The middles of outlines, on a grid of half pixels; of those in one pixel of the image the best outline's."""
    middle = on_grid(contours.centre + shapes(contours.corners(mpp)).middle, 2)
    inside = ((middle >= 0) & (middle <= (shape[1] - 1, shape[0] - 1))).all(axis=1)
    middle, score = middle[inside], score[inside]
    best_first = middle[np.lexsort((middle[:, 0], middle[:, 1], -score))]
    pixel = np.floor(best_first).astype(np.intp)
    first_of_pixel = np.unique(pixel[:, 1] * shape[1] + pixel[:, 0], return_index=True)[1]
    return np.asarray(best_first[first_of_pixel], np.float64)


def _cut(contours: Contours, mpp: float, shape: tuple[int, ...]) -> Contours:
    """The part of every outline that lies in the image: beyond the border there is only a mirror image of it."""
    unit = Rays(contours.radius_um.shape[1], 1.0, 1, 1).directions
    free = np.full(contours.radius_um.shape, np.inf)
    for axis, size in ((0, shape[1]), (1, shape[0])):
        ahead, at = unit[:, axis], contours.centre[:, axis, None]
        room = np.where(ahead > 0, size - 0.5 - at, at + 0.5)
        free = np.minimum(free, room / np.maximum(np.abs(ahead), 1e-9))
    radius = np.minimum(contours.radius_um, (free * mpp).astype(np.float32))
    return Contours(contours.centre, radius, contours.edge)


def surroundings(smooth: F32, contours: Contours, mpp: float) -> F64:
    """float64[N]: the signal just beyond every outline, where no neighbour is."""
    wider = Contours(contours.centre, contours.radius_um + np.float32(_SURROUND_UM), contours.edge)
    column, row = np.moveaxis(nearest_pixel(wider.polygons(mpp)), 2, 0)
    values = smooth[np.clip(row, 0, smooth.shape[0] - 1), np.clip(column, 0, smooth.shape[1] - 1)]
    return np.asarray(np.quantile(values, _SURROUND_QUANTILE, axis=1), np.float64)
