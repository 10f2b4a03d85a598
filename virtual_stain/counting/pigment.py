"""Black grains among what is called DAB: carbon, ink, dust. Optical density alone cannot tell them from dense DAB;
their colour can, since they absorb all channels alike."""

from __future__ import annotations

import numpy as np

from virtual_stain.counting.cells import CellClass
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.counting.windows import FoundCells

_NEUTRAL = 0.10  # spread over mean of the channels' densities; DAB on phantoms has 0.18 and more
_DENSE_OD = 0.5  # mean over the channels: pale grey is a faint counterstain
_TOLD_FRACTION = 0.05
"""Of the positive cells. On five real Ki67 pictures and three phantoms at most 0.005 were so, of carbon grains 0.8."""
_LEAST = 5


def count_black(found: FoundCells, stain: SlideStain) -> int:
    """How many of the positive cells are dense and without colour."""
    hematoxylin = found.columns.get("hematoxylin_od")
    positive = found.cells.cell_class == CellClass.POSITIVE
    if hematoxylin is None or not positive.any():
        return 0
    h, dab = np.nan_to_num(hematoxylin[positive]), np.nan_to_num(found.cells.dab_od[positive])
    density = np.outer(h, stain.hematoxylin) + np.outer(dab, stain.dab)
    mean = density.mean(axis=1)
    return int(np.count_nonzero((mean > _DENSE_OD) & (np.ptp(density, axis=1) < _NEUTRAL * mean)))


def pigment_warning(black: int, positive: int) -> tuple[str, ...]:
    """A sentence with their share, where there are many of them."""
    if black < _LEAST or black <= _TOLD_FRACTION * positive:
        return ()
    return (
        f"pigment: {black} of {positive} positive cells ({black / positive:.0%}) are black rather than brown: carbon, "
        "ink or dust? They are no DAB, and the ratio is too high by them; look at overlay_full.jpg, and draw a region "
        "without them (--roi)",
    )
