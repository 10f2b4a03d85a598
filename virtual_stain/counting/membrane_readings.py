"""What a membrane marker is read as: HER2 0 to 3+, PD-L1 TPS."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cells import Cells
from virtual_stain.counting.readings import NO_CELLS
from virtual_stain.her2 import Her2Reading

TPS_RULE = "tumour cells with partial or complete membrane staining of any intensity / all tumour cells"


def read_her2(cells: Cells, intensity: npt.NDArray[np.uint8]) -> Her2Reading:
    """Over the tumour cells. `intensity`: uint8[N] intensity of every cell."""
    tumour = intensity[cells.tumour]
    if not len(tumour):
        return Her2Reading.of(None)
    f = [float(np.mean(tumour == g)) for g in range(4)]
    return Her2Reading.of((f[0], f[1], f[2], f[3]))


def read_tps(cells: Cells) -> dict[str, Any]:
    """PD-L1 tumour proportion score. CPS and IC count immune cells and are other things: not read."""
    ratio = cells.counts().ratio
    value: dict[str, Any] = {"tps": None if ratio is None else round(ratio, 6), "rule": TPS_RULE}
    return value if ratio is not None else {**value, "reason": NO_CELLS}
