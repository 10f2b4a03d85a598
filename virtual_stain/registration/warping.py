"""The moving side pulled into the fixed frame at working resolution, by matrix and displacement together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from virtual_stain.registration.raster import Dense, Image, Mask, Matrix, sampled
from virtual_stain.registration.transform import DisplacementField


def dense_displacement(shape: tuple[int, int], field: DisplacementField | None) -> Dense:
    """float32[H, W, 2]: u at the centre of every pixel of a fixed image of `shape`."""
    if field is None:
        return np.zeros((*shape, 2), np.float32)
    (x0, y0), (sx, sy) = field.origin_px0, field.spacing_px0
    rows, columns = field.values_px0.shape[:2]
    node_x = np.clip((np.arange(shape[1]) + 0.5 - x0) / sx, 0, columns - 1).astype(np.float32)
    node_y = np.clip((np.arange(shape[0]) + 0.5 - y0) / sy, 0, rows - 1).astype(np.float32)
    # separable bilinear interpolation as two small matrix products: exact, where remap rounds to 1/32 node
    weights_x, weights_y = _hat(node_x, columns), _hat(node_y, rows)
    planes = [weights_y @ field.values_px0[..., c] @ weights_x.T for c in range(2)]
    return np.asarray(np.stack(planes, axis=-1), np.float32)


def _hat(position: npt.NDArray[np.float32], nodes: int) -> npt.NDArray[np.float32]:
    distance = np.abs(position[:, None] - np.arange(nodes, dtype=np.float32)[None])
    result: npt.NDArray[np.float32] = np.maximum(1.0 - distance, 0.0).astype(np.float32)
    return result


def pull_map(shape: tuple[int, int], matrix: Matrix, field: DisplacementField | None) -> Dense:
    """float32[H, W, 2]: for the centre of every fixed pixel the point of the moving image that belongs there."""
    points = dense_displacement(shape, field)
    points[..., 0] += np.arange(shape[1], dtype=np.float32) + np.float32(0.5)
    points[..., 1] += (np.arange(shape[0], dtype=np.float32) + np.float32(0.5))[:, None]
    return np.asarray(points @ matrix[:2, :2].T.astype(np.float32) + matrix[:2, 2].astype(np.float32), np.float32)


def pull(image: Image, mapping: Dense) -> Image:
    """float32[H, W] of the moving side in the fixed frame; 0 outside it."""
    return sampled(image, mapping)


def pull_mask(mask: Mask, mapping: Dense) -> Mask:
    """bool[H, W] of the moving side in the fixed frame."""
    return sampled(mask.astype(np.float32), mapping) > 0.5
