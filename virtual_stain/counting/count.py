"""The entry: one image of an IHC slide → its cells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.measure import Measured, Plane, measure, stain_plane
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.counting.stain import estimate_slide_stain, estimate_stain
from virtual_stain.counting.tumour import looks_like_tumour
from virtual_stain.errors import ResolutionError
from virtual_stain.markers import Marker, require_nuclear

__all__ = ["SlideStain", "count_cells", "estimate_slide_stain", "estimate_stain", "measure_cells"]


def count_cells(
    rgb: npt.NDArray[np.uint8],
    mpp: float,
    marker: Marker,
    stain: SlideStain,
    settings: CountingSettings,
    roi: npt.NDArray[np.bool_] | None = None,
) -> Cells:
    """All nuclei of an image, their stain, and which of them are tumour cells.

    `rgb`: uint8[H, W, 3], at most `settings.max_mpp` µm/px; `roi`: bool[H, W], where given a nucleus is a tumour cell
    if its centroid lies inside; without it, nuclear size and shape decide. `xy` is in px of `rgb`. A cell depends on
    nothing further away than `settings.margin_um`. Raises ConfigError for membrane markers and ResolutionError for
    pixels too coarse.
    """
    return measure_cells(rgb, (mpp, mpp), marker, stain, settings, roi)[0]


def measure_cells(
    rgb: npt.NDArray[np.uint8],
    mpp: tuple[float, float],
    marker: Marker,
    stain: SlideStain,
    settings: CountingSettings,
    roi: npt.NDArray[np.bool_] | None = None,
) -> tuple[Cells, Measured]:
    """`count_cells` for pixels that need not be square, and every measurement beside the cells (same order)."""
    require_nuclear(marker)
    _require_image(rgb, mpp, roi, settings)
    plane: Plane = stain_plane(rgb, mpp, stain, settings)
    found = measure(plane, stain, settings)
    if roi is None:
        tumour = looks_like_tumour(found, mpp, stain, settings)
    else:
        column = np.clip(np.floor(found.xy[:, 0]).astype(np.intp), 0, roi.shape[1] - 1)
        row = np.clip(np.floor(found.xy[:, 1]).astype(np.intp), 0, roi.shape[0] - 1)
        tumour = roi[row, column]
    cell_class = np.where(found.dab_od >= stain.positive_od, CellClass.POSITIVE, CellClass.NEGATIVE).astype(np.uint8)
    cell_class[found.other] = CellClass.OTHER
    cells = Cells(
        xy=found.xy,
        cell_class=cell_class,
        tumour=tumour & ~found.other,
        dab_od=np.maximum(found.dab_od, 0),
        area_um2=found.area_um2,
    )
    return cells, found


def _require_image(
    rgb: npt.NDArray[np.uint8],
    mpp: tuple[float, float],
    roi: npt.NDArray[np.bool_] | None,
    settings: CountingSettings,
) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"Expected uint8[H, W, 3] RGB. Received: {rgb.dtype}{list(rgb.shape)}")
    if roi is not None and roi.shape != rgb.shape[:2]:
        raise ValueError(f"Expected a region of the image's size {rgb.shape[:2]}. Received: {roi.shape}")
    if not all(0.05 <= m <= settings.max_mpp for m in mpp):
        raise ResolutionError(
            f"Expected pixels of 0.05 to {settings.max_mpp} µm to count nuclei. Received: {mpp[0]:g} × {mpp[1]:g} µm",
            hint="Give the right pixel size with --mpp, or scan at a higher resolution.",
        )
