"""The nuclei of an H&E window, found by the counter's own search in the haematoxylin of the H&E."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.between import between_nuclei
from virtual_stain.counting.measure import Measured, Plane, measure, stain_plane
from virtual_stain.counting.optical_density import Vector
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.counting.tumour import looks_like_tumour

HEMATOXYLIN: Vector = (0.650, 0.704, 0.286)
EOSIN: Vector = (0.072, 0.990, 0.105)
"""Unit vectors (R, G, B) in optical density: Ruifrok & Johnston, Anal. Quant. Cytol. Histol. 23, 2001."""
_START_OD = 0.25
_FEWEST = 15
_TYPICAL_OD = (0.04, 1.2)


@dataclass(frozen=True, slots=True, eq=False)
class HeNuclei:
    """The nuclei of a window."""

    plane: Plane
    """Working pixels; `signal` is haematoxylin beyond the slide's haze."""
    measured: Measured
    tumour: npt.NDArray[np.bool_]
    """bool[N]: by size, shape and neighbourhood."""


def estimate_he_stain(
    windows: Sequence[npt.NDArray[np.uint8]], mpp: float, background: Vector, settings: CountingSettings
) -> SlideStain:
    """What the nuclei of an H&E slide are like, from uint8[H, W, 3] windows spread over its tissue.

    `dab` of the result is eosin. Raises ValueError without windows.
    """
    if not windows:
        raise ValueError("Expected at least one window. Received: none")
    stain = SlideStain(background=background, hematoxylin=HEMATOXYLIN, dab=EOSIN, typical_od=_START_OD)
    loose = dataclasses.replace(settings, min_edge_score=0.1, level_contrast=0.0)
    for _ in range(2):  # the second look is beyond the haze that the first one found
        planes = [_plane(window, mpp, stain, settings) for window in windows]
        stain = dataclasses.replace(stain, typical_od=_typical([measure(p, stain, loose) for p in planes]))
        found = [measure(plane, stain, settings) for plane in planes]
        haze = between_nuclei(planes, found).haze_od
        stain = dataclasses.replace(stain, haze_od=stain.haze_od + haze, typical_area_um2=_area(found, stain))
    return stain


def find_he_nuclei(rgb: npt.NDArray[np.uint8], mpp: float, stain: SlideStain, settings: CountingSettings) -> HeNuclei:
    """Of uint8[H, W, 3] of an H&E slide; no nucleus depends on anything further than `settings.margin_um` away."""
    plane = _plane(rgb, mpp, stain, settings)
    found = measure(plane, stain, settings)
    return HeNuclei(plane, found, looks_like_tumour(found, (mpp, mpp), stain, settings))


def _plane(rgb: npt.NDArray[np.uint8], mpp: float, stain: SlideStain, settings: CountingSettings) -> Plane:
    return stain_plane(rgb, (mpp, mpp), stain, settings, membrane=True)  # eosin is no nuclear signal


def _typical(found: Sequence[Measured]) -> float:
    """Median contrast of what the nuclei cover, so that many faint specks do not decide."""
    contrast = np.concatenate([n.contrast_od for n in found]).astype(np.float64)
    mass = np.concatenate([n.area_um2 for n in found]).astype(np.float64) * np.maximum(contrast, 0)
    if np.count_nonzero(mass) < _FEWEST:
        return _START_OD
    order = np.argsort(contrast)
    total = np.cumsum(mass[order])
    return float(np.clip(contrast[order][np.searchsorted(total, total[-1] / 2)], *_TYPICAL_OD))


def _area(found: Sequence[Measured], stain: SlideStain) -> float:
    area = np.sort(np.concatenate([n.area_um2 for n in found]).astype(np.float64))
    if len(area) < _FEWEST:
        return stain.typical_area_um2
    covered = np.cumsum(area)
    return float(area[np.searchsorted(covered, covered[-1] / 2)])
