"""Vesicular nuclei: a wall of chromatin around a pale middle.

A tracing that pays for what rises on the way out stops at a nucleolus or at a piece of the wall. So the points that
edges face are looked around once more, where it is paler than around them: there what rises within the wall's width
of the edge costs nothing. Such an outline is a nucleus where it is round, complete, closed by a wall, and hollow. It
needs less contrast than others, measured on the wall: its shape makes it sure.
"""

from __future__ import annotations

import numpy as np

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.contours import F32, F64, Contours, Rays, nearest_pixel, sample, shapes, solidity
from virtual_stain.counting.outline_search import SOME_EDGE, outlines_around, surroundings

_WALL_UM = 2.0  # a wall and its blur
_LEAST_RADIUS_UM = 2.75  # inside lie nucleoli, whose edges are clearer than the wall's
_REACH_UM = 8.0  # how far around a point it is looked for something darker …
_INNER_UM = (1.0, 2.0)  # … than the paler quarter of what lies at these distances: the point may lie on a nucleolus
_INNER_QUANTILE = 0.25
_DARKER_AROUND = 0.6  # share of the directions in which it must be
_LEAST_UM2 = 30.0
_LEAST_CIRCULARITY = 0.8
_LEAST_SOLIDITY = 0.93
_LEAST_COMPLETE = 0.75  # share of the outline that is an edge
_WALL_DEPTHS_UM = (0.5, 1.0, 1.5)  # inside the outline: where the wall is looked for
_WALL_LEVEL = 0.4  # share of the wall's usual strength that still is a wall …
_WALL_CLOSED = 0.8  # … and of the outline that must have one
_MIDDLE_RADII = (0.15, 0.4, 0.6)  # shares of the radius that the middle lies at
_HOLLOW = 0.85  # the middle's contrast is at most this share of the wall's
_LEAST_CONTRAST = 0.15  # of the wall, as a share of the slide's typical nucleus'


def find_vesicles(
    faced: F64, fine: F32, smooth: F32, typical_od: float, mpp: float, settings: CountingSettings
) -> tuple[Contours, F32]:
    """Outlines of vesicular nuclei and their scores.

    `faced`: float64[N, 2], points that edges face (counting/seeds.py); `fine`, `smooth`: float32[h, w], the signal's
    logarithm and the signal, smooth; `typical_od`: contrast of the slide's typical negative nucleus.
    """
    points = _pale_middles(faced, fine, mpp)
    found, score = outlines_around(points, fine, mpp, settings, _LEAST_RADIUS_UM, _WALL_UM)
    corners = found.corners(mpp)
    shape = shapes(corners)
    likely = (
        (shape.area_px * mpp * mpp >= _LEAST_UM2)
        & (shape.circularity >= _LEAST_CIRCULARITY)
        & (solidity(corners) >= _LEAST_SOLIDITY)
        & ((found.edge > SOME_EDGE).mean(axis=1) >= _LEAST_COMPLETE)
    )
    found, score = found.select(likely), score[likely]
    outside = surroundings(smooth, found, mpp)[:, None]
    wall = np.max([_at(smooth, found, mpp, -inside) for inside in _WALL_DEPTHS_UM], axis=0) - outside
    middle = np.concatenate([_at(smooth, found, mpp, 0, share) for share in _MIDDLE_RADII], axis=1) - outside
    strength = np.median(wall, axis=1)
    closed = (wall > _WALL_LEVEL * strength[:, None]).mean(axis=1) >= _WALL_CLOSED
    hollow = np.median(middle, axis=1) <= _HOLLOW * strength
    vesicle = closed & hollow & (strength >= _LEAST_CONTRAST * typical_od)
    return found.select(vesicle), score[vesicle]


def _pale_middles(points: F64, fine: F32, mpp: float) -> F64:
    """Those of `points` around which it is darker in most directions; around the others nothing need be traced."""
    if len(points) == 0:
        return points
    rays = Rays.between(_LEAST_RADIUS_UM, _REACH_UM, 1.0, 8)
    steps = (rays.first + np.arange(rays.count)) * (rays.step_um / mpp)
    around = sample(fine, points, steps[:, None, None] * rays.directions).max(axis=1)
    inner = np.array(_INNER_UM)[:, None, None] * (rays.directions / mpp)
    middle = np.quantile(sample(fine, points, inner.reshape(-1, 2)), _INNER_QUANTILE, axis=1)[:, None]
    chosen = (around > middle + SOME_EDGE).mean(axis=1) >= _DARKER_AROUND
    return np.asarray(points[chosen], np.float64)


def _at(smooth: F32, contours: Contours, mpp: float, beyond_um: float, share: float = 1.0) -> F32:
    """float32[N, A]: `smooth` on every ray, `beyond_um` outside of a `share` of the outline's radius."""
    radius = np.maximum(contours.radius_um * np.float32(share) + np.float32(beyond_um), 0)
    corners = Contours(contours.centre, radius, contours.edge).polygons(mpp)
    column, row = np.moveaxis(nearest_pixel(corners), 2, 0)
    return np.asarray(smooth[np.clip(row, 0, smooth.shape[0] - 1), np.clip(column, 0, smooth.shape[1] - 1)], np.float32)
