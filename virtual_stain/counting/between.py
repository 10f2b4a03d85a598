"""What lies between the nuclei of a slide: brown tissue, and haze that all nuclei are seen through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.counting.measure import Measured, Plane

_BESIDE_UM = (1.5, 4.0)  # from the outlines: what is around nuclei, out of reach of their own blur
_PALER = 0.25  # its paler quarter: the darker ones are rims of dark nuclei, and nuclei that were not found
_MIN_PIXELS = 300
_TISSUE_OD = 0.1  # summed density of what is tissue, not glass
_BROWN_OD = 0.2  # DAB density of what is plainly brown
_CLEAN_OD = 0.05  # DAB density that unmixing leaves there on slides without brown tissue (real ones: 0.02 to 0.04)
_HAZE_SHARE = 0.5  # of the paler quarter's signal: little tissue has less


@dataclass(frozen=True, slots=True)
class Between:
    """Of one slide; optical densities."""

    brown_od: float
    """DAB of the tissue between nuclei, beyond what every slide has."""
    haze_od: float
    """Signal (`Plane.signal`) that nearly all tissue has."""


def between_nuclei(planes: Sequence[Plane], found: Sequence[Measured]) -> Between:
    """From sampled windows of one slide and the nuclei in them."""
    dab, signal = [], []
    for plane, nuclei in zip(planes, found, strict=True):
        outside = (nuclei.nuclei.labels == 0).astype(np.uint8)
        distance = cv2.distanceTransform(outside, cv2.DIST_L2, 5) * plane.mean_mpp
        near = (distance > _BESIDE_UM[0]) & (distance <= _BESIDE_UM[1])
        signal.append(plane.signal[near])
        dab.append(plane.dab[near & (plane.signal > _TISSUE_OD)])
    brown, haze = _paler(dab), _paler(signal)
    return Between(brown_od=max(0.0, brown - _CLEAN_OD), haze_od=max(0.0, _HAZE_SHARE * haze))


def brown_outside_nuclei(planes: Sequence[Plane], found: Sequence[Measured]) -> float:
    """Share of the brown pixels that lie beyond a nucleus and its blur; 0 where there is hardly any brown."""
    outside = brown = 0
    for plane, nuclei in zip(planes, found, strict=True):
        is_brown = plane.dab > _BROWN_OD
        outside_um = (
            cv2.distanceTransform((nuclei.nuclei.labels == 0).astype(np.uint8), cv2.DIST_L2, 5) * plane.mean_mpp
        )
        brown += int(np.count_nonzero(is_brown))
        outside += int(np.count_nonzero(is_brown & (outside_um > _BESIDE_UM[0])))
    return outside / brown if brown >= _MIN_PIXELS else 0.0


def _paler(parts: list[npt.NDArray[np.float32]]) -> float:
    every = np.concatenate(parts)
    return float(np.quantile(every, _PALER)) if len(every) >= _MIN_PIXELS else 0.0
