"""The outline of a nucleus around a given point: the closed path of strongest inward edges in polar coordinates.

Rays leave the point in all directions; on each, every radius has an evidence: how much darker it is just inside than
just outside, less what the signal has risen on the way (whatever rises again is the next nucleus). Dynamic
programming finds the radii whose evidence adds up to most while neighbouring rays stay close (Bamford & Lovell,
Signal Processing 71, 1998). Unlike a threshold or a watershed this needs no level: a pale nucleus at the side of a
dark one keeps its own outline, and clumps of chromatin inside a pale one have shorter and incomplete edges.

Everything is computed from the pixels within `Rays.reach_um` of the point. The offsets are the same wherever a window
is cut. So the same nucleus has the same outline, to the last bit, in every window.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_SUBPIXELS = 32  # cv2.remap interpolates in 1/32 px: offsets on that grid are exact
_GRID = 1024  # parts of a pixel that results are rounded to: far below what matters, but exact wherever a window is
_CHUNK = 500  # points at a time: what is computed of them stays in the processor's cache
_JUMP = 2  # steps that the radius may change from ray to ray
_BEND = np.float32(0.02)  # price of a change, × steps², in units of the point's own edges
_RISE = np.float32(0.5)  # price of a rise on the way out, relative to an edge of the same height
_STRONG = np.float32(2.0)  # an edge counts at most this many times the point's usual one
_LEAST = np.float32(0.1)  # … and the usual one is never taken for weaker than this


@dataclass(frozen=True, slots=True)
class Rays:
    """Directions and radii that are looked at."""

    angles: int
    step_um: float
    first: int
    """Smallest radius, in steps, ≥ 1."""
    count: int
    """Radii."""

    @property
    def reach_um(self) -> float:
        """Nothing further away than this is looked at."""
        return (self.first + self.count) * self.step_um

    @property
    def directions(self) -> F64:
        """float64[A, 2]: unit vectors (x, y)."""
        angle = np.arange(self.angles) * (2 * math.pi / self.angles)
        return np.asarray(np.stack([np.cos(angle), np.sin(angle)], axis=1), np.float64)

    @staticmethod
    def between(low_um: float, high_um: float, step_um: float, angles: int) -> Rays:
        first = max(1, round(low_um / step_um))
        return Rays(angles, step_um, first, max(2, round(high_um / step_um) - first + 1))


@dataclass(frozen=True, slots=True, eq=False)
class Contours:
    """N closed outlines, star-shaped around their points."""

    centre: F64
    """float64[N, 2]: (x, y), pixels of the field, pixel centres at whole numbers."""
    radius_um: F32
    """float32[N, A]: distance of the outline on every ray."""
    edge: F32
    """float32[N, A]: fall of the field across it, within one step to either side."""

    def __len__(self) -> int:
        return len(self.centre)

    def select(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Contours:
        return Contours(self.centre[index], self.radius_um[index], self.edge[index])

    def joined(self, other: Contours) -> Contours:
        """These, then `other`'s."""
        both = ((getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))
        return Contours(*(np.concatenate(pair) for pair in both))

    def polygons(self, mpp: float) -> F64:
        """float64[N, A, 2]: corners (x, y) in pixels of the field; positive shoelace."""
        return self.centre[:, None, :] + self.corners(mpp)

    def corners(self, mpp: float) -> F64:
        """float64[N, A, 2]: the same from the point, on a fine grid, so that adding the point loses no digit."""
        unit = Rays(self.radius_um.shape[1], 1.0, 1, 1).directions
        return on_grid(unit * (self.radius_um[:, :, None].astype(np.float64) / mpp), _GRID)


def on_grid(points: F64, fraction: int = 4) -> F64:
    """Points moved to the nearest 1/`fraction` pixel."""
    return np.asarray(np.round(points * fraction) / fraction, np.float64)


def nearest_pixel(points: F64) -> npt.NDArray[np.intp]:
    """The pixels that points (…, x, y) lie in; halves go up, so that a shifted window meets the shifted pixels."""
    return np.asarray(np.floor(points + 0.5), np.intp)


