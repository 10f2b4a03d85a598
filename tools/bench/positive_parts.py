"""What each part of a count adds to the error of its tumour ratio: one line a field."""

from __future__ import annotations

import numpy as np

from tools.bench.counting_data import Scene
from tools.bench.counting_scores import REACH_UM, pairs
from virtual_stain.counting.cells import CellClass, Cells

HEADER = f"{'field':22s}  F1 tumour  error   if right: tumour or not, classes, nothing false, nothing missed"


def parts_line(scene: Scene, cells: Cells) -> str:
    """The error of the tumour ratio, in points, and what it would be if one part alone were without fault."""
    cells = cells.select(cells.cell_class != CellClass.OTHER)
    found, known = np.array(pairs(cells.xy, scene.xy, REACH_UM / scene.mpp)).reshape(-1, 2).T
    n = len(cells.xy)
    called, positive = cells.tumour, cells.cell_class == CellClass.POSITIVE
    hit, is_tumour, true_class = np.zeros(n, bool), np.zeros(n, bool), positive.copy()
    hit[found], is_tumour[found], true_class[found] = True, scene.tumour[known], scene.positive[known]
    missed = scene.tumour.copy()
    missed[known] = False
    truth = scene.positive[scene.tumour].mean()
    ratios = (
        positive[called],
        positive[np.where(hit, is_tumour, called)],
        true_class[called],
        positive[called & hit],
        np.concatenate([positive[called], scene.positive[missed]]),
    )
    now, *others = (100 * (float(r.mean()) - float(truth)) if len(r) else np.nan for r in ratios)
    f1 = 2 * np.count_nonzero(called & is_tumour) / max(1, np.count_nonzero(called) + np.count_nonzero(scene.tumour))
    return f"  {scene.name:20s}  {f1:.3f}      {now:+5.1f}   " + "  ".join(f"{value:+5.1f}" for value in others)
