"""Of many outlines, the ones that are nuclei: the better of two that claim the same place.

The choice runs in a fixed number of rounds, each of which looks one conflict further, and not in one long queue:
so it depends on nothing beyond `_ROUNDS` × `_CONFLICT_UM`, and two windows that see the same place choose alike.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from virtual_stain.counting.contours import F32, F64, Contours

_ROUNDS = 4
_CONFLICT_UM = 8.0  # centres further apart than this never conflict
_RINGS = (0.354, 0.612, 0.791, 0.935)  # radii that halve four rings of equal area
_EVERY = 2  # rays between sampled ones


def choose(contours: Contours, score: F32, mpp: float, overlap_share: float) -> npt.NDArray[np.intp]:
    """Indices of the chosen outlines, best first.

    Two conflict where they share more than `overlap_share` of the smaller one's area; of these the one with the
    higher `score` (float32[N]) stays, of equal ones the upper left one.
    """
    n = len(contours)
    order = np.lexsort((contours.centre[:, 0], contours.centre[:, 1], -score))
    ranked = contours.select(order)
    pair = _conflicts(ranked, mpp, overlap_share)
    better, worse = pair.min(axis=1), pair.max(axis=1)
    chosen, out = np.zeros(n, bool), np.zeros(n, bool)
    for _ in range(_ROUNDS):
        blocked = np.zeros(n, bool)
        blocked[worse[~out[better] & ~out[worse]]] = True
        chosen |= ~blocked & ~out
        out[worse[chosen[better]]] = True
        out &= ~chosen
    return np.asarray(order[np.flatnonzero(chosen)], np.intp)


def _conflicts(contours: Contours, mpp: float, overlap_share: float) -> npt.NDArray[np.intp]:
    """intp[P, 2]: pairs that share more than `overlap_share` of the smaller one's area."""
    centre = contours.centre  # whole or half pixels: differences are exact
    if len(centre) < 2:
        return np.zeros((0, 2), np.intp)
    pair = cKDTree(centre).query_pairs(_CONFLICT_UM / mpp, output_type="ndarray")
    radius = contours.radius_um
    area = np.square(radius, dtype=np.float64).sum(axis=1)
    smaller = np.where((area[pair[:, 0]] <= area[pair[:, 1]])[:, None], pair, pair[:, ::-1])
    shared = np.zeros(len(pair))
    for start in range(0, len(pair), 20_000):
        part = slice(start, start + 20_000)
        small, large = smaller[part].T
        shared[part] = _share_inside(radius[small], (centre[small] - centre[large]) * mpp, radius[large])
    return np.asarray(pair[shared > overlap_share], np.intp)


def _share_inside(small: F32, shift_um: F64, large: F32) -> F64:
    """float64[P]: share of the area of `small` (float32[P, A] radii, its point at `shift_um` from the other's) that
    lies inside `large`."""
    angles = small.shape[1]
    ray = np.arange(0, angles, _EVERY)
    angle = ray * (2 * math.pi / angles)
    radius = small[:, ray]
    weight = np.square(radius)
    distance = radius[:, :, None] * np.array(_RINGS, np.float32)
    x = shift_um[:, 0, None, None].astype(np.float32) + distance * np.cos(angle).astype(np.float32)[:, None]
    y = shift_um[:, 1, None, None].astype(np.float32) + distance * np.sin(angle).astype(np.float32)[:, None]
    towards = np.rint(np.arctan2(y, x) * np.float32(angles / (2 * math.pi))).astype(np.intp) % angles
    limit = np.take_along_axis(large, towards.reshape(len(large), -1), axis=1).reshape(towards.shape)
    inside = x * x + y * y <= limit * limit
    return np.asarray((inside.mean(axis=2) * weight).sum(axis=1) / weight.sum(axis=1), np.float64)