def trace(field: F32, centre: F64, mpp: float, rays: Rays, wall_um: float = 0.0) -> Contours:
    """Outlines around `centre`: float64[N, 2] (x, y) on a grid of 1/32 px or coarser, within `field`: float32[h, w].

    `wall_um`: what rises no further than this inside the edge costs nothing: it is the wall of a vesicular nucleus.
    """
    parts = [_trace(field, centre[i : i + _CHUNK], mpp, rays, wall_um) for i in range(0, len(centre), _CHUNK)]
    if not parts:
        nothing = np.zeros((0, rays.angles), np.float32)
        return Contours(np.zeros((0, 2)), nothing, nothing)
    radius, edge = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Contours(centre, radius, edge)


def sample(field: F32, centre: F64, offset: F64) -> F32:
    """float32[N, …]: `field` at `centre` + `offset` (float64[…, 2], px), linear between pixels."""
    return np.moveaxis(_sampled(field, centre, offset), -1, 0)


def _sampled(field: F32, centre: F64, offset: F64) -> F32:
    """`sample` as float32[…, N]."""
    at = (np.round(offset * _SUBPIXELS) / _SUBPIXELS).reshape(-1, 2)
    x = (centre[:, 0] + at[:, 0, None]).astype(np.float32)
    y = (centre[:, 1] + at[:, 1, None]).astype(np.float32)
    values = cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(values, np.float32).reshape(*offset.shape[:-1], len(centre))


def _trace(field: F32, centre: F64, mpp: float, rays: Rays, wall_um: float) -> tuple[F32, F32]:
    # [radius, angle, point]: every step below runs along many points at once, which lie side by side in memory
    steps = np.arange(rays.first + rays.count + 1) * (rays.step_um / mpp)
    profile = _sampled(field, centre, steps[:, None, None] * rays.directions)
    fall = profile[rays.first - 1 : -2] - profile[rays.first + 1 :]
    rise = _risen(profile, round(wall_um / rays.step_um))[rays.first - 1 :]
    rise *= _RISE
    usual = np.maximum(np.median((fall - rise).max(axis=0), axis=0), _LEAST)
    gain = np.minimum(fall / usual, _STRONG)
    rise /= usual
    gain -= rise
    path = _best_path(gain)
    edge = np.take_along_axis(fall, path[None], axis=0)[0]
    radius = (rays.first + path) * np.float32(rays.step_um)
    return radius.T.astype(np.float32), np.ascontiguousarray(edge.T)


def _risen(profile: F32, free: int) -> F32:
    """float32[R − 2, A, N]: how much `profile`, float32[R, A, N], has risen from its first radius on, up to `free`
    steps before every other one but the last."""
    risen = np.zeros((len(profile) - 2, *profile.shape[1:]), np.float32)
    end = max(len(profile) - 2 - free, 0)
    np.maximum(profile[1 : 1 + end] - profile[:end], 0, out=risen[len(risen) - end :])
    for i in range(1, len(risen)):
        risen[i] += risen[i - 1]
    return risen


def _best_path(gain: F32) -> npt.NDArray[np.intp]:
    """intp[A, N]: the index of the radius on every ray. `gain`: float32[radius, A, N].

    The path is closed by running one and a half turns and keeping the turn in the middle, where it no longer
    depends on where it began.
    """
    radii, angles, n = gain.shape
    turns = angles + angles // 2 + 1
    # the best sum that ends at each radius, between rows that no path may use
    score = np.full((turns, radii + 2 * _JUMP, n), -np.inf, np.float32)
    inner = slice(_JUMP, _JUMP + radii)
    score[0, inner] = gain[:, 0]
    for t in range(1, turns):
        before, best = score[t - 1], score[t, inner]
        np.copyto(best, before[inner])
        for jump in range(1, _JUMP + 1):
            other = np.maximum(before[_JUMP - jump : _JUMP - jump + radii], before[_JUMP + jump : _JUMP + jump + radii])
            other -= _BEND * np.float32(jump * jump)
            np.maximum(best, other, out=best)
        best += gain[:, t % angles]
    return _traced_back(score, angles)


