"""Windows of a pair at more detail than the working images hold, read from the slides where they are needed.

The working images shrink with the size of the tissue; what they leave open is closed here by a bounded number of
windows, each read at a finer pixel size through the transform found so far. So the cost does not grow with the slide.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Affine2D, Box, Points, Size
from virtual_stain.registration.foreground import Colour, Foreground, absorbances
from virtual_stain.registration.raster import Image, Rgb, blur
from virtual_stain.registration.transform import PairTransform
from virtual_stain.registration.windows import Matches
from virtual_stain.registration.working import WorkingPair
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.window import read_window

_CONTEXT_PX = 8  # around the search square, so that filters see what lies beyond it
_BLUR_PX = 1.2
_THREADS = 2


@dataclass(frozen=True, slots=True)
class DetailPlan:
    """One pass over windows that do not overlap; lengths in px of the pass."""

    mpp: float
    """µm/px."""
    window: int = 96
    radius: int = 10
    count: int = 400
    """Windows at most."""
    pattern: int = 48
    """Structures larger than about this are taken out."""
    least_filled: float = 0.4
    """Tissue that a window must hold on both sides."""


def match_details(he: Slide, ihc: Slide, pair: WorkingPair, transform: PairTransform, plan: DetailPlan) -> Matches:
    """Correlates up to `plan.count` windows, spread evenly over the tissue; lengths of the result in working px.

    Raises SlideError naming file and region.
    """
    px = plan.mpp / pair.unit_px
    fixed, he_from_work = pair.fixed, pair.fixed.px0_from_work
    centres = _centres(pair, transform, plan, px)
    surfaces = np.zeros((len(centres), 2 * plan.radius + 1, 2 * plan.radius + 1), np.float32)
    side = plan.window + 2 * (plan.radius + _CONTEXT_PX)

    def surface(centre: Points) -> Image:
        he_from_out = he_from_work @ Affine2D.scale_and_shift(
            he_from_work.source, "out", (px, px), (centre[0] - px * side / 2, centre[1] - px * side / 2)
        )
        first, second = _both(he, ihc, transform, he_from_out, side)
        layers = _layers(first, fixed.glass, plan.pattern), _layers(second, pair.moving.glass, plan.pattern)
        return _surface(*layers, plan)

    with ThreadPoolExecutor(_THREADS) as threads:  # reading, resampling and correlating leave Python's lock
        for row, found in enumerate(threads.map(surface, centres)):
            surfaces[row] = found
    u = transform.displacement
    to_work = he_from_work.inverse().matrix
    base = np.zeros_like(centres)
    if u is not None:
        base = u.at(he_from_work.apply(centres)) * np.diag(to_work)[:2]
    return Matches(centres, base, surfaces, px)


def _centres(pair: WorkingPair, transform: PairTransform, plan: DetailPlan, px: float) -> Points:
    """float64[N, 2]: working px of the fixed side, on a square grid; each window holds tissue on both sides."""
    fixed = pair.fixed
    window = plan.window * px
    step = max(window, math.sqrt(fixed.tissue_px / plan.count))
    height, width = fixed.shape
    xs = np.arange(step / 2, width, step)
    ys = np.arange(step / 2, height, step)
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    offsets = np.stack(np.meshgrid(*[(np.arange(5) - 2) / 5 * window] * 2), axis=-1).reshape(-1, 2)
    points = (grid[:, None] + offsets).reshape(-1, 2)
    on_ihc = pair.moving.px0_from_work.inverse().apply(transform.to_ihc(fixed.px0_from_work.apply(points)))
    filled = np.minimum(_share(fixed, points, len(grid)), _share(pair.moving, on_ihc, len(grid)))
    kept: Points = grid[filled >= plan.least_filled]
    return kept


def _share(side: Foreground, points: Points, windows: int) -> npt.NDArray[np.float64]:
    column, row = np.floor(points).astype(np.intp).T
    height, width = side.shape
    known = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    inside = known & side.mask[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    result: npt.NDArray[np.float64] = inside.reshape(windows, -1).mean(axis=1)
    return result


def _both(he: Slide, ihc: Slide, transform: PairTransform, he_from_out: Affine2D, side: int) -> tuple[Rgb, Rgb]:
    """The H&E as it lies, and the IHC pulled under it."""
    (x0, y0), (x1, y1) = he_from_out.apply(np.array([[0.0, 0.0], [side, side]]))
    box = Box(float(x0), float(y0), float(x1 - x0), float(y1 - y0))
    out = Size(side, side)
    # over one window the displacement is as good as affine
    near = transform.local_affine(box.centre, reach_px0=max(box.width, box.height) / 2)
    ihc_from_out = near @ Affine2D("he_px0", "out", he_from_out.matrix)
    return read_window(he, box, out), _turned(ihc, ihc_from_out, side)


def _turned(slide: Slide, px0_from_out: Affine2D, side: int) -> Rgb:
    """What `read_warped_window` returns, a little softer and at half its cost: here only a pattern is sought."""
    around = Box.around(px0_from_out.apply(Box(0, 0, side, side).corners()))
    step = px0_from_out.scales[1]
    size = Size(math.ceil(around.width / step), math.ceil(around.height / step))
    upright = read_window(slide, around, size)
    scale = (around.width / size.width, around.height / size.height)
    px0_from_read = Affine2D.scale_and_shift(px0_from_out.target, "read", scale, (around.x, around.y))
    warp = (px0_from_read.inverse() @ px0_from_out).to_cv2()
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    turned = cv2.warpAffine(upright, warp, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(turned, np.uint8)


def _layers(rgb: Rgb, glass: Colour, pattern: int) -> tuple[Image, Image]:
    density, nuclei = (_normalised(blur(i, _BLUR_PX), pattern) for i in absorbances(rgb, glass))
    return density, nuclei


def _normalised(image: Image, side: int) -> Image:
    """Deviation from the mean of the square of `side` px around each pixel, over the deviation usual there."""
    deviation = image - cv2.blur(image, (side, side))
    variance = cv2.blur(deviation * deviation, (side, side))
    result: Image = deviation / np.sqrt(variance + np.float32(0.05 * float(variance.mean()) + 1e-5))
    return result


def _surface(fixed: tuple[Image, Image], moving: tuple[Image, Image], plan: DetailPlan) -> Image:
    inner, outer = _CONTEXT_PX + plan.radius, _CONTEXT_PX
    total = np.zeros((2 * plan.radius + 1,) * 2, np.float32)
    for f, m in zip(fixed, moving, strict=True):
        template = f[inner : inner + plan.window, inner : inner + plan.window]
        around = m[outer : outer + plan.window + 2 * plan.radius, outer : outer + plan.window + 2 * plan.radius]
        total += cv2.matchTemplate(around, template, cv2.TM_CCOEFF_NORMED)
    result: Image = np.clip(np.nan_to_num(total / len(fixed), posinf=0.0, neginf=0.0), -1.0, 1.0)
    return result
