"""Nuclei by their outlines: one rule for pale blue and for dark brown ones.

The signal is the logarithm of the summed nuclear optical density beyond the slide's typical negative nucleus, so that
a dark positive nucleus has edges like its pale neighbours. Around each of many points (counting/seeds.py), and once
more around the middle of what that finds, the best closed outline is traced (counting/contours.py). What it encloses
must be darker than its surroundings, all but a pale middle: an empty place beside a dark fibre is no nucleus, but one
with a closed wall around it is. Its score
is how much of it is an edge, and how clear that edge is. Of outlines that claim the same place the best stays
(counting/select_contours.py), wide and convex ones before narrow and hollow ones: so touching nuclei part, and pieces
of a rim lose against the whole. Of a nucleus that the image's border cuts, only what is in the image counts.

No nucleus depends on anything further than 64 µm from its middle: 32 µm for the choice between neighbours, twice the
largest radius for both looks (18 µm), three sigmas of the largest blob (13 µm).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.contours import F32, F64, Contours, Rays, Shapes, areas, on_grid, shapes, solidity, trace
from virtual_stain.counting.seeds import FINE_UM, blur, seed_points
from virtual_stain.counting.select_contours import choose

_FIRST_LOOK_ANGLES, _FIRST_LOOK_STEP_UM = 16, 0.75
_ANGLES, _STEP_UM = 32, 0.5
_CLEAR_EDGE = np.float32(0.3)  # fall of the signal across an edge that is beyond doubt; typical nucleus: 0.7
_SOME_EDGE = np.float32(0.04)  # … and one that is there at all
_FULL_RADIUS_UM = 3.0  # smaller outlines must have the clearer edges: clumps of chromatin have outlines too
_FULL_WIDTH_UM = 6.0  # among rivals, narrower outlines count less: most nuclei are wider, pieces of a rim are not
_HOLLOW, _CONVEX = 0.5, 0.95  # … and so do hollow ones: solidity that is no nucleus', and that is beyond doubt
_SURROUND_UM = 1.5  # beyond the outline: where the surroundings are measured
_SURROUND_QUANTILE = 0.25  # … on the quarter of it that has no neighbour
_RINGS = (0.354, 0.612, 0.791, 0.935)  # radii that halve four rings of equal area
_EVERY = 2  # rays between sampled ones
_WALL = slice(2, None)  # those of them that a wall of chromatin lies in
_FILLED = 0.75  # share of the inside that must be darker than the surroundings …
_FILLED_LEVEL = 0.5  # … by this share of the contrast that a nucleus needs
_POLYGON_SHIFT = 4
_WALL_UM = 2.0
_RELIEF, _SURE_FROM, _SURE = 0.5, 0.3, 0.5
_VESICLE_RADIUS_UM = 2.75
_VESICLE_UM2 = 30.0
_VESICLE_CIRCULARITY = 0.8
_VESICLE_SOLIDITY = 0.93
_VESICLE_COMPLETE = 0.75
_WALL_LEVEL = 0.4
_WALL_CLOSED = 0.8
_WALL_MIDDLE = 0.85
_WALL_CONTRAST = 0.15


@dataclass(frozen=True, slots=True, eq=False)
class Nuclei:
    """N outlines in the working frame."""

    labels: npt.NDArray[np.int32]
    """int32[h, w]: 0 outside, 1…N inside nucleus i − 1; where two overlap, the one with the better outline."""
    polygon: Sequence[F64]
    """N outlines float64[A, 2] (x, y) in working pixels, pixel centres at + 0.5, open, positive shoelace."""
    centroid: F64
    """float64[N, 2]: of the outline, same frame."""
    shape: Shapes
    contrast_od: F32
    """float32[N]: signal above the surroundings."""
    edge_score: F32
    """float32[N]: how complete and clear the outline is, 0–1."""

    @property
    def count(self) -> int:
        return len(self.contrast_od)


def find_nuclei(signal: F32, typical_od: float, mpp: float, settings: CountingSettings) -> Nuclei:
    """Outlines of all nuclei.

    `signal`: float32[h, w], hematoxylin + DAB optical density (summed over the channels), working pixels of `mpp`
    µm; `typical_od`: contrast of this slide's typical negative nucleus.
    """
    compressed = np.log1p(signal / np.float32(typical_od)).astype(np.float32)
    fine, smooth = blur(compressed, FINE_UM / mpp), blur(signal, FINE_UM / mpp)
    points, faced = seed_points(compressed, fine, mpp)
    found, score = _traced(fine, points, mpp, settings)
    share = settings.level_contrast * typical_od
    need = share + min(share, settings.min_contrast_od)  # on the palest slides all that nuclei have is that little
    needed = need * (1 - _RELIEF * np.clip((score - _SURE_FROM) / (_SURE - _SURE_FROM), 0, 1))
    filled = _filled(smooth, found, mpp, _FILLED_LEVEL * needed) >= _FILLED
    found, score, needed = found.select(filled), score[filled], needed[filled]
    vesicles, vesicle_score = _vesicles(fine, smooth, faced, mpp, settings, typical_od)
    found, score = found.joined(vesicles), np.concatenate([score, vesicle_score])
    needed = np.concatenate([needed, np.full(len(vesicles), -np.inf)])
    corners = found.corners(mpp)
    shape = shapes(corners)
    rank = _rank(shape, solidity(corners), score, mpp)
    chosen = choose(found, rank, mpp, settings.overlap_share)
    return _measured(signal, smooth, found.select(chosen), shape.select(chosen), score[chosen], mpp, needed[chosen])


def _traced(fine: F32, points: F64, mpp: float, settings: CountingSettings, wall_um: float = 0.0) -> tuple[Contours, F32]:
    """The outlines of two looks that are likely by score and area, and their scores."""
    low, high = _VESICLE_RADIUS_UM if wall_um else settings.min_radius_um, settings.max_radius_um
    first = trace(fine, points, mpp, Rays.between(low, high, _FIRST_LOOK_STEP_UM, _FIRST_LOOK_ANGLES), wall_um)
    points = _middles(first.select(_score(first, mpp) > 0.5 * settings.min_edge_score), mpp, fine.shape)
    found = trace(fine, points, mpp, Rays.between(low, high, _STEP_UM, _ANGLES), wall_um)
    score = _score(found, mpp)
    found = _cut(found, mpp, fine.shape)
    area = areas(found.corners(mpp)) * mpp * mpp
    likely = (score >= settings.min_edge_score) & (area >= settings.min_area_um2) & (area <= settings.max_area_um2)
    return found.select(likely), score[likely]


def _vesicles(
    fine: F32, smooth: F32, points: F64, mpp: float, settings: CountingSettings, typical_od: float
) -> tuple[Contours, F32]:
    """Outlines of nuclei whose chromatin is a wall around a pale middle, and their scores."""
    found, score = _traced(fine, points, mpp, settings, _WALL_UM)
    corners = found.corners(mpp)
    shape = shapes(corners)
    likely = (
        (shape.area_px * mpp * mpp >= _VESICLE_UM2)
        & (shape.circularity >= _VESICLE_CIRCULARITY)
        & (solidity(corners) >= _VESICLE_SOLIDITY)
        & ((found.edge > _SOME_EDGE).mean(axis=1) >= _VESICLE_COMPLETE)
    )
    found, score = found.select(likely), score[likely]
    outside = _surroundings(smooth, found, mpp)[:, None]
    wall = np.max([_at(smooth, found, mpp, -inside) for inside in (0.5, 1.0, 1.5)], axis=0) - outside
    middle = np.concatenate([_at(smooth, found, mpp, 0, share) for share in (0.15, 0.4, 0.6)], axis=1) - outside
    strength = np.median(wall, axis=1)
    closed = (wall > _WALL_LEVEL * strength[:, None]).mean(axis=1) >= _WALL_CLOSED
    hollow = np.median(middle, axis=1) <= _WALL_MIDDLE * strength
    vesicle = closed & hollow & (strength >= _WALL_CONTRAST * typical_od)
    return found.select(vesicle), score[vesicle]


def _at(smooth: F32, contours: Contours, mpp: float, beyond_um: float, share: float = 1.0) -> F32:
    """float32[N, A]: `smooth` on every ray, `beyond_um` outside of a `share` of the outline's radius."""
    radius = np.maximum(contours.radius_um * np.float32(share) + np.float32(beyond_um), 0)
    column, row = np.moveaxis(np.rint(Contours(contours.centre, radius, contours.edge).polygons(mpp)).astype(np.intp), 2, 0)
    return np.asarray(smooth[np.clip(row, 0, smooth.shape[0] - 1), np.clip(column, 0, smooth.shape[1] - 1)], np.float32)


