"""How sharp a tile is: the contrast of fine detail relative to that of nuclei.

Band energies of a Gaussian scale space, as in the family of focus measures compared by Pertuz et al. 2013 (Analysis
of focus measure operators for shape-from-focus, Pattern Recognition 46): the ratio does not depend on stain or
brightness, and a blur of σ ≥ 1 µm removes the fine band and leaves the coarse one.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_FINE_UM = (0.35, 0.8)  # detail of chromatin and membranes: σ of the two Gaussians, µm
_COARSE_UM = (1.4, 3.2)  # nuclei
_MIN_COARSE = 2.0  # grey levels: below this the tile is blank and has no focus
_MIN_TISSUE_UM2 = 50.0
_GLASS = 235  # grey level of empty glass and above


def focus_ratio(rgb: npt.NDArray[np.uint8], mpp: float) -> float | None:
    """Root energy of fine detail / that of nuclear detail over the darker (tissue) pixels; larger is sharper.

    `rgb`: uint8[H, W, 3]. None where there is too little structure to say anything.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine = _band(grey, _FINE_UM, mpp)
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)  # enough for σ ≥ 1.4 µm
    coarse = _band(np.asarray(half, np.float32), _COARSE_UM, 2 * mpp)
    return fine / coarse if fine is not None and coarse is not None and coarse >= _MIN_COARSE else None


def _band(grey: npt.NDArray[np.float32], sigmas_um: tuple[float, float], mpp: float) -> float | None:
    """Root mean square of the difference of two Gaussians over tissue; None with hardly any tissue."""
    sharp, blurred = (cv2.GaussianBlur(grey, (0, 0), sigma / mpp) for sigma in sigmas_um)
    tissue = blurred < _GLASS
    if np.count_nonzero(tissue) * mpp**2 < _MIN_TISSUE_UM2:
        return None
    return float(np.sqrt(np.mean(np.square(sharp - blurred)[tissue])))
