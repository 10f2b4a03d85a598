"""One side of a pair as registration sees it: how much tissue, and the pattern in it, whatever the stain.

Two stains of one block agree in where tissue is dense and in the layout of its structures, not in colour. So each
side becomes two absorbance images: `density` (all light lost) and `nuclei` (what haematoxylin took of it: the nuclear
counter-stain is on both sides). Both are relative to the slide's own glass and to its own typical tissue.

Haematoxylin is told from eosin and DAB by the colour deconvolution of Ruifrok & Johnston 2001, with their vectors:
the same for every slide, since here only the pattern counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.errors import NoTissueError
from virtual_stain.geometry import Affine2D
from virtual_stain.registration.raster import Image, Mask, Rgb

_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])  # haematoxylin, eosin, DAB; R, G, B
_HAEMATOXYLIN = np.linalg.inv(_STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True))[:, 0].astype(np.float32)
Colour = npt.NDArray[np.float32]
_GLASS_LOW = 150  # darker pixels outside the mask are dirt, not glass
_MIN_TISSUE_PX = 60
_CLIP = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Foreground:
    """A side at working resolution: square pixels, the same physical size on both sides where that is known."""

    density: Image
    """float32[H, W], 0 on glass, about 1 in typical tissue, at most 2."""
    nuclei: Image
    """float32[H, W], the same of haematoxylin alone."""
    mask: Mask
    """bool[H, W]: tissue."""
    px0_from_work: Affine2D
    glass: Colour
    """float32[3]: RGB of the slide's glass."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.density.shape[0], self.density.shape[1]

    @property
    def tissue_px(self) -> int:
        return int(np.count_nonzero(self.mask))

    def channels(self) -> tuple[Image, Image]:
        return self.density, self.nuclei


def make_foreground(rgb: Rgb, mask: Mask, px0_from_work: Affine2D) -> Foreground:
    """Absorbance images of an overview and its tissue mask.

    rgb: uint8[H, W, 3]; mask: bool[H, W]. Raises NoTissueError when the mask is all but empty.
    """
    if np.count_nonzero(mask) < _MIN_TISSUE_PX:
        raise NoTissueError(
            "Expected tissue to register. Received: an overview on which none was found.",
            hint="`vstain info SLIDE --out DIR` draws the tissue mask.",
        )
    glass = _glass(rgb, mask)
    density, nuclei = absorbances(rgb, glass)
    return Foreground(_relative(density, mask), _relative(nuclei, mask), mask, px0_from_work, glass)


def absorbances(rgb: Rgb, glass: Colour) -> tuple[Image, Image]:
    """float32[H, W] each: mean absorbance of the three colours relative to `glass`, and that of haematoxylin alone."""
    absorbance = np.empty(rgb.shape, np.float32)
    for channel in range(3):
        table = -np.log10((np.arange(256, dtype=np.float32) + 1.0) / (glass[channel] + 1.0))
        absorbance[..., channel] = np.maximum(table, 0.0)[rgb[..., channel]]
    density: Image = absorbance.mean(axis=2)
    nuclei: Image = np.maximum(absorbance @ _HAEMATOXYLIN, np.float32(0.0))
    return density, nuclei


def _glass(rgb: Rgb, mask: Mask) -> Colour:
    outside = rgb[~mask]
    bright = outside[outside.min(axis=1) >= _GLASS_LOW] if len(outside) else outside
    if len(bright) < max(100, 0.005 * mask.size):
        # tissue from edge to edge: the brightest pixels there are stand for glass
        return np.asarray(np.percentile(rgb.reshape(-1, 3), 99.5, axis=0), np.float32)
    return np.asarray(np.median(bright, axis=0), np.float32)


def _relative(absorbance: npt.NDArray[np.float32], mask: Mask) -> Image:
    typical = float(np.median(absorbance[mask]))
    result: Image = np.clip(absorbance / max(typical, 0.01), 0.0, _CLIP).astype(np.float32)
    return result