def _score(contours: Contours, mpp: float) -> F32:
    """float32[N]: clearness × completeness × size of every outline, 0–1."""
    clear = np.clip(contours.edge / _CLEAR_EDGE, -1, 1).mean(axis=1)
    complete = (contours.edge > _SOME_EDGE).mean(axis=1, dtype=np.float32)
    area = areas(contours.corners(mpp))
    size = np.minimum(np.sqrt(area / math.pi) * mpp / _FULL_RADIUS_UM, 1)
    return np.asarray(np.maximum(clear * complete * size, 0), np.float32)


def _rank(shape: Shapes, solid: F64, score: F32, mpp: float) -> F32:
    """float32[N]: by what rivals are compared: the score, less where the outline is narrow or hollow (`solid`:
    float64[N], its solidity)."""
    width = np.minimum(shape.width_px * mpp / _FULL_WIDTH_UM, 1)
    convex = np.clip((solid - _HOLLOW) / (_CONVEX - _HOLLOW), 0, 1)
    return np.asarray(score * width * convex, np.float32)


def _middles(contours: Contours, mpp: float, shape: tuple[int, ...]) -> F64:
    """The middles of outlines, on a grid of half pixels, each once; only those in the image."""
    middle = on_grid(contours.centre + shapes(contours.corners(mpp)).middle, 2)
    middle = np.unique(middle, axis=0).reshape(-1, 2)
    inside = ((middle >= 0) & (middle <= (shape[1] - 1, shape[0] - 1))).all(axis=1)
    return np.asarray(middle[inside], np.float64)


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


