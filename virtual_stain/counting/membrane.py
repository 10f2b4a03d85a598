"""Membranes: how much of a cell's border is stained, and how strongly (HER2, PD-L1).

Rays run from the outline of the nucleus outwards, at most `membrane_reach_um` and not further than a little beyond the
middle between two nuclei: what is stained there belongs to both cells, what lies nearer to the other to that one alone.
Along each the membrane is the darkest DAB; it must be a ridge: darker than the palest place within 2 µm on either side,
nucleus or cytoplasm. Brown cytoplasm without a darker border is no membrane. Completeness is the share of
the rays with a stained membrane. Intensity is the mean over those of the density summed across the membrane, over the
same sum of a membrane in focus: in an unsharp picture membranes are lower, but wider, and blur costs the sum half
of what it costs the peak.

Classes after ASCO/CAP (Wolff et al., J. Clin. Oncol. 36, 2018; affirmed 2023): 3+ complete and intense, 2+ complete and
weak to moderate, or intense but incomplete, 1+ faint and incomplete, 0 none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.contours import F32, F64, nearest_pixel, sample
from virtual_stain.counting.measure import Measured, Plane

_ANGLES = 32
_STEP_UM = 0.5
_SOLID_UM = 4.0  # across: wider than any membrane, narrower than a nucleus
# In nuclei of this size, four drawn slides of membrane markers hold 0 to 2 beside 840 to 910 cells. Of Ki67 counted as
# HER2, four pictures hold 20 to 892, and one with two positive nuclei in a hundred holds 3; a cytoplasmic stain 273.
_SOLID_NUCLEUS_UM2, _BROWN_FRACTION, _FEW_BROWN = 30.0, 0.02, 5
_SMOOTH_UM = 0.4
_STAND_OUT = 0.4  # of the membrane's own density, above the palest place on either side
_SIDE_STEPS = 4  # how far the sides reach
_INSIDE_STEPS = 1  # how far inside the outline a membrane may lie: outlines are half a pixel sure
_SHARED_STEPS = 2  # beyond the middle between two nuclei
_ACROSS = np.arange(-2, 3)  # steps across a membrane that hold its density; further out lies the next one
_IN_FOCUS_UM = 0.78  # sigma of a membrane 1.2 µm wide (0.6), in focus (0.26), after _SMOOTH_UM and the pixels (0.15)
_ACROSS_IN_FOCUS = np.float32(np.exp(-0.5 * np.square(_ACROSS * _STEP_UM / _IN_FOCUS_UM)).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Membranes:
    """Of N cells, in the order of the nuclei."""

    od: F32
    """float32[N]: mean DAB optical density of the stained part, as it is in focus; 0 where nothing is stained."""
    completeness: F32
    """float32[N]: stained share of the border, 0–1."""
    intensity: npt.NDArray[np.uint8]
    """uint8[N]: 0, 1, 2, 3 for 0, 1+, 2+, 3+."""


def measure_membranes(plane: Plane, found: Measured, settings: CountingSettings) -> Membranes:
    """Membranes around the nuclei of `found` in `plane`."""
    n = len(found)
    if n == 0:
        nothing = np.zeros(0, np.float32)
        return Membranes(nothing, nothing, np.zeros(0, np.uint8))
    mpp = plane.mean_mpp
    centre = np.round((found.xy / found.factor - 0.5) * 4) / 4  # a quarter pixel: the same offsets in every window
    radius = _radii(found, centre)
    reach = round(settings.membrane_reach_um / _STEP_UM)
    steps = np.arange(-_SIDE_STEPS - _INSIDE_STEPS, reach + _SIDE_STEPS + 1)
    profile, free = _profiles(plane, found, centre, np.maximum(radius[:, :, None] + steps * (_STEP_UM / mpp), 0))
    free &= (steps >= -_INSIDE_STEPS) & (steps <= reach)
    own = np.where(free, profile, -1)
    at, peak = own.argmax(axis=2)[..., None], np.maximum(own.max(axis=2), 0)
    index = np.arange(len(steps))
    sides = [
        np.where((index >= at - back) & (index <= at + on), profile, np.inf).min(axis=2)
        for back, on in ((_SIDE_STEPS, 0), (0, _SIDE_STEPS))
    ]
    palest = np.maximum(np.maximum(*sides), 0)
    stained = (peak >= settings.membrane_faint_od) & (peak - palest >= _STAND_OUT * peak)
    completeness = stained.mean(axis=1, dtype=np.float64).astype(np.float32)
    across = np.take_along_axis(profile, np.clip(at + _ACROSS, 0, len(steps) - 1), axis=2).sum(axis=2)
    density = np.where(stained, across / _ACROSS_IN_FOCUS, 0).sum(axis=1, dtype=np.float64)
    od = (density / np.maximum(stained.sum(axis=1), 1)).astype(np.float32)
    return Membranes(od, completeness, _intensity(od, completeness, settings))


def solid_brown_um2(plane: Plane, positive_od: float) -> float:
    """Area of the DAB of at least `positive_od` that is wider than a membrane: of nuclei or cytoplasm, µm²."""
    across = [2 * round(_SOLID_UM / 2 / mpp) + 1 for mpp in plane.mpp]
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (across[0], across[1]))
    brown = cv2.morphologyEx((plane.dab >= positive_od).astype(np.uint8), cv2.MORPH_OPEN, disc)
    return float(cv2.countNonZero(brown)) * plane.mpp[0] * plane.mpp[1]


def has_brown_nuclei(solid_um2: float, cells: int, stained: int) -> bool:
    """Whether `solid_brown_um2` amounts to more nuclei than `stained` membranes explain, of `cells` in all."""
    return solid_um2 / _SOLID_NUCLEUS_UM2 > max(_FEW_BROWN, _BROWN_FRACTION * cells, stained)


def _intensity(od: F32, completeness: F32, settings: CountingSettings) -> npt.NDArray[np.uint8]:
    """The rule at the top of this module."""
    some = completeness >= settings.membrane_some_fraction
    complete = completeness >= settings.membrane_complete_fraction
    strong = od >= settings.membrane_strong_od
    intensity = some.astype(np.uint8) + (some & (complete | strong)) + (complete & strong)
    return np.asarray(intensity, np.uint8)


def _radii(found: Measured, centre: F64) -> F64:
    """float64[N, A]: the nuclear outline on every ray, working pixels."""
    angle = np.arange(_ANGLES) * (2 * math.pi / _ANGLES)
    radius = np.empty((len(found), _ANGLES))
    for i, ring in enumerate(found.nuclei.polygon):
        offset = ring - 0.5 - centre[i]
        at = np.arctan2(offset[:, 1], offset[:, 0]) % (2 * math.pi)
        order = np.argsort(at, kind="stable")
        radius[i] = np.interp(angle, at[order], np.hypot(*offset.T)[order], period=2 * math.pi)
    return np.asarray(np.round(radius * 32) / 32, np.float64)


def _profiles(plane: Plane, found: Measured, centre: F64, distance: F64) -> tuple[F32, npt.NDArray[np.bool_]]:
    """DAB along the rays, float32[N, A, S], and where they have not met another nucleus yet, bool[N, A, S]."""
    size = 2 * math.ceil(3 * _SMOOTH_UM / plane.mean_mpp) + 1
    dab = cv2.GaussianBlur(plane.dab, (size, size), _SMOOTH_UM / plane.mean_mpp, borderType=cv2.BORDER_REFLECT_101)
    angle = np.arange(_ANGLES) * (2 * math.pi / _ANGLES)
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, None, :]
    labels = found.nuclei.labels
    # to which nucleus every pixel is nearest
    row, column = distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    nearest = labels[row, column]
    profile = np.empty(distance.shape, np.float32)
    owner = np.empty(distance.shape, np.int32)
    for i in range(len(found)):
        offset = unit * distance[i][..., None]
        profile[i] = sample(np.asarray(dab, np.float32), centre[i : i + 1], offset)[0]
        column, row = np.moveaxis(nearest_pixel(offset + centre[i]), 2, 0)
        owner[i] = nearest[np.clip(row, 0, labels.shape[0] - 1), np.clip(column, 0, labels.shape[1] - 1)]
    # from the outline on: inside the nucleus all is its own
    foreign = np.logical_or.accumulate(owner != np.arange(1, len(found) + 1)[:, None, None], axis=2)
    free = np.ones_like(foreign)
    free[:, :, _SHARED_STEPS:] = ~foreign[:, :, :-_SHARED_STEPS]
    return profile, free
