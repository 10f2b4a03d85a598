"""Maps of a large window from parts of it: a server takes messages of a few MB."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from virtual_stain.scoring.predictor import PLACE_PX, Answers, Tiles

GRID_PX = 16
"""Windows begin at multiples of this, and their sides are."""
LARGEST_PX = 1024
"""Side of a part: 3.1 MB of pixels there, 1.0 MB of maps back. gRPC's own limit of a message is 4 MB."""


def maps_in_parts(
    ask: Callable[[Tiles], Answers], windows: Tiles, halo_px: int, largest_px: int = LARGEST_PX
) -> Answers:
    """float32[1, h/4, w/4] by name, of uint8[1, h, w, 3], of which `ask` is given one part at a time.

    A part reaches `halo_px` beyond what is taken of it, as far as there is a window: no place depends on anything
    further away, so the maps are those of the whole window. Sides and `largest_px` are multiples of GRID_PX.
    """
    height, width = windows.shape[1:3]
    if max(height, width) <= largest_px:
        return ask(windows)
    halo_px = -(-halo_px // GRID_PX) * GRID_PX
    step = largest_px - 2 * halo_px
    whole: Answers = {}
    for top, left in itertools.product(range(0, height, step), range(0, width, step)):
        bottom, right = min(top + step, height), min(left + step, width)
        first_row, first = max(0, top - halo_px), max(0, left - halo_px)
        part = windows[:, first_row : min(bottom + halo_px, height), first : min(right + halo_px, width)]
        rows, columns = ((a // PLACE_PX, b // PLACE_PX) for a, b in ((top, bottom), (left, right)))
        skip_rows, skip = (top - first_row) // PLACE_PX, (left - first) // PLACE_PX
        for name, values in ask(part).items():
            taken = values[:, skip_rows : skip_rows + rows[1] - rows[0], skip : skip + columns[1] - columns[0]]
            shape = (1, height // PLACE_PX, width // PLACE_PX)
            whole.setdefault(name, np.empty(shape, np.float32))[:, slice(*rows), slice(*columns)] = taken
    return whole
