"""Pen strokes on an overview: coloured by ratios of optical densities that no H&E or DAB stain has, black by darkness
without colour in strokes of limited width."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.slides.glass import Float

Mask = npt.NDArray[np.bool_]

_WIDEST_STROKE_UM = 2000.0  # a wider black area is a section (silver stain), not a stroke
_SMALLEST_STROKE_UM2 = 15_000.0  # smaller black spots are pigment or dust
_RIM_UM = 60.0  # blurred rim of a stroke, which has half its colour
_BLACK_RIM_UM = 120.0  # black shows through more of it
_REACH_UM = 500.0  # how far a stroke's darker or mixed parts lie from its pure colour
_THINNEST_STROKE_UM = 60.0  # of red pen; thinner is blood


def pen_mask(od: Float, stained: Mask, mpp_um: float) -> Mask:
    """bool[H, W]: pen, on glass or over tissue, from smoothed optical density float32[3, H, W] at `mpp_um` µm/px.

    `stained`: everything that is not glass.
    """
    r, g, b = od
    # green: blue is absorbed as well as red, which haematoxylin and eosin never do without green
    mask = _grown((r > 0.12) & (r > 1.8 * g) & (b > 0.75 * g), (r > 0.25) & (r > 1.05 * g), mpp_um)
    # blue: haematoxylin alone is blue too, but r - b stays below 0.12 at an overview's pixel size
    mask |= _grown((r - b > 0.18) & (r > 1.35 * g), (r - b > 0.06) & (r > 1.35 * g), mpp_um)
    # red: eosin lets blue through, (b - r) / g up to 0.5; pens do not, 0.6 and more; DAB absorbs red too.
    # Blood comes close to it, so that a seed has to be as dark and as broad as a stroke
    strong = _opened((g > 0.35) & (b - r > 0.58 * g) & (b < 1.3 * g), _THINNEST_STROKE_UM / 2 / mpp_um)
    weak = ((g > 0.06) & (b - r > 0.54 * g)) | ((g > 0.6) & (b > 0.75 * g) & (b < 1.05 * g))
    mask |= _grown(strong, weak, mpp_um)
    low, high = od.min(axis=0), od.max(axis=0)
    # folds and crowded nuclei are dark as well, but magenta: green is absorbed most; dense DAB leaves some red
    neutral = g < 0.56 * (r + b)
    black = neutral & (low > 0.55) & (high - low < 0.2 * high)
    strokes = _grown(_strokes(black, mpp_um), neutral & (low > 0.3) & (high - low < 0.4 * high), mpp_um)
    strokes = _dilated(strokes, _BLACK_RIM_UM / mpp_um)
    return (_dilated(mask, _RIM_UM / mpp_um) | strokes) & stained


def _grown(seeds: Mask, mixed: Mask, mpp_um: float) -> Mask:
    """The parts of `mixed` that touch a seed and lie within reach of one."""
    if not seeds.any():
        return seeds
    within = mixed & _dilated(seeds, _REACH_UM / mpp_um) | seeds
    _, labels = cv2.connectedComponents(within.astype(np.uint8), connectivity=8)
    touched = np.zeros(int(labels.max()) + 1, np.bool_)
    touched[np.unique(labels[seeds])] = True
    touched[0] = False
    return np.asarray(touched[labels], np.bool_)


def _opened(mask: Mask, radius_px: float) -> Mask:
    """Without parts narrower than twice the radius."""
    if radius_px < 1 or not mask.any():
        return mask
    return mask & _dilated(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5) > radius_px, radius_px + 1)


def _strokes(dark: Mask, mpp_um: float) -> Mask:
    """Dark parts large enough for a stroke and nowhere wider than one."""
    if not dark.any():
        return dark
    half_width = cv2.distanceTransform(dark.astype(np.uint8), cv2.DIST_L2, 5)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] * mpp_um**2 >= _SMALLEST_STROKE_UM2
    keep[0] = False
    keep[np.unique(labels[2 * half_width * mpp_um > _WIDEST_STROKE_UM])] = False
    return np.asarray(keep[labels], np.bool_)


def _dilated(mask: Mask, radius_px: float) -> Mask:
    """Grown by a Euclidean radius; a distance transform costs the same for any radius."""
    if not mask.any() or radius_px < 1:
        return mask
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(distance <= radius_px, np.bool_)
