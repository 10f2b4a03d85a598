"""What dense optical flow adds to the displacement that windows have found.

Windows answer for 64 px and more, so where tissue bends within that they answer for its mean. Dense inverse search
(Kroeger et al. 2016, `cv2.DISOpticalFlow`) follows such bends. It has no judgement of its own: it always finds
something. So it only adds to what windows found, and what judges a registration never looks through it.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.registration.field import slopes
from virtual_stain.registration.foreground import Foreground
from virtual_stain.registration.raster import Dense, Image, Matrix, blur, local_norm, sampled, shrink
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.registration.warping import dense_displacement, pull, pull_map, pull_mask

Grey = npt.NDArray[np.uint8]  # uint8[H, W]

_FACTOR = 0.5  # of working resolution: what flow follows is larger than that
_BLUR_PX, _PATTERN_PX = 2.0, 40.0  # working px: structures between these sizes are followed
_CONTRAST, _GREY = 40.0, 128.0
_PATCH_PX, _STRIDE_PX = 24, 6  # px of its own resolution, as all that follows
_LEAST_SIDE = 80  # a smaller picture holds too few patches
_SOLID_PX, _SOLID = 5.0, 0.2  # lumens have outlines to follow, glass around the tissue has none
_LEAST_WEIGHT = 1e-2
_SMOOTH_PX, _NODE_PX = 15.0, 16.0  # working px
_TRIES = 12
_STEEP_CELLS = 2  # around a steep cell, made smoother with it


def add_flow(
    fixed: Foreground, moving: Foreground, matrix: Matrix, field: DisplacementField | None, max_slope: float
) -> DisplacementField | None:
    """`field` with what flow adds to it; None where the picture is too small, or the sum changes faster than
    `max_slope` however smooth."""
    if min(fixed.shape) * _FACTOR < _LEAST_SIDE:
        return None
    channels = fixed.channels(), moving.channels()
    mapping = pull_map(fixed.shape, matrix, field)
    common = shrink((fixed.mask & pull_mask(moving.mask, mapping)).astype(np.float32), _FACTOR)
    solid = (blur(common, _SOLID_PX) > _SOLID).astype(np.float32)
    found = [_flow(_as_grey(f), _as_grey(pull(m, mapping))) for f, m in zip(*channels, strict=True)]
    flow = np.asarray(np.mean(found, axis=0), np.float32)
    before = dense_displacement(fixed.shape, field)
    smooth = _SMOOTH_PX * _FACTOR
    added = _smoothed(flow, solid, smooth)
    for _ in range(_TRIES):
        better = _on_nodes(before + _enlarged(added, fixed.shape))
        steep = slopes(better) > max_slope
        if not steep.any():
            return better
        # beside a tear or a fold flow changes too fast: only there is it made smoother
        smooth *= 1.4
        there = _around(steep, (solid.shape[0], solid.shape[1]))
        added = added + there[..., None] * (_smoothed(flow, solid, smooth) - added)
    return None


def _flow(first: Grey, second: Grey) -> Dense:
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    finder.setFinestScale(0)
    finder.setPatchSize(_PATCH_PX)
    finder.setPatchStride(_STRIDE_PX)
    # OpenCV cuts the picture into as many stripes as it has threads, and what is found hangs by the stripes: a worker,
    # which has one thread, would find another displacement than the main process
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return np.asarray(finder.calc(first, second, np.zeros((*first.shape, 2), np.float32)), np.float32)
    finally:
        cv2.setNumThreads(threads)


def _as_grey(image: Image) -> Grey:
    """uint8[H, W], small, with its contrast made alike everywhere."""
    even = local_norm(shrink(blur(image, _BLUR_PX), _FACTOR), _PATTERN_PX * _FACTOR)
    return np.clip(even * _CONTRAST + _GREY, 0, 255).astype(np.uint8)


def _smoothed(flow: Dense, weight: Image, sigma: float) -> Dense:
    total = blur(weight, sigma) + np.float32(_LEAST_WEIGHT)
    return np.stack([blur(flow[..., axis] * weight, sigma) / total for axis in range(2)], axis=-1)


def _around(cells: npt.NDArray[np.bool_], shape: tuple[int, int]) -> Image:
    """float32[H, W]: 1 on these cells of nodes, falling to 0 within some nodes of them."""
    cell = max(1, round(_NODE_PX * _FACTOR))
    fine = np.repeat(np.repeat(cells, cell, axis=0), cell, axis=1).astype(np.uint8)
    near = cv2.dilate(fine, np.ones((2 * _STEEP_CELLS * cell + 1,) * 2, np.uint8)).astype(np.float32)
    padded = np.pad(near, [(0, max(0, s - n)) for s, n in zip(shape, near.shape, strict=True)], mode="edge")
    return blur(padded[: shape[0], : shape[1]], _STEEP_CELLS * cell / 2.0)


def _enlarged(flow: Dense, shape: tuple[int, int]) -> Dense:
    scale = np.array([shape[1] / flow.shape[1], shape[0] / flow.shape[0]], np.float32)
    return np.asarray(cv2.resize(flow, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR) * scale, np.float32)


def _on_nodes(dense: Dense) -> DisplacementField:
    height, width = dense.shape[:2]
    columns, rows = (int(np.ceil(side / _NODE_PX)) + 1 for side in (width, height))
    x, y = np.meshgrid(np.arange(columns) * _NODE_PX, np.arange(rows) * _NODE_PX)
    x, y = np.clip(x, 0.5, width - 0.5), np.clip(y, 0.5, height - 0.5)
    at = np.stack([x, y], axis=-1).astype(np.float32)
    values = np.stack([sampled(dense[..., axis].copy(), at) for axis in range(2)], axis=-1)
    return DisplacementField((0.0, 0.0), (_NODE_PX, _NODE_PX), values)
