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
_MIN_TISSUE_PX = 500


def focus_ratio(rgb: npt.NDArray[np.uint8], mpp: float) -> float | None:
    """Root energy of fine detail / that of nuclear detail over the darker (tissue) pixels; larger is sharper.

    `rgb`: uint8[H, W, 3]. None where there is too little structure to say anything.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    smooth = [cv2.GaussianBlur(grey, (0, 0), sigma / mpp) for sigma in (*_FINE_UM, *_COARSE_UM)]
    tissue = smooth[3] < 235
    if np.count_nonzero(tissue) < _MIN_TISSUE_PX:
        return None
    fine = float(np.sqrt(np.mean(np.square(smooth[0] - smooth[1])[tissue])))
    coarse = float(np.sqrt(np.mean(np.square(smooth[2] - smooth[3])[tissue])))
    return fine / coarse if coarse >= _MIN_COARSE else None
