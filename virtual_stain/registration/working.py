"""Both sides at one working resolution: cropped to the tissue, square pixels, the same µm/px where that is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from virtual_stain.config.registration import RegistrationSettings
from virtual_stain.errors import NoTissueError
from virtual_stain.geometry import Affine2D
from virtual_stain.registration.foreground import Foreground, make_foreground
from virtual_stain.registration.raster import Mask, Rgb

_MARGIN_FRACTION = 0.06
_LONGEST_SIDE = 2.6  # of the working image, in units of work_px: scattered fragments get a coarser resolution
_SCALE_STEP = 1.15
_MOST_ENLARGED = 2.0  # beyond that a coarse overview gains pixels and no detail


@dataclass(frozen=True, slots=True, eq=False)
class SideImage:
    """An overview, its tissue, and where its pixels lie."""

    rgb: Rgb
    mask: Mask
    px0_from_ov: Affine2D
    """target "he_px0" or "ihc_px0", source "ov"; scale and shift only."""
    mpp: tuple[float, float] | None
    """µm per level-0 px."""
    warnings: tuple[str, ...] = ()
    """About its tissue."""

    @property
    def unit_per_ov(self) -> tuple[float, float]:
        """µm (px0 without mpp) per overview px along x and y."""
        scale = self.px0_from_ov.matrix[0, 0], self.px0_from_ov.matrix[1, 1]
        mpp = self.mpp or (1.0, 1.0)
        return scale[0] * mpp[0], scale[1] * mpp[1]


@dataclass(frozen=True, slots=True, eq=False)
class WorkingPair:
    """`unit_px`: µm per working px (H&E level-0 px per working px without pixel sizes)."""

    fixed: Foreground
    moving: Foreground
    unit_px: float
    scales: tuple[float, ...]
    """Moving working px per fixed working px to start from."""
    coarsest_px: float = 1.0
    """Working px per px of the coarser overview: above 1 it was enlarged."""


def wanted_resolution(side: SideImage, settings: RegistrationSettings) -> float:
    """µm (px0 without mpp) per working px for this side's tissue."""
    ys, xs = np.nonzero(side.mask)
    if not len(xs):
        raise NoTissueError("Expected tissue to register. Received: an overview without any.")
    ux, uy = side.unit_per_ov
    by_area = math.sqrt(len(xs) * ux * uy) / settings.work_px
    longest = max((xs.max() - xs.min() + 1) * ux, (ys.max() - ys.min() + 1) * uy)
    return float(max(by_area, longest / (_LONGEST_SIDE * settings.work_px)))


def prepare(he: SideImage, ihc: SideImage, settings: RegistrationSettings) -> WorkingPair:
    """Raises NoTissueError when a side has none."""
    known = he.mpp is not None and ihc.mpp is not None
    unit_he, unit_ihc = wanted_resolution(he, settings), wanted_resolution(ihc, settings)
    if known:
        finest = _finest(max(he.unit_per_ov), max(ihc.unit_per_ov))
        unit_he = unit_ihc = max(min(unit_he, unit_ihc), finest, settings.finest_mpp)
        scales: tuple[float, ...] = (1.0,)
    else:
        he, ihc = SideImage(he.rgb, he.mask, he.px0_from_ov, None), SideImage(ihc.rgb, ihc.mask, ihc.px0_from_ov, None)
        # both tissues get the same area; a side whose overview is too small for that takes the other one down with it
        excess = max(_finest(max(he.unit_per_ov) / unit_he, max(ihc.unit_per_ov) / unit_ihc), 1.0)
        unit_he, unit_ihc = unit_he * excess, unit_ihc * excess
        low, high = settings.unknown_scale_range
        count = math.ceil(math.log(high / low) / math.log(_SCALE_STEP)) + 1
        scales = tuple(float(s) for s in np.geomspace(low, high, count))
    coarsest_px = max(max(he.unit_per_ov) / unit_he, max(ihc.unit_per_ov) / unit_ihc, 1.0)
    return WorkingPair(_foreground(he, unit_he), _foreground(ihc, unit_ihc), unit_he, scales, coarsest_px)


def _finest(he: float, ihc: float) -> float:
    """The finest working pixel that two overviews allow whose pixels are this large.

    The finer one rules, so that windows keep their size in µm when only one side was scanned coarsely; the coarser one
    is enlarged for that, within reason.
    """
    return max(min(he, ihc), max(he, ihc) / _MOST_ENLARGED)


def _foreground(side: SideImage, unit_px: float) -> Foreground:
    x0, y0, x1, y1 = tissue_box(side.mask)
    rgb, mask = side.rgb[y0:y1, x0:x1], side.mask[y0:y1, x0:x1]
    ux, uy = side.unit_per_ov
    size = (max(8, round((x1 - x0) * ux / unit_px)), max(8, round((y1 - y0) * uy / unit_px)))
    ov_from_work = Affine2D.scale_and_shift("ov", "work", ((x1 - x0) / size[0], (y1 - y0) / size[1]), (x0, y0))
    if size != (x1 - x0, y1 - y0):
        # averaging over areas repeats pixels when it enlarges
        how = cv2.INTER_AREA if size[0] <= x1 - x0 and size[1] <= y1 - y0 else cv2.INTER_CUBIC
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=how), np.uint8)
        mask = cv2.resize(mask.astype(np.float32), size, interpolation=how) > 0.5
    return make_foreground(rgb, mask, side.px0_from_ov @ ov_from_work)


def tissue_box(mask: Mask) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the tissue with a margin, inside the image."""
    ys, xs = np.nonzero(mask)
    margin = round(_MARGIN_FRACTION * math.hypot(np.ptp(xs) + 1, np.ptp(ys) + 1))
    height, width = mask.shape
    return (
        max(int(xs.min()) - margin, 0),
        max(int(ys.min()) - margin, 0),
        min(int(xs.max()) + 1 + margin, width),
        min(int(ys.max()) + 1 + margin, height),
    )
