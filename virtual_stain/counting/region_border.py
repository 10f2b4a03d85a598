"""The border of any region as rings, to be drawn."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import shapely
from skimage.measure import find_contours

from virtual_stain.counting.region import MaskRegion, PolygonRegion, Region
from virtual_stain.counting.region_model import CheckedRegion
from virtual_stain.geometry import Box, Points

_MASK_PX = 4096  # a picture of a region needs no more
_ASKED_PX = 512  # where only points can be asked


def border_of(region: Region, bounds: Box) -> list[Points]:
    """Rings float64[M, 2] px0, of areas and of what is cut out of them. Of a mask they run between its pixels; of a
    region that only answers for points it is looked for on a grid of at most 512 over `bounds`, the scan."""
    inner = region.region if isinstance(region, CheckedRegion) else region
    if isinstance(inner, PolygonRegion):
        polygons = [p for p in shapely.get_parts(inner.shape) if p.geom_type == "Polygon"]
        rings = [r for p in polygons for r in (p.exterior, *p.interiors)]
        return [np.asarray(shapely.get_coordinates(r)[:-1], np.float64) for r in rings]
    if isinstance(inner, MaskRegion):
        return _around(inner.mask, inner.extent)
    step = max(bounds.width, bounds.height) / _ASKED_PX
    columns, rows = max(1, round(bounds.width / step)), max(1, round(bounds.height / step))
    x = bounds.x + (np.arange(columns) + 0.5) * (bounds.width / columns)
    y = bounds.y + (np.arange(rows) + 0.5) * (bounds.height / rows)
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return _around(region.contains(points).reshape(rows, columns), bounds)


def _around(mask: npt.NDArray[np.bool_], extent: Box) -> list[Points]:
    small = mask.astype(np.uint8)
    shrink = max(mask.shape) / _MASK_PX
    if shrink > 1:
        size = (max(1, round(mask.shape[1] / shrink)), max(1, round(mask.shape[0] / shrink)))
        small = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    height, width = small.shape
    px0 = np.array([extent.width / width, extent.height / height])
    # a frame of zeros closes what touches the border; with it, pixel i has its centre at i − 0.5
    return [
        np.asarray((ring[:-1, ::-1] - 0.5) * px0 + (extent.x, extent.y), np.float64)
        for ring in find_contours(np.pad(small, 1), 0.5)  # type: ignore[no-untyped-call]
    ]
