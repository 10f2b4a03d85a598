"""How wide the dark round spots of a slide are, which are its nuclei for the most part: a pixel size that is told half
as large as it is makes them half as wide as any nucleus.

A scale-space search: at every spot the width at which a difference of Gaussians answers most. Pale or busy tissue has
spots of every width and gives no answer; the spots must agree before anything is said.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.errors import SlideError
from virtual_stain.geometry import Box, Size
from virtual_stain.slides.source import Levels, Rgb
from virtual_stain.slides.window import read_window

SMALLEST_NUCLEUS_UM = 4.1
"""Width of spots below which a slide is doubted. Where they agree, pictures at their right pixel size have 4.6 to 10.7,
at half of it 2.5 to 3.7 (docs/formats.md)."""
MOST_SPREAD = 1.75
"""Upper over lower quartile of the widths, beyond which they do not agree."""

_COARSEST_MPP = 0.75  # nuclei of coarser scans are a few pixels wide
_WINDOW_UM, _WINDOWS = 256.0, 3
_LEAST_TISSUE = 0.5  # of a window
_WORKING_MPP = 0.7
_RADII_UM = np.geomspace(0.9, 9.0, 12)
_LEAST_OD = 0.02  # of a spot beyond its surroundings
_LEAST_SPOTS = 60
_SAID = "the nuclei would be about"


@dataclass(frozen=True, slots=True)
class SpotWidths:
    """Quartiles of the widths of spots, weighted by area and contrast, µm."""

    lower: float
    median: float
    upper: float

    @property
    def agree(self) -> bool:
        """Whether most of them have one width."""
        return self.upper <= MOST_SPREAD * self.lower


def spot_widths(pictures: list[Rgb], mpp_um: float = _WORKING_MPP) -> SpotWidths | None:
    """Of pictures uint8[H, W, 3] at `mpp_um` µm/px; None where they show too few spots."""
    found = [_spots(picture, mpp_um) for picture in pictures]
    radius = np.concatenate([r for r, _ in found]) if found else np.zeros(0)
    if len(radius) < _LEAST_SPOTS:
        return None
    weight = np.concatenate([w for _, w in found])
    order = np.argsort(radius, kind="stable")
    covered = np.cumsum(weight[order])
    at = np.searchsorted(covered, covered[-1] * np.array([0.25, 0.5, 0.75]))
    return SpotWidths(*(float(2 * radius[order][i]) for i in at))


def _spots(picture: Rgb, mpp_um: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Radius (µm) and weight of every spot: float64[N] each. Red light is what nuclei absorb in both stains."""
    od = -np.log10((picture[..., 0].astype(np.float32) + 1) / 256)
    answers = np.stack(_answers(od, mpp_um))
    around = np.stack([cv2.dilate(a, np.ones((3, 3), np.uint8)) for a in answers])
    spot = (answers >= around) & (answers > _LEAST_OD)
    spot[1:] &= answers[1:] >= around[:-1]
    spot[:-1] &= answers[:-1] >= around[1:]
    spot[[0, -1]] = False
    radius = (_RADII_UM * np.sqrt(_step()))[np.nonzero(spot)[0]]
    return radius, answers[spot].astype(np.float64) ** 2 * radius**2


def _step() -> float:
    return float(_RADII_UM[1] / _RADII_UM[0])


def _answers(od: npt.NDArray[np.float32], mpp_um: float) -> list[npt.NDArray[np.float32]]:
    """Differences of Gaussians, one a radius, float32[H, W] of density beyond the surroundings."""
    smooth, reached = [od], 0.0
    for radius in (*_RADII_UM, _RADII_UM[-1] * _step()):
        sigma = radius / math.sqrt(2) / mpp_um
        wider = cv2.GaussianBlur(smooth[-1], (0, 0), math.sqrt(sigma**2 - reached**2))
        smooth.append(np.asarray(wider, np.float32))
        reached = sigma
    pairs = itertools.pairwise(smooth[1:])
    return [np.asarray((fine - wide) / (_step() - 1), np.float32) for fine, wide in pairs]


def doubt_of_nuclei(widths: SpotWidths | None, mpp_text: str) -> tuple[str, ...]:
    """A warning where the spots agree on a width that no nuclei have; `mpp_text`: the pixel size, for people."""
    if widths is None or not widths.agree or widths.median > SMALLEST_NUCLEUS_UM:
        return ()
    return (
        f"pixel size: by {mpp_text} {_SAID} {widths.median:.1f} µm wide, half of what is usual (5 to 12 µm"
        "). If it is too small, pass the right one with --mpp.",
    )


def of_nuclei(warnings: Iterable[str]) -> tuple[str, ...]:
    """Those of `doubt_of_nuclei` among the warnings of a slide."""
    return tuple(text for text in warnings if _SAID in text)


def sampled(slide: Levels, boxes: list[Box]) -> list[Rgb]:
    """Pictures of the boxes (level-0 px) as `spot_widths` takes them; those that cannot be read are left out."""
    side = round(_WINDOW_UM / _WORKING_MPP)
    pictures = []
    for box in boxes:
        try:
            pictures.append(read_window(slide, box, Size(side, side)))
        except SlideError:  # who reads this place for its cells says so
            continue
    return pictures


def windows_in(mask: npt.NDArray[np.bool_], um_per_px: tuple[float, float]) -> list[Box]:
    """Boxes (px of the mask) spread over the tissue of a mask bool[h, w]; [] where it has too little."""
    width, height = (max(1, round(_WINDOW_UM / um)) for um in um_per_px)
    share = cv2.blur(mask.astype(np.float32), (width, height), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    steps = max(1, height // 2), max(1, width // 2)
    full = np.argwhere(share[:: steps[0], :: steps[1]] >= _LEAST_TISSUE) * steps
    if not len(full):
        return []
    chosen = full[np.unique(np.linspace(0, len(full) - 1, _WINDOWS + 2).round().astype(np.intp)[1:-1])]
    return [Box(float(x), float(y), float(width), float(height)) for y, x in chosen]


def is_fine_enough(mpp: tuple[float, float]) -> bool:
    """Whether a nucleus has enough pixels to be measured."""
    return max(mpp) <= _COARSEST_MPP
