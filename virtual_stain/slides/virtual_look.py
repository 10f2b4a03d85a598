"""How a virtual slide says in its picture that it is a prediction, and how that is recognised.

Its pixels are Beer and Lambert's law under one light and two stains, which no scanner has and no camera's noise spoils:
their optical densities lie in one plane. They still do in a crop, a smaller copy, a JPEG or a picture of the screen,
from which the metadata are gone. Grey pixels (tissue without a reading, a page around the picture) are left out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

VIRTUAL_GLASS = (226, 208, 243)
"""R, G, B of the glass: lilac, a colour that no scanner has."""
VIRTUAL_STAINS = ((0.651, 0.701, 0.290), (0.269, 0.568, 0.778))
"""Unit vectors (R, G, B) in optical density of the two stains that every virtual picture has."""
_LOOKED_AT = 200_000  # pixels
_LEAST_CHROMA = 8
_LEAST_SHARE = 0.02  # of the picture that has colour
_LEAST_INK = 0.002  # of the coloured pixels that are darker than glass
_QUANTILE = 0.85  # of the coloured pixels: some are text
_LARGEST_DISTANCE = 0.016
"""Of a pixel's optical density from the plane. 24 copies of drawn tiles, whole to 1/32, as PNG and JPEG 75: 0.0114 at
most; 111 real pictures: 0.0225 at least."""
_BRIGHTER = (0.03, 0.05)  # optical density below glass, and the share of coloured pixels that may be so


def looks_virtual(rgb: npt.NDArray[np.uint8]) -> bool:
    """Whether uint8[H, W, 3] has the colours of a virtual slide."""
    step = max(1, int(np.sqrt(rgb.shape[0] * rgb.shape[1] / _LOOKED_AT)))
    pixels = rgb[::step, ::step].reshape(-1, 3).astype(np.int16)
    coloured = pixels[pixels.max(axis=1) - pixels.min(axis=1) > _LEAST_CHROMA]
    if len(coloured) < max(50, _LEAST_SHARE * len(pixels)):
        return False
    density = -np.log10((coloured + 1.0) / (np.array(VIRTUAL_GLASS) + 1.0))
    brighter, share = _BRIGHTER
    if (density.min(axis=1) < -brighter).mean() > share or (density.sum(axis=1) > 0.25).mean() < _LEAST_INK:
        return False
    normal = np.cross(*VIRTUAL_STAINS)
    distance = np.abs(density @ (normal / np.linalg.norm(normal)))
    return bool(np.quantile(distance, _QUANTILE) <= _LARGEST_DISTANCE)