def _traced_back(score: F32, angles: int) -> npt.NDArray[np.intp]:
    """intp[A, N]: the path through `score` that ends best; of equal ones the straighter, then the inner one."""
    jumps = np.array(sorted(range(-_JUMP, _JUMP + 1), key=abs))[:, None]
    price = _BEND * np.square(jumps).astype(np.float32)
    column = np.arange(score.shape[2])
    at = score[-1].argmax(axis=0)
    path = np.zeros((angles, score.shape[2]), np.intp)
    first = angles // 4
    for t in range(len(score) - 1, first - 1, -1):
        if t < first + angles:
            path[t % angles] = at - _JUMP
        if t > first:
            at = at + jumps[(score[t - 1, at + jumps, column] - price).argmax(axis=0), 0]
    return path


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """What N outlines look like."""

    middle: F64
    """float64[N, 2]: centroid (x, y) from the point of the outline, pixels."""
    area_px: F64
    elongation: F64
    """float64[N]: long axis / short axis of the ellipse of equal moments, ≥ 1."""
    width_px: F64
    """float64[N]: the short axis."""
    circularity: F64
    """float64[N]: 4 π area / perimeter², 1 for a circle."""

    def select(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Shapes:
        return Shapes(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))


def areas(corners: F64) -> F64:
    """float64[N]: area of polygons float64[N, A, 2] (x, y) around the origin, > 0."""
    return _sides(corners)[1]


def _sides(corners: F64) -> tuple[tuple[F64, F64, F64, F64, F64], F64]:
    """Where every side begins (x, y) and ends, twice the area between it and the origin, float64[N, A]; and `areas`."""
    x, y = np.ascontiguousarray(np.moveaxis(corners, 2, 0))
    x1, y1 = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    cross = x * y1 - x1 * y
    return (x, y, x1, y1, cross), np.maximum(cross.sum(axis=1) / 2, 1e-9)


def shapes(corners: F64) -> Shapes:
    """Moments of polygons float64[N, A, 2] (x, y) around the origin, by Green's theorem."""
    (x, y, x1, y1, cross), area = _sides(corners)
    mx, my = ((x + x1) * cross).sum(axis=1) / (6 * area), ((y + y1) * cross).sum(axis=1) / (6 * area)
    xx = ((x * x + x * x1 + x1 * x1) * cross).sum(axis=1) / (12 * area) - mx * mx
    yy = ((y * y + y * y1 + y1 * y1) * cross).sum(axis=1) / (12 * area) - my * my
    xy = ((x * y1 + 2 * x * y + 2 * x1 * y1 + x1 * y) * cross).sum(axis=1) / (24 * area) - mx * my
    mean, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    short = np.maximum(mean - spread, 1e-9)
    perimeter = np.hypot(x1 - x, y1 - y).sum(axis=1)
    return Shapes(
        middle=on_grid(np.stack([mx, my], axis=1), _GRID),
        area_px=area,
        elongation=np.sqrt((mean + spread) / short),
        width_px=4 * np.sqrt(short),
        circularity=np.minimum(4 * math.pi * area / np.square(perimeter), 1),
    )


def solidity(corners: F64) -> F64:
    """float64[N]: area of polygons float64[N, A, 2] (x, y) around the origin / area of their convex hulls, about 1 for
    a convex one. The hull is known by how far it reaches in A directions."""
    x, y = np.ascontiguousarray(np.moveaxis(corners, 2, 0))
    step = 2 * math.pi / corners.shape[1]
    reach = np.stack(
        [(x * math.cos(k * step) + y * math.sin(k * step)).max(axis=1) for k in range(corners.shape[1])], axis=1
    )
    # sides of the polygon that these reaches bound (Minkowski): area is half of reach × side
    side = (np.roll(reach, -1, axis=1) + np.roll(reach, 1, axis=1) - 2 * math.cos(step) * reach) / math.sin(step)
    return np.asarray(areas(corners) / np.maximum((reach * side).sum(axis=1) / 2, 1e-9), np.float64)
