"""Stain vectors and strengths of one slide, and Beer–Lambert: optical density to what the scanner's camera sees."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.phantom.noise import Image, rng_for

# directions of absorbance per unit amount, RGB: hematoxylin, eosin and DAB near Ruifrok & Johnston (2001)
_HE = np.array([[0.66, 0.70, 0.27], [0.16, 0.92, 0.36], [0.10, 0.85, 0.55]])
_IHC = np.array([[0.74, 0.61, 0.28], [0.50, 0.58, 0.64], [0.29, 0.57, 0.77]])
_SHARPENED_UM = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class SlideOptics:
    """Three stains (H&E: hematoxylin, eosin, red cells; IHC: hematoxylin, faint background, DAB) and the glass."""

    vectors: npt.NDArray[np.float64]
    """float64[3, 3]: a stain per row, RGB, unit length."""
    strength: npt.NDArray[np.float64]
    """float64[3]: factor on the amount of each stain."""
    background: npt.NDArray[np.float64]
    """float64[3]: RGB of empty glass."""
    blur_um: float
    """Gaussian sigma of the optics, µm."""
    noise: float
    """Standard deviation of the camera's noise, grey levels."""
    stray_light: float = 0.0
    """Share of the glass' light that the camera sees everywhere."""
    sharpening: float = 0.0
    """How much the camera adds of what is finer than `_SHARPENED_UM`."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for the truth."""
        return {
            "vectors": np.round(self.vectors, 5).tolist(),
            "strength": np.round(self.strength, 4).tolist(),
            "background": np.round(self.background, 2).tolist(),
            "blur_um": round(self.blur_um, 4),
            "noise": round(self.noise, 3),
            "stray_light": round(self.stray_light, 4),
            "sharpening": round(self.sharpening, 4),
        }

    def expose(self, amounts: Image, mpp: float) -> Image:
        """float32[h, w, 3] amounts of the three stains → float32[h, w, 3] RGB 0–255 without noise."""
        to_ln = -np.log(10) * (self.vectors * self.strength[:, None]).T
        rgb: Image = np.asarray(cv2.exp(cv2.transform(amounts, to_ln.astype(np.float32))), np.float32)
        rgb = np.asarray(rgb, np.float32) * self.background.astype(np.float32)
        rgb = _blurred(rgb, self.blur_um / mpp)
        if self.stray_light:
            rgb += np.float32(self.stray_light) * (self.background.astype(np.float32) - rgb)
        if self.sharpening:
            rgb += np.float32(self.sharpening) * (rgb - _blurred(rgb, _SHARPENED_UM / mpp))
        return rgb


def _blurred(rgb: Image, sigma_px: float) -> Image:
    if sigma_px <= 0.25:
        return rgb
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE), np.float32)


def slide_optics(seed: int, slide: str, *, hard: bool = False) -> SlideOptics:
    """The laboratory's batch and the scanner of one slide; `slide` is "he" or "ihc".

    `hard`: a blurred and noisy scanner with a colour cast.
    """
    rng = rng_for(seed, "optics", slide)
    vectors = (_HE if slide == "he" else _IHC) + rng.normal(0, 0.025, (3, 3))
    vectors = np.clip(vectors, 0.02, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    spread = 0.14 if slide == "he" else 0.08
    optics = SlideOptics(
        vectors=vectors,
        strength=np.exp(rng.normal(0, spread, 3).clip(-2 * spread, 2 * spread)),
        background=np.array([243.0, 242.0, 244.0]) + rng.uniform(-4, 4, 3),
        blur_um=float(rng.uniform(0.2, 0.32)),
        noise=float(rng.uniform(0.9, 1.6)),
    )
    if not hard:
        return optics
    cast = np.array([1.0, 0.97, 0.9]) if rng.random() < 0.5 else np.array([0.9, 0.95, 1.0])
    return dataclasses.replace(optics, background=optics.background * cast, blur_um=0.5, noise=2.5)
