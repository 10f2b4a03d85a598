"""What goes wrong on real slides: folds, pen, focus, bubbles, torn tissue, control tissue.

Each artefact has a soft region in µm of its slide and an effect on the stain amounts (in the tissue) or on the light
(glass and optics). Fold, pen and blur lie on the H&E slide; bubble, missing tissue and control tissue on the IHC slide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Points
from virtual_stain.phantom.atlas import ATLAS_UM, Atlas
from virtual_stain.phantom.noise import Image, rng_for, smooth_field, smoothstep

HE_ARTEFACTS = ("fold", "pen", "blur")
IHC_ARTEFACTS = ("bubble", "missing", "control")
_PEN_INKS = ((0.15, 0.25, 0.75), (0.10, 0.55, 0.30), (0.08, 0.08, 0.10))  # transmission of RGB: blue, green, black


@dataclass(frozen=True, slots=True)
class Region:
    """A disc or a wavy band on a slide, µm of that slide."""

    x_um: float
    y_um: float
    half_width_um: float
    """Radius of the disc, half the width of the band."""
    half_length_um: float
    """0: a disc."""
    angle: float
    phase: float
    soft_um: float

    def depth(self, points_um: npt.NDArray[np.float32]) -> Image:
        """float32[...]: µm inside the region (negative outside) at float32[..., 2] points."""
        dx, dy = points_um[..., 0] - np.float32(self.x_um), points_um[..., 1] - np.float32(self.y_um)
        along = dx * np.float32(np.cos(self.angle)) + dy * np.float32(np.sin(self.angle))
        across = dy * np.float32(np.cos(self.angle)) - dx * np.float32(np.sin(self.angle))
        if self.half_length_um == 0:
            edge = 1 + 0.10 * np.cos(3 * np.arctan2(across, along) + self.phase)
            result: Image = (self.half_width_um * edge - np.hypot(along, across)).astype(np.float32)
            return result
        wave = 0.6 * self.half_width_um * np.sin(along / (4 * self.half_width_um) + self.phase)
        beyond = np.maximum(np.abs(along) - self.half_length_um, 0)
        result = (self.half_width_um - np.hypot(across + wave, beyond)).astype(np.float32)
        return result

    def weight(self, x0: int, y0: int, shape: tuple[int, int], mpp: float) -> Image | None:
        """float32[h, w] in 0–1 over a block of the slide; None where the block is outside."""
        reach = self.half_width_um * 1.7 + self.half_length_um + self.soft_um
        x, y = x0 * mpp - self.x_um, y0 * mpp - self.y_um
        if x > reach or y > reach or x + shape[1] * mpp < -reach or y + shape[0] * mpp < -reach:
            return None
        columns = ((x0 + np.arange(shape[1]) + 0.5) * mpp).astype(np.float32)
        rows = ((y0 + np.arange(shape[0]) + 0.5) * mpp).astype(np.float32)
        return smoothstep(self.depth(np.stack(np.meshgrid(columns, rows), axis=-1)), 0, self.soft_um)


@dataclass(frozen=True, slots=True)
class Fold:
    """Tissue that lies double: twice the absorbance."""

    region: Region
    mpp: float

    def __call__(self, layers: Image, x0: int, y0: int) -> Image:
        weight = self.region.weight(x0, y0, (layers.shape[0], layers.shape[1]), self.mpp)
        return layers if weight is None else layers * (1 + weight)[..., None]


@dataclass(frozen=True, slots=True)
class Pen:
    """Ink on the cover slip."""

    region: Region
    mpp: float
    ink: tuple[float, float, float]

    def __call__(self, rgb: Image, x0: int, y0: int) -> Image:
        weight = self.region.weight(x0, y0, (rgb.shape[0], rgb.shape[1]), self.mpp)
        if weight is None:
            return rgb
        lost = weight[..., None] * (1 - np.array(self.ink, np.float32)) * np.float32(0.85)
        result: Image = rgb * (1 - lost)
        return result


@dataclass(frozen=True, slots=True)
class Blur:
    """A place that the scanner did not focus."""

    region: Region
    mpp: float
    sigma_um: float

    def __call__(self, rgb: Image, x0: int, y0: int) -> Image:
        weight = self.region.weight(x0, y0, (rgb.shape[0], rgb.shape[1]), self.mpp)
        if weight is None or not weight.any():
            return rgb
        soft = np.asarray(cv2.GaussianBlur(rgb, (0, 0), self.sigma_um / self.mpp), np.float32)
        result: Image = rgb + (soft - rgb) * weight[..., None]
        return result


@dataclass(frozen=True, slots=True)
class Bubble:
    """Air under the cover slip: a dark rim, paler inside."""

    region: Region
    mpp: float

    def __call__(self, rgb: Image, x0: int, y0: int) -> Image:
        weight = self.region.weight(x0, y0, (rgb.shape[0], rgb.shape[1]), self.mpp)
        if weight is None or not weight.any():
            return rgb
        rim = 4 * weight * (1 - weight)
        pale = np.clip(weight * 1.2 - 0.2, 0, 1) * np.float32(0.3)
        result: Image = (rgb + (235 - rgb) * pale[..., None]) * (1 - np.float32(0.65) * rim)[..., None]
        return result


Change = Callable[[Image, int, int], Image]


def he_artefacts(
    seed: int, names: tuple[str, ...], atlas: Atlas, mpp: float
) -> tuple[tuple[Change, ...], tuple[Change, ...], list[Region]]:
    """(changes of the amounts, changes of the light, regions) of the H&E slide."""
    on_layers: list[Change] = []
    on_rgb: list[Change] = []
    regions: list[Region] = []
    for name in HE_ARTEFACTS:
        if name not in names:
            continue
        rng = rng_for(seed, "artefact", name)
        (x, y), span = _place(rng, atlas, atlas.tissue > (-30 if name == "pen" else 60)), _span_um(atlas)
        angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
        if name == "fold":
            region = Region(x, y, rng.uniform(14, 24), 0.3 * span, angle, phase, 6.0)
            on_layers.append(Fold(region, mpp))
        elif name == "pen":
            region = Region(x, y, rng.uniform(50, 90), 0.25 * span, angle, phase, 12.0)
            on_rgb.append(Pen(region, mpp, _PEN_INKS[int(rng.integers(3))]))
        else:
            region = Region(x, y, 0.13 * span, 0.0, angle, phase, 60.0)
            on_rgb.append(Blur(region, mpp, rng.uniform(2.2, 3.0)))
        regions.append(region)
    return tuple(on_layers), tuple(on_rgb), regions


def ihc_bubble(seed: int, atlas: Atlas, to_slide_um: Callable[[Points], Points], mpp: float) -> Bubble:
    """An air bubble over some tissue of the IHC slide; `to_slide_um`: world µm → µm of the IHC slide."""
    rng = rng_for(seed, "artefact", "bubble")
    x, y = to_slide_um(np.array([_place(rng, atlas, atlas.tissue > 0)]))[0]
    region = Region(float(x), float(y), 0.10 * _span_um(atlas), 0.0, 0.0, rng.uniform(0, 2 * np.pi), 14.0)
    return Bubble(region, mpp)


def torn(atlas: Atlas, seed: int) -> tuple[Atlas, npt.NDArray[np.bool_]]:
    """The IHC section without the piece that was lost on the way, and bool[h, w]: where it is missing."""
    rng = rng_for(seed, "artefact", "missing")
    x, y = _place(rng, atlas, (atlas.tissue > 0) & (atlas.tissue < 0.2 * _span_um(atlas)))
    height, width = atlas.shape
    columns, rows = (np.arange(width) + 0.5) * ATLAS_UM, (np.arange(height) + 0.5) * ATLAS_UM
    region = Region(x, y, 0.14 * _span_um(atlas), 0.0, 0.0, rng.uniform(0, 2 * np.pi), 1.0)
    depth = region.depth(np.stack(np.meshgrid(columns, rows), axis=-1).astype(np.float32))
    depth = depth + smooth_field(rng, atlas.shape, 8) * 14
    return replace(atlas, tissue=np.minimum(atlas.tissue, -depth).astype(np.float32)), (depth > 0) & (atlas.tissue > 0)


def covered(regions: list[Region], points_um: Points, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """bool[h, w]: which of float64[h · w, 2] points (µm of the slide) any region covers."""
    result = np.zeros(shape[0] * shape[1], bool)
    for region in regions:
        result |= region.depth(points_um.astype(np.float32)) > 0
    return result.reshape(shape)


def _place(rng: np.random.Generator, atlas: Atlas, where: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """A point of the world inside `where`, or in the middle of the canvas."""
    rows, columns = np.nonzero(where)
    if not len(rows):
        return atlas.shape[1] * ATLAS_UM / 2, atlas.shape[0] * ATLAS_UM / 2
    chosen = int(rng.integers(len(rows)))
    return (float(columns[chosen]) + 0.5) * ATLAS_UM, (float(rows[chosen]) + 0.5) * ATLAS_UM


def _span_um(atlas: Atlas) -> float:
    """Side of a square as large as the tissue, µm."""
    return float(np.sqrt(np.count_nonzero(atlas.tissue > 0))) * ATLAS_UM
