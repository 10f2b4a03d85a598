"""Optical density and its parts: hematoxylin, DAB and what neither of them explains."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Vector = tuple[float, float, float]

PUBLISHED_HEMATOXYLIN: Vector = (0.651, 0.701, 0.290)
"""Unit vector (R, G, B) of hematoxylin beside DAB, as published with QuPath's H-DAB defaults (Bankhead 2017)."""
PUBLISHED_DAB: Vector = (0.269, 0.568, 0.778)
"""Unit vector (R, G, B) of diaminobenzidine, Ruifrok & Johnston, Anal. Quant. Cytol. Histol. 23, 2001."""


def optical_density(rgb: npt.NDArray[np.uint8] | F32, background: Vector) -> F32:
    """float32[H, W, 3]: log10(background / intensity) per channel, ≥ 0; `rgb` on the scale 0–255.

    One grey level is added on both sides, so that a black pixel has a finite density (at most 2.4).
    """
    intensity = np.asarray(rgb, np.float32) + np.float32(1)
    density = np.log10(np.asarray(background, np.float32) + np.float32(1)) - np.log10(intensity)
    result: F32 = np.maximum(density, np.float32(0))
    return result


def separate(density: F32, hematoxylin: Vector, dab: Vector) -> tuple[F32, F32, F32]:
    """Amounts along the two unit vectors and the residual along their normal, each float32[H, W].

    Colour deconvolution (Ruifrok & Johnston 2001) with the normal of the two stains as third vector. The residual
    has a sign; amounts may be slightly negative where noise or another colour makes them so.
    """
    normal = np.cross(hematoxylin, dab)
    normal /= np.linalg.norm(normal)
    unmix = np.linalg.inv(np.stack([hematoxylin, dab, normal])).astype(np.float32)
    flat = density.reshape(-1, 3)
    # three dot products in a fixed order instead of a matrix product, whose order of summing depends on the size
    parts = [flat[:, 0] * unmix[0, k] + flat[:, 1] * unmix[1, k] + flat[:, 2] * unmix[2, k] for k in range(3)]
    h, d, r = (p.reshape(density.shape[:2]) for p in parts)
    return h, d, r


def hue(density: F32) -> F32:
    """float32[H, W]: (B − R) / sum of the optical density: about −0.3 for hematoxylin, + 0.2 for DAB, 0 for grey."""
    total = density.sum(axis=-1)
    result: F32 = (density[..., 2] - density[..., 0]) / np.maximum(total, np.float32(0.02))
    return result
