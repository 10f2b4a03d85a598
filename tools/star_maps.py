"""From the two maps that a StarDist network predicts to cells: the post-processing, without the network.

A StarDist model (Schmidt et al., MICCAI 2018) says for every pixel of a grid how likely it is a nucleus' middle, and
how far the outline is in each of K directions. `vstain count` traces star-shaped outlines by itself; so the same choice
between rivals is made here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from virtual_stain.counting.contours import F32, F64, Contours, on_grid
from virtual_stain.counting.select_contours import choose

_CONTOURS_AT_ONCE = 200_000


def star_candidates(prob: F32, dist: F32, grid_px: tuple[int, int], threshold: float, mpp: float) -> Contours:
    """All places of float32[h, w] `prob` above `threshold`, with their outlines.

    `dist`: float32[h, w, K], pixels of the network's input; `grid_px`: input pixels per place of the maps (x, y);
    `mpp`: µm per input pixel. Directions run as StarDist's: from +x towards +y, evenly. The score stands in `edge`.
    """
    if prob.ndim != 2 or dist.ndim != 3 or dist.shape[:2] != prob.shape:
        raise ValueError(f"Expected prob [h, w] and dist [h, w, K]. Received: {prob.shape}, {dist.shape}")
    row, column = np.nonzero(prob > threshold)
    if len(row) > _CONTOURS_AT_ONCE:
        raise ValueError(f"Expected a map with some peaks. Received: {len(row)} places above {threshold}")
    centre = np.stack([column * grid_px[0], row * grid_px[1]], axis=1).astype(np.float64)
    radius = np.maximum(dist[row, column], 0.5) * np.float32(mpp)
    score = np.repeat(prob[row, column][:, None], dist.shape[2], axis=1)
    return Contours(on_grid(centre, 2), radius.astype(np.float32), score.astype(np.float32))


def star_cells(candidates: Contours, mpp: float, overlap_share: float) -> tuple[F64, F64, npt.NDArray[np.float32]]:
    """The chosen cells as StarDist's own `details`: points [N, 2] and coord [N, 2, K] in (y, x), prob [N]."""
    chosen = candidates.select(choose(candidates, candidates.edge[:, 0], mpp, overlap_share))
    points = chosen.centre[:, ::-1].copy()
    coord = chosen.polygons(mpp)[:, :, ::-1].transpose(0, 2, 1).copy()
    return points, coord, chosen.edge[:, 0].copy()
