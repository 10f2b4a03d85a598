"""The places where a registration is least sure, both sides beside each other at full resolution.

If even there the structures lie on each other, the pair is right; what an estimate claims, a person can see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from virtual_stain.geometry import Affine2D, Box, Points, Size
from virtual_stain.registration.overlay import checkerboard
from virtual_stain.registration.raster import Rgb
from virtual_stain.registration.result import Registration
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.window import read_warped_window, read_window

_MOST_PX, _LEAST_PX = 384, 96
_SHARE = 3.0  # of the tissue along its longer side: on a small picture three windows are three places
_FINEST_MPP = 0.5
_LEAST_COVERED = 0.5
_GAP_PX = 6
_WINDOWS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Closeup:
    """One place of the H&E, and what lies there."""

    centre_px0: tuple[float, float]
    """H&E level-0 px."""
    median: float
    """Stated there, in the unit of the evidence; infinite where the tissue lies elsewhere."""
    p95: float
    picture: Rgb
    """uint8[H, W, 3]: H&E, warped IHC, checkerboard of both, from left to right."""
    mpp: float | None
    """µm/px of the picture."""


def worst_windows(
    he: Slide, ihc: Slide, registration: Registration, otherwise: Points | None = None, count: int = _WINDOWS
) -> list[Closeup]:
    """Up to `count` places, worst first, none beside another, all of them on both scans. Raises SlideError.

    `otherwise`: float64[N, 2] H&E level-0 px, the places to show, first ones first, where no window measured
    anything: a person looks at an unproven pair most of all.
    """
    evidence = registration.evidence
    centres = evidence.centres_px0[~evidence.bare.at(evidence.centres_px0)]  # nothing lies there to be compared
    if not len(evidence.centres_px0) and otherwise is not None:
        centres = otherwise
    if not len(centres):
        return []
    median, p95 = evidence.errors_at(centres)
    unit = np.array(evidence.unit_per_px0)
    step = _px0_per_px(he, ihc, registration)
    side = round(float(np.clip((np.ptp(centres, axis=0) / step).max() / _SHARE, _LEAST_PX, _MOST_PX)))
    chosen: list[Closeup] = []
    for i in np.argsort(-p95, kind="stable"):
        near = [np.abs((centres[i] - c.centre_px0) / (step * side)).max() < 1 for c in chosen]
        if any(near):
            continue
        picture = _picture(he, ihc, registration, centres[i], step, side)
        if picture is not None:
            mpp = None if he.mpp is None or ihc.mpp is None else float((step * unit).mean())
            place = float(centres[i][0]), float(centres[i][1])
            chosen.append(Closeup(place, float(median[i]), float(p95[i]), picture, mpp))
        if len(chosen) == count:
            break
    return chosen


def _px0_per_px(he: Slide, ihc: Slide, registration: Registration) -> Points:
    """float64[2]: H&E level-0 px per picture px along x and y: the finer side's own, but not below 0.5 µm."""
    if he.mpp is None or ihc.mpp is None:
        return np.ones(2) * max(1.0, 1.0 / registration.transform.ihc_from_he.scales[1])
    mpp = max(_FINEST_MPP, min(he.mpp.x, ihc.mpp.x))
    return np.array([mpp / he.mpp.x, mpp / he.mpp.y])


def _picture(he: Slide, ihc: Slide, registration: Registration, centre: Points, step: Points, side: int) -> Rgb | None:
    half = step * side / 2
    box = Box(float(centre[0] - half[0]), float(centre[1] - half[1]), float(2 * half[0]), float(2 * half[1]))
    out = Size(side, side)
    he_from_out = Affine2D.scale_and_shift("he_px0", "out", (float(step[0]), float(step[1])), (box.x, box.y))
    near = registration.transform.local_affine(box.centre, reach_px0=float(half.max()))

    def to_ihc(points: Points) -> Points:
        return registration.transform.to_ihc(he_from_out.apply(points))

    warped, valid = read_warped_window(ihc, near @ he_from_out, out, to_ihc)
    if valid.mean() < _LEAST_COVERED:
        return None
    first = read_window(he, box, out)
    gap = np.full((side, _GAP_PX, 3), 255, np.uint8)
    return np.asarray(np.concatenate([first, gap, warped, gap, checkerboard(first, warped, 6)], axis=1), np.uint8)
