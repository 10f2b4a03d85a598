"""The tissue mask of one overview picture.

Stained tissue differs from glass by colour (haematoxylin, eosin and DAB absorb the three channels unequally) and by
texture; grey glass, shadows and streaks have neither or only one. Pale counterstain and unstained stroma show little
colour, so texture decides there; pen, lines and dust are then taken away by colour, width and size.
Optical density against the slide's own glass makes the thresholds independent of lamp and white balance, as far as
glass is found (`glass.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.config.tissue import TissueSettings
from virtual_stain.slides.glass import (
    FAINT_TEXTURE_OD,
    TEXTURE_UM,
    glass_color,
    local_spread,
    optical_density,
    smoothed,
)
from virtual_stain.slides.pen import pen_mask
from virtual_stain.slides.source import Rgb

Mask = npt.NDArray[np.bool_]

_WORKING_MPP = 8.0  # finer pictures are reduced to this: the thresholds below are tuned for it
_SMOOTH_UM = 12.0  # below the size of a gland, above camera noise
_SHARP_UM = 4.0  # for where tissue ends
_RIM_UM = 12.0  # as far as smoothing carries tissue over glass
_LINE_UM = 60.0  # half width of cover-slip edges and threads
_STAINED_SHARE = 0.5  # of a piece, from which its shape and place say nothing against it
_FAT_UM = 50.0  # half width of a fat cell: its wall is tissue, its lumen looks like glass


@dataclass(frozen=True, slots=True, eq=False)
class TissueParts:
    """Of an overview: what is tissue, and what a rule took away although it is stained."""

    mask: Mask
    """bool[H, W]."""
    removed: Mask
    """bool[H, W]: stained pieces that are too small, or thin and straight at the edge."""


def tissue_mask(rgb: Rgb, mpp_um: float, settings: TissueSettings) -> Mask:
    """bool[H, W]: stained tissue in an overview uint8[H, W, 3] at `mpp_um` µm/px; pen, dust and lines left out."""
    return tissue_parts(rgb, mpp_um, settings).mask


def tissue_parts(rgb: Rgb, mpp_um: float, settings: TissueSettings) -> TissueParts:
    """`tissue_mask`, and what its rules for dust and lines took away."""
    height, width = rgb.shape[:2]
    if mpp_um >= _WORKING_MPP / 1.5:
        return _parts(rgb, mpp_um, settings)
    size = max(1, round(width * mpp_um / _WORKING_MPP)), max(1, round(height * mpp_um / _WORKING_MPP))
    small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    parts = _parts(small, _WORKING_MPP, settings)
    full = (
        cv2.resize(m.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        for m in (parts.mask, parts.removed)
    )
    return TissueParts(*full)


def _parts(rgb: Rgb, mpp_um: float, settings: TissueSettings) -> TissueParts:
    od = optical_density(rgb, glass_color(rgb, mpp_um))
    texture = local_spread(od.mean(axis=0), TEXTURE_UM / mpp_um)
    sharp = smoothed(od.mean(axis=0), _SHARP_UM / mpp_um)
    od = np.stack([smoothed(plane, _SMOOTH_UM / mpp_um) for plane in od])
    density, color = od.mean(axis=0), od.max(axis=0) - od.min(axis=0)

    stained = (color > settings.min_color_od) & (density > settings.min_density_od)
    faint = (color > settings.min_color_od / 3) & (density > settings.min_density_od) & (texture > FAINT_TEXTURE_OD)
    grey = (density > 1.5 * settings.min_density_od) & (texture > 0.015)
    pen = pen_mask(od, stained | faint | grey, mpp_um)

    certain = (stained | faint) & ~pen
    pale = (color > settings.min_color_od / 5) & (density > settings.min_density_od / 2.5) & (texture > 0.01)
    mask = certain | _opened(grey & ~pen, _LINE_UM / mpp_um)
    found = (_joined(mask, _closed((pale & ~pen) | mask, _FAT_UM / mpp_um)) | certain) & ~pen
    mask = _without_lines(found, stained & ~pen, mpp_um)
    mask = _without_small(mask, settings.min_area_um2 / mpp_um**2)
    removed = found & ~mask & stained
    mask = _filled(mask, settings.max_hole_um2 / mpp_um**2) & ~pen
    mask = _trimmed(mask, sharp < settings.min_density_od, mpp_um)
    return TissueParts(mask, removed & ~mask)


def _trimmed(mask: Mask, glass: Mask, mpp_um: float) -> Mask:
    """Without the rim of glass into which smoothing spreads the tissue: a needle core of 0.4 mm gains a tenth by it."""
    near = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5) <= _RIM_UM / mpp_um
    return np.asarray(mask & ~(near & glass), np.bool_)


def _joined(certain: Mask, wider: Mask) -> Mask:
    """The parts of `wider` that are certain in good part: fat and pale stroma count beside tissue, not alone."""
    count, labels = cv2.connectedComponents(wider.astype(np.uint8), connectivity=8)
    area = np.bincount(labels.ravel(), minlength=count)
    known = np.bincount(labels[certain], minlength=count)
    keep = known >= 0.1 * area
    keep[0] = False
    return np.asarray(keep[labels], np.bool_)


def _disk(radius_px: float) -> npt.NDArray[np.uint8]:
    side = 2 * max(1, round(radius_px)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _opened(mask: Mask, radius_px: float) -> Mask:
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _disk(radius_px)) > 0


def _closed(mask: Mask, radius_px: float) -> Mask:
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _disk(radius_px)) > 0


def _without_small(mask: Mask, min_px: float) -> Mask:
    """Without islands smaller than `min_px`; what the picture's edge cuts is judged by the part one sees."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= min(min_px, mask.size / 2)
    keep[0] = False
    return np.asarray(keep[labels], np.bool_)


