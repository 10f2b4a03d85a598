"""The tissue mask of one overview picture (first version)."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.config.tissue import TissueSettings
from virtual_stain.slides.source import Rgb

Mask = npt.NDArray[np.bool_]


def is_brightfield(rgb: Rgb) -> bool:
    """Whether a picture (uint8[H, W, 3]) is light on the whole: fluorescence is colour on black."""
    brightest = rgb.max(axis=-1)
    return not (float((brightest < 48).mean()) > 0.5 and float((brightest > 128).mean()) < 0.25)


def tissue_mask(rgb: Rgb, mpp_um: float, settings: TissueSettings) -> Mask:
    """bool[H, W] of uint8[H, W, 3] at `mpp_um` µm/px."""
    smooth = cv2.GaussianBlur(rgb, (0, 0), max(0.5, 8.0 / mpp_um))
    lab = cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    mask = (chroma > 4.0) & (lab[..., 0] < 97)
    r, g = (smooth[..., i].astype(np.int16) for i in range(2))
    pen = (g > r + 8) & (chroma > 12)
    return np.asarray(mask & ~pen, np.bool_)
