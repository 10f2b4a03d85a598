"""Mean colour per tile: the check that the phantom's signal is morphology and not a colour trick."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from virtual_stain.phantom.pyramid import StripSource
from virtual_stain.phantom.tile_table import WINDOW_UM


def mean_tile_colours(slide: StripSource) -> npt.NDArray[np.float64]:
    """float64[tiles, 3]: mean RGB (0–255) of each window of the grid, row by row from the top left.

    `slide` is rendered once, strip by strip; pixels belong to the tile that holds their centre.
    """
    columns = int(np.ceil(slide.size.width * slide.mpp / WINDOW_UM - 1e-9))
    rows = int(np.ceil(slide.size.height * slide.mpp / WINDOW_UM - 1e-9))
    total = np.zeros((rows, columns, 3))
    number = np.zeros((rows, columns))
    column_of = ((np.arange(slide.size.width) + 0.5) * slide.mpp / WINDOW_UM).astype(np.intp)
    edges = np.searchsorted(column_of, np.arange(columns))
    top = 0
    for strip in slide.strips(512):
        row_of = ((np.arange(top, top + len(strip)) + 0.5) * slide.mpp / WINDOW_UM).astype(np.intp)
        for row in np.unique(row_of):
            part = strip[row_of == row]
            total[row] += np.add.reduceat(part.sum(axis=0, dtype=np.float64), edges, axis=0)
            number[row] += np.diff(np.append(edges, slide.size.width)) * len(part)
        top += len(strip)
    result: npt.NDArray[np.float64] = (total / number[..., None]).reshape(-1, 3)
    return result
