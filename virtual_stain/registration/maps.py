"""Two maps over the H&E: how far the tissue was displaced beyond the affine, and how large the error is estimated."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from virtual_stain.geometry import Points, Size
from virtual_stain.registration.overlay import picture_frame
from virtual_stain.registration.result import Registration
from virtual_stain.registration.working import SideImage

_MAP_PX = 460
_ARROWS = 16  # along the longer side
_DPI = 100


def draw_maps(he: SideImage, registration: Registration) -> bytes:
    """PNG: the displacement (colour: length, arrows: direction) beside the stated p95 of the error; µm, or px of the
    H&E where no pixel size is known. Grey: tissue where no error is stated."""
    frame, size = picture_frame(he, _MAP_PX)
    x, y = np.meshgrid(np.arange(size.width) + 0.5, np.arange(size.height) + 0.5)
    points = frame.apply(np.stack([x, y], axis=-1).reshape(-1, 2))
    inside = _tissue(he, points).reshape(size.height, size.width)
    unit = np.array(registration.evidence.unit_per_px0)
    u = registration.transform.displacement
    shifts = np.zeros_like(points) if u is None else u.at(points) * unit
    shifts = shifts.reshape(size.height, size.width, 2)
    length = np.where(inside, np.hypot(shifts[..., 0], shifts[..., 1]), np.nan)
    coarse = points.reshape(size.height, size.width, 2)[::4, ::4]
    error = registration.evidence.errors_at(coarse.reshape(-1, 2))[1].reshape(coarse.shape[:2])
    error = np.where(inside[::4, ::4], error, np.nan)
    word = "µm" if registration.he_mpp is not None and registration.ihc_mpp is not None else "H&E px"
    return _figure(size, length, shifts, inside, error, word)


def _tissue(he: SideImage, points: Points) -> npt.NDArray[np.bool_]:
    column, row = np.floor(he.px0_from_ov.inverse().apply(points)).astype(np.intp).T
    height, width = he.mask.shape
    known = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found: npt.NDArray[np.bool_] = known & he.mask[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return found


def _figure(
    size: Size,
    length: npt.NDArray[np.float64],
    shifts: npt.NDArray[np.float64],
    inside: npt.NDArray[np.bool_],
    error: npt.NDArray[np.float64],
    word: str,
) -> bytes:
    width = 2 * (size.width + 150) / _DPI
    figure = Figure(figsize=(width, (size.height + 70) / _DPI), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    extent = (0, size.width, size.height, 0)
    grey = "" if not np.isposinf(error).any() else " (grey: none)"
    right.imshow(np.where(np.isposinf(error), 0.6, np.nan), cmap="gray", vmin=0, vmax=1, extent=extent)
    for axes, values, title, colours in (
        (left, length, f"displacement beyond the affine, {word}", "viridis"),
        (right, np.where(np.isfinite(error), error, np.nan), f"stated p95 of the error, {word}{grey}", "magma"),
    ):
        top = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
        image = axes.imshow(values, cmap=matplotlib.colormaps[colours], vmin=0, vmax=max(top, 1e-6), extent=extent)
        axes.set_title(title, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        figure.colorbar(image, ax=axes, fraction=0.046).ax.tick_params(labelsize=8)
    step = max(8, max(size.width, size.height) // _ARROWS)
    rows, columns = np.mgrid[step // 2 : size.height : step, step // 2 : size.width : step]
    seen = inside[rows, columns]
    if seen.any() and np.nanmax(length, initial=0.0) > 0:
        arrows = shifts[rows, columns][seen]
        left.quiver(columns[seen], rows[seen], arrows[:, 0], arrows[:, 1], color="white", angles="xy", width=0.004)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