def _filled(smooth: F32, contours: Contours, mpp: float, level: F64) -> F64:
    """float64[N]: share of the inside of every outline whose signal is more than `level` above the surroundings.

    1 where these places make a closed wall: what it encloses belongs to it.
    """
    corners = contours.corners(mpp)[:, ::_EVERY]
    weight = np.square(corners).sum(axis=2)  # the area of a sector grows with its radius squared
    at = contours.centre[:, None, None] + corners[:, :, None] * np.array(_RINGS)[:, None]
    column, row = np.moveaxis(np.rint(at).astype(np.intp), 3, 0)
    inside = smooth[np.clip(row, 0, smooth.shape[0] - 1), np.clip(column, 0, smooth.shape[1] - 1)]
    dark = inside > (_surroundings(smooth, contours, mpp) + level)[:, None, None]
    share = (dark.mean(axis=2) * weight).sum(axis=1) / weight.sum(axis=1)
    closed = dark[:, :, _WALL].any(axis=2).all(axis=1)
    return np.asarray(np.where(closed, 1.0, share), np.float64)


def _measured(signal: F32, smooth: F32, found: Contours, shape: Shapes, score: F32, mpp: float, need: F64) -> Nuclei:
    """The outlines whose mean signal is at least `need` above the surroundings."""
    labels = _paint(found, mpp, signal.shape)
    n = len(found)
    at = np.flatnonzero(labels)
    owner = labels.ravel()[at] - 1
    pixels = np.bincount(owner, minlength=n)
    level = np.bincount(owner, weights=signal.ravel()[at], minlength=n) / np.maximum(pixels, 1)
    contrast = level - _surroundings(smooth, found, mpp)
    keep = (contrast >= need) & (pixels > 0)
    number = np.concatenate([[0], np.where(keep, np.cumsum(keep), 0)]).astype(np.int32)
    kept = found.select(keep)
    shape = shape.select(keep)
    return Nuclei(
        labels=number[labels],
        polygon=list(kept.polygons(mpp) + 0.5),
        centroid=kept.centre + shape.middle + 0.5,
        shape=shape,
        contrast_od=contrast[keep].astype(np.float32),
        edge_score=score[keep],
    )


def _paint(contours: Contours, mpp: float, shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Pixels of every outline; the first of `contours` lies on top."""
    labels = np.zeros(shape, np.int32)
    # fillPoly also paints what its border touches, half a pixel more: drawn smaller by as much
    inner = Contours(contours.centre, np.maximum(contours.radius_um - np.float32(mpp / 2), 0), contours.edge)
    scale = 2**_POLYGON_SHIFT
    corners = (np.rint(inner.corners(mpp) * scale) + inner.centre[:, None] * scale).astype(np.int32)
    for i in range(len(corners) - 1, -1, -1):
        cv2.fillPoly(labels, [corners[i]], (i + 1,), shift=_POLYGON_SHIFT)
    return labels


def _surroundings(smooth: F32, contours: Contours, mpp: float) -> F64:
    """float64[N]: the signal just beyond every outline, where no neighbour is."""
    wider = Contours(contours.centre, contours.radius_um + np.float32(_SURROUND_UM), contours.edge)
    column, row = np.moveaxis(np.rint(wider.polygons(mpp)).astype(np.intp), 2, 0)
    values = smooth[np.clip(row, 0, smooth.shape[0] - 1), np.clip(column, 0, smooth.shape[1] - 1)]
    return np.asarray(np.quantile(values, _SURROUND_QUANTILE, axis=1), np.float64)
