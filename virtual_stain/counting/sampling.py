"""Which parts of a slide its stain is estimated from."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.background import estimate_background
from virtual_stain.counting.optical_density import Vector, hue, optical_density
from virtual_stain.errors import NoTissueError
from virtual_stain.geometry import Box, Size
from virtual_stain.slides.resolution import READING_RANGE, require_mpp
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.tissue import TissueMap
from virtual_stain.slides.window import read_window

U8 = npt.NDArray[np.uint8]

_GLASS_MARGIN_UM = 100.0  # away from tissue: no haze of it
_MIN_GLASS_PIXELS = 500


def sample_windows(slide: Slide, tissue: TissueMap, settings: CountingSettings) -> tuple[list[U8], float]:
    """Windows of `sample_window_um` on the tissue, and their µm/px.

    Half of them spread evenly over the tissue, half where the overview is brownest, so that a slide with few
    positive cells still shows some. Raises NoTissueError, ResolutionError.
    """
    mpp = require_mpp(slide, READING_RANGE)
    side = settings.sample_window_um
    px_mpp = min(max(mpp.x, mpp.y, settings.work_mpp / 2), settings.max_mpp)
    out = Size(max(1, round(side / px_mpp)), max(1, round(side / px_mpp)))
    boxes = [
        Box(x - side / mpp.x / 2, y - side / mpp.y / 2, side / mpp.x, side / mpp.y)
        for x, y in _centres(slide, tissue, side / 2 / mpp.x, settings.sample_windows)
    ]
    return [tissue.without_unknown(read_window(slide, box, out), box) for box in boxes], side / out.width


def _centres(slide: Slide, tissue: TissueMap, reach_px0: float, wanted: int) -> list[tuple[float, float]]:
    rows, columns = np.nonzero(tissue.mask)
    if len(rows) == 0:
        raise NoTissueError(f"{slide.name}: no tissue to estimate the stain from.")
    scale = tissue.px0_from_ov.scales[0]
    reach = max(1, round(reach_px0 / scale))
    background, _ = estimate_background([tissue.overview])
    density = optical_density(tissue.overview, background)
    brown = np.where((hue(density) > 0) & tissue.mask, density[..., 2], 0).astype(np.float32)
    kernel = (2 * reach + 1, 2 * reach + 1)
    weight = np.asarray(cv2.blur(tissue.mask.astype(np.float32), kernel), np.float32)
    brownest = np.asarray(cv2.blur(brown, kernel), np.float32) * tissue.mask
    chosen: list[tuple[int, int]] = []
    free = tissue.mask.astype(np.float32) * (weight + 1e-3)
    _pick(chosen, free, brownest, reach, wanted // 2)
    step = max(1, len(rows) // max(1, 4 * wanted))
    even = np.zeros_like(free)
    even[rows[step // 2 :: step], columns[step // 2 :: step]] = 1
    _pick(chosen, free, even * weight, reach, wanted)
    _pick(chosen, free, weight, reach, min(wanted, 1) if not chosen else 0)
    ov = np.array([(x + 0.5, y + 0.5) for y, x in chosen], np.float64)
    return [(float(x), float(y)) for x, y in tissue.px0_from_ov.apply(ov)]


def _pick(
    chosen: list[tuple[int, int]],
    free: npt.NDArray[np.float32],
    score: npt.NDArray[np.float32],
    reach: int,
    until: int,
) -> None:
    """Adds the highest scores one after the other, each at least a window away from the earlier ones."""
    while len(chosen) < until:
        candidate = np.where(free > 0, score, 0)
        row, column = (int(v) for v in np.unravel_index(int(candidate.argmax()), candidate.shape))
        if candidate[row, column] <= 0:
            return
        chosen.append((row, column))
        free[max(0, row - 2 * reach) : row + 2 * reach + 1, max(0, column - 2 * reach) : column + 2 * reach + 1] = 0


def sample_glass(slide: Slide, tissue: TissueMap) -> Vector | None:
    """Colour of the glass outside the tissue, or None where there is too little of it."""
    mpp = slide.mpp
    scale_um = tissue.px0_from_ov.scales[0] * (mpp.x if mpp is not None else 0.5)
    size = 2 * max(1, round(_GLASS_MARGIN_UM / scale_um)) + 1
    near = cv2.dilate(tissue.mask.astype(np.uint8), np.ones((size, size), np.uint8)) > 0
    x0, y0 = tissue.px0_from_ov.inverse().apply([slide.bounds.x, slide.bounds.y])
    x1, y1 = tissue.px0_from_ov.inverse().apply([slide.bounds.x1, slide.bounds.y1])
    scanned = np.zeros_like(near)
    scanned[max(0, int(np.ceil(y0))) : int(y1), max(0, int(np.ceil(x0))) : int(x1)] = True
    glass = tissue.overview[scanned & ~near]
    glass = glass[~(glass == 255).all(axis=1)] if (glass != 255).any() else glass
    if len(glass) < _MIN_GLASS_PIXELS:
        return None
    return _mode(glass)


def _mode(pixels: U8) -> Vector | None:
    """Colour of the most frequent brightness among the bright half; pen, dust and edges are rarer."""
    level = pixels.astype(np.int32).sum(axis=1) // 3
    counts = np.convolve(np.bincount(level, minlength=256), np.ones(5), mode="same")
    counts[: int(np.percentile(level, 25))] = 0
    peak = int(counts.argmax())
    near = pixels[np.abs(level - peak) <= 3]
    r, g, b = (float(v) for v in np.median(near, axis=0))
    return (r, g, b) if min(r, g, b) >= 150 else None
