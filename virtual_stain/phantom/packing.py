"""Points that keep their distance: random sequential adsorption with a spacing that varies over the tissue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from virtual_stain.geometry import Points
from virtual_stain.phantom.atlas import ATLAS_UM
from virtual_stain.phantom.noise import Image

# coverage at which random sequential adsorption of equal discs jams
_JAMMED = 0.547


def pack(
    rng: np.random.Generator,
    where: npt.NDArray[np.bool_],
    spacing_um: Image,
    *,
    obstacles_um: Points | None = None,
    rounds: int = 7,
) -> Points:
    """float64[N, 2] points of the world inside `where`, no two nearer than the local spacing.

    `where`: bool[h, w] and `spacing_um`: float32[h, w] on the atlas grid; `obstacles_um`: points to keep the same
    distance from.
    """
    rows, columns = np.nonzero(where)
    placed = np.zeros((0, 2))
    if not len(rows):
        return placed
    spacing = spacing_um[rows, columns].astype(np.float64)
    expected = float((_JAMMED * ATLAS_UM**2 / (np.pi / 4 * spacing**2)).sum())
    # denser places get more candidates
    weight = 1 / spacing**2
    cumulative = np.cumsum(weight) / weight.sum()
    gaps = np.zeros(0)
    for _ in range(rounds):
        n = int(rng.poisson(expected * 1.1)) + 1
        index = np.minimum(np.searchsorted(cumulative, rng.random(n)), len(rows) - 1)
        candidates = (np.stack([columns[index], rows[index]], axis=1) + rng.random((n, 2))) * ATLAS_UM
        gap = spacing[index]
        free = np.ones(n, bool)
        for others in (placed, obstacles_um):
            if others is not None and len(others):
                distance, _ = cKDTree(others).query(candidates, distance_upper_bound=float(gap.max()))
                free &= distance >= gap
        candidates, gap = candidates[free], gap[free]
        kept = _without_conflicts(candidates, gap)
        placed = np.concatenate([placed, candidates[kept]])
        gaps = np.concatenate([gaps, gap[kept]])
    return placed


def _without_conflicts(points: Points, gap: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """bool[N]: of two points that are too near the earlier one stays."""
    keep = np.ones(len(points), bool)
    if len(points) < 2:
        return keep
    pairs = cKDTree(points).query_pairs(float(gap.max()), output_type="ndarray")
    distance = np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T)
    near = distance < np.minimum(gap[pairs[:, 0]], gap[pairs[:, 1]])
    keep[pairs[near].max(axis=1)] = False
    return keep