def _filled(mask: Mask, max_hole_px: float) -> Mask:
    holes = ~mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(holes.astype(np.uint8), connectivity=4)
    x, y, w, h = (stats[:, i] for i in (cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP, cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT))
    height, width = mask.shape
    inner = (x > 0) & (y > 0) & (x + w < width) & (y + h < height)
    fill = inner & (stats[:, cv2.CC_STAT_AREA] <= max_hole_px)
    fill[0] = False
    return np.asarray(mask | fill[labels], np.bool_)


def _without_lines(mask: Mask, stained: Mask, mpp_um: float) -> Mask:
    """Without the edges of the cover slip: straight thin lines, and what lies between them and the picture's edge.

    A needle core has the same shape and may lie as near to the edge, but it is stained; `stained` decides.
    """
    thin = mask & ~_opened(mask, _LINE_UM * 2 / mpp_um)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(thin.astype(np.uint8), connectivity=8)
    drop = np.zeros(count, np.bool_)
    long_enough = np.flatnonzero(stats[1:, cv2.CC_STAT_WIDTH : cv2.CC_STAT_HEIGHT + 1].max(axis=1) * mpp_um > 2000) + 1
    for index in long_enough:
        points = np.argwhere(labels == index)[:, ::-1].astype(np.float32)
        sides = sorted(cv2.minAreaRect(points)[1])
        drop[index] = sides[0] * 12 < sides[1]
    mask = mask & ~(drop & ~_coloured(labels, stained, count))[labels]
    height, width = mask.shape
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = np.ones(count, np.bool_)
    for length, along, across, start, end in (
        (width, cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_TOP, height),
        (height, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_WIDTH, cv2.CC_STAT_LEFT, width),
    ):
        near = (stats[:, start] < 0.1 * end) | (stats[:, start] + stats[:, across] > 0.9 * end)
        thin_band = stats[:, cv2.CC_STAT_AREA] < 0.06 * length * stats[:, along]
        keep &= ~(near & thin_band & (stats[:, along] > 0.6 * length) & (stats[:, across] < 0.15 * length))
    keep |= _coloured(labels, stained, count)
    keep[0] = False
    return np.asarray(keep[labels], np.bool_)


def _coloured(labels: npt.NDArray[Any], stained: Mask, count: int) -> Mask:
    """bool[count]: which pieces are stained for the most part."""
    area = np.bincount(labels.ravel(), minlength=count)
    return np.asarray(np.bincount(labels[stained], minlength=count) > _STAINED_SHARE * area, np.bool_)
