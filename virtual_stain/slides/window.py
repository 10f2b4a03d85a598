"""Windows of a slide at any pixel size: the one way in which tiles are read, for building and for scoring.

`read_window` resamples an upright box, `read_warped_window` follows a transform. Both read one enclosing region of
the largest level that is not coarser than the result, and average over area where they shrink.

The filter is Pillow's bicubic, whose support grows with the scale when it shrinks. Measured on a ramp, the largest
displacement over scales 1–6, in pixels of the result: bicubic 0.013, bilinear 0.07, Hamming 0.17, BOX 0.5 (it takes or
leaves whole source pixels; 0.26 at the common 1353 → 1024 px). It also keeps most contrast after Lanczos.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from virtual_stain.geometry import Affine2D, Box, Points, Size
from virtual_stain.slides.source import Levels, Patch, Rgb

Plane = npt.NDArray[np.float64]  # float64[H, W], one coordinate of every pixel

_MAX_REGION_PX = 48_000_000  # larger windows are read in parts (a slide without pyramid): memory stays bounded
_SLACK = 1.001  # a level this much coarser than asked for still counts as fine enough (rounding of mpp)
MAX_FINENESS = 3  # samples per output pixel and axis of a warped window; more cost more than they show
_BLOCK_PX = 4  # a displacement is asked for once in so many pixels
_MARGIN_PX = 4  # source px around a region, for interpolation between its outermost pixels


def best_level(slide: Levels, px0_per_out: float) -> int:
    """The coarsest level whose pixels are not larger than `px0_per_out` level-0 px."""
    fitting = [i for i, scale in enumerate(slide.level_scales) if max(scale) <= px0_per_out * _SLACK]
    return max(fitting, key=lambda i: max(slide.level_scales[i]), default=0)


def read_window(slide: Levels, box: Box, out: Size) -> Rgb:
    """uint8[out.height, out.width, 3]: the box (level-0 px, sub-pixel) resampled to `out`; white outside the scan.

    Raises SlideError naming file and region.
    """
    step_x, step_y = box.width / out.width, box.height / out.height
    level = best_level(slide, min(step_x, step_y))
    scale_x, scale_y = slide.level_scales[level]
    if out.area > 1 and (box.width / scale_x) * (box.height / scale_y) > _MAX_REGION_PX:
        return _read_in_halves(slide, box, out)
    margin_x, margin_y = 2 * max(step_x, scale_x), 2 * max(step_y, scale_y)  # the filter's reach
    around = Box(box.x - margin_x, box.y - margin_y, box.width + 2 * margin_x, box.height + 2 * margin_y)
    patch = _read_enclosing(slide, level, around)
    (x0, y0), (x1, y1) = patch.px0_from_patch.inverse().apply([[box.x, box.y], [box.x1, box.y1]])
    return _resize(patch.image, (x0, y0, x1, y1), out)


def _read_in_halves(slide: Levels, box: Box, out: Size) -> Rgb:
    image = np.empty((out.height, out.width, 3), np.uint8)
    if out.width >= out.height:
        half = out.width // 2
        cut = box.width * half / out.width
        image[:, :half] = read_window(slide, Box(box.x, box.y, cut, box.height), Size(half, out.height))
        rest = Box(box.x + cut, box.y, box.width - cut, box.height)
        image[:, half:] = read_window(slide, rest, Size(out.width - half, out.height))
    else:
        half = out.height // 2
        cut = box.height * half / out.height
        image[:half] = read_window(slide, Box(box.x, box.y, box.width, cut), Size(out.width, half))
        rest = Box(box.x, box.y + cut, box.width, box.height - cut)
        image[half:] = read_window(slide, rest, Size(out.width, out.height - half))
    return image


def _read_enclosing(slide: Levels, level: int, box: Box) -> Patch:
    """The whole pixels of `level` that cover `box`, and a margin for the filters."""
    scale_x, scale_y = slide.level_scales[level]
    x, y = math.floor(box.x / scale_x) - _MARGIN_PX, math.floor(box.y / scale_y) - _MARGIN_PX
    x1, y1 = math.ceil(box.x1 / scale_x) + _MARGIN_PX, math.ceil(box.y1 / scale_y) + _MARGIN_PX
    return slide.read_patch(level, x, y, Size(x1 - x, y1 - y))


def _resize(image: Rgb, box: tuple[float, float, float, float], out: Size) -> Rgb:
    return np.asarray(Image.fromarray(image).resize((out.width, out.height), Image.Resampling.BICUBIC, box=box))


def read_warped_window(
    slide: Levels,
    slide_from_out: Affine2D,
    out: Size,
    displaced: Callable[[Points], Points] | None = None,
) -> tuple[Rgb, npt.NDArray[np.bool_]]:
    """The picture that `out` sees of `slide`: uint8[H, W, 3], and bool[H, W]: the pixel's centre lies in `bounds`.

    `slide_from_out` maps points of the output image (pixel centres at + 0.5) to level-0 px. Where `displaced` is
    given, it alone says where the pixels lie (float64[N, 2] of the output → float64[N, 2] px0), and `slide_from_out`
    only how large they are. White outside the scan. Raises SlideError naming file and region.
    """
    x, y = _centres_px0(slide_from_out, out, displaced)
    finest = slide_from_out.scales[1]
    level = best_level(slide, finest)
    pixel = max(slide.level_scales[level])
    seen = Box(float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y)))
    wanted = Box.around(slide_from_out.apply(Box(0, 0, out.width, out.height).corners()))
    if not wanted.expanded(4 * out.diagonal * slide_from_out.scales[0]).contains(seen):
        raise ValueError(f"Expected displaced positions near those of slide_from_out, {wanted}. Received: {seen}")
    around = seen.expanded(2 * max(slide_from_out.scales[0], pixel))
    # shrinking: sample as finely as the source, then reduce as `read_window` does, and nothing aliases
    fineness = fineness_of(finest, pixel)
    patch = _read_reduced(slide, level, around, finest)
    to_patch = patch.px0_from_patch.inverse()
    if displaced is None:
        image = _warp(patch.image, to_patch @ Affine2D("px0", "out", slide_from_out.matrix), out, fineness)
    else:
        (scale_x, _, shift_x), (_, scale_y, shift_y) = to_patch.matrix[:2]
        image = _remap(patch.image, (x * scale_x + shift_x, y * scale_y + shift_y), fineness)
    b, inner = slide.bounds, np.s_[1:-1, 1:-1]
    return image, (x[inner] >= b.x) & (x[inner] < b.x1) & (y[inner] >= b.y) & (y[inner] < b.y1)


def _centres_px0(
    slide_from_out: Affine2D, out: Size, displaced: Callable[[Points], Points] | None
) -> tuple[Plane, Plane]:
    """x and y, each float64[H + 2, W + 2]: px0 of every pixel centre, and of one ring around the image."""
    u, v = np.arange(-1, out.width + 1)[None, :] + 0.5, np.arange(-1, out.height + 1)[:, None] + 0.5
    if displaced is None:
        m = slide_from_out.matrix
        return m[0, 0] * u + (m[0, 1] * v + m[0, 2]), m[1, 0] * u + (m[1, 1] * v + m[1, 2])
    return _displaced_centres(out, displaced)


def _displaced_centres(out: Size, displaced: Callable[[Points], Points]) -> tuple[Plane, Plane]:
    """`displaced` at the middle of every block of `_BLOCK_PX`², linear between: exact for an affine map, and within
    0.01 px for a displacement that bends as little as tissue does."""
    across, down = (math.ceil((n + 2) / _BLOCK_PX) + 2 for n in (out.width, out.height))
    # one block more on every side: the resize repeats its outermost blocks instead of going on beyond them
    u, v = ((np.arange(n) - 0.5) * _BLOCK_PX - 1 for n in (across, down))
    points = np.stack([np.tile(u, down), np.repeat(v, across)], axis=-1)
    mapped = np.asarray(displaced(points), np.float64)
    if mapped.shape != points.shape or not np.isfinite(mapped).all():
        raise ValueError(f"Expected finite positions of shape {points.shape}. Received: shape {mapped.shape}")
    fine = (across * _BLOCK_PX, down * _BLOCK_PX)
    inner = np.s_[_BLOCK_PX : _BLOCK_PX + out.height + 2, _BLOCK_PX : _BLOCK_PX + out.width + 2]
    planes = (np.ascontiguousarray(mapped[:, i].reshape(down, across)) for i in (0, 1))
    x, y = (np.asarray(cv2.resize(p, fine, interpolation=cv2.INTER_LINEAR), np.float64)[inner] for p in planes)
    return x, y


def _read_reduced(slide: Levels, level: int, around: Box, finest: float) -> Patch:
    """The region around the window, made coarser until at most `MAX_FINENESS` of its pixels fall on one of `out`."""
    pixel = max(slide.level_scales[level])
    factor = finest / pixel / MAX_FINENESS
    if factor <= 1:
        return _read_enclosing(slide, level, around)
    step = pixel * factor
    size = Size(math.ceil(around.width / step), math.ceil(around.height / step))
    image = read_window(slide, Box(around.x, around.y, size.width * step, size.height * step), size)
    return Patch(image, Affine2D.scale_and_shift("px0", "patch", (step, step), (around.x, around.y)))


def _warp(image: Rgb, patch_from_out: Affine2D, out: Size, fineness: int) -> Rgb:
    fine = Affine2D.scale_and_shift("out", "fine", (1 / fineness, 1 / fineness))
    warped = cv2.warpAffine(
        image,
        (patch_from_out @ fine).to_cv2(),
        (out.width * fineness, out.height * fineness),
        flags=interpolation(fineness) | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(255, 255, 255),
    )
    return shrunk(np.asarray(warped, np.uint8), fineness)


def _remap(image: Rgb, centres: tuple[Plane, Plane], fineness: int) -> Rgb:
    """`centres`: x and y in px of `image`, with the ring, so that the finer map needs no extrapolation."""
    maps = [(plane - 0.5).astype(np.float32) for plane in centres]  # cv2 puts the first pixel's centre at 0
    if fineness > 1:
        height, width = maps[0].shape
        size = width * fineness, height * fineness
        maps = [np.asarray(cv2.resize(m, size, interpolation=cv2.INTER_LINEAR), np.float32) for m in maps]
    x, y = (np.ascontiguousarray(m[fineness:-fineness, fineness:-fineness]) for m in maps)
    warped = cv2.remap(
        image, x, y, interpolation(fineness), borderMode=cv2.BORDER_CONSTANT, borderValue=(255, 255, 255)
    )
    return shrunk(np.asarray(warped, np.uint8), fineness)


def fineness_of(px0_per_out: float, pixel: float) -> int:
    """Samples per output pixel and axis, 1 to `MAX_FINENESS`, of a level whose pixels are `pixel` level-0 px wide."""
    return max(1, min(MAX_FINENESS, math.ceil(px0_per_out / pixel / _SLACK)))


def interpolation(fineness: int) -> int:
    """OpenCV's filter for so many samples per output pixel and axis."""
    # OpenCV's cubic is up to 0.05 px off between the pixels, Lanczos 0.014; samples that are averaged cancel it out
    return cv2.INTER_LANCZOS4 if fineness == 1 else cv2.INTER_CUBIC


def shrunk(image: Rgb, fineness: int) -> Rgb:
    """The picture with `fineness`² of its pixels averaged to one, as `read_window` does."""
    height, width = image.shape[:2]
    if fineness == 1:
        return image
    return _resize(image, (0, 0, width, height), Size(width // fineness, height // fineness))
