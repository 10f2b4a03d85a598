"""The entry: one image of an IHC slide → its cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.focus import focus_ratio
from virtual_stain.counting.given import UNKNOWN, GivenCells, ImagePlace, as_nuclei, measured_as
from virtual_stain.counting.measure import Measured, Plane, measure, stain_plane
from virtual_stain.counting.membrane import measure_membranes, solid_brown_um2
from virtual_stain.counting.quality import Quality, measure_quality
from virtual_stain.counting.readings import nuclear_intensity
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.counting.stain import estimate_slide_stain, estimate_stain
from virtual_stain.counting.tumour import looks_like_tumour
from virtual_stain.errors import ResolutionError
from virtual_stain.markers import Compartment, Marker

__all__ = ["Counted", "SlideStain", "count_cells", "count_image", "estimate_slide_stain", "estimate_stain"]


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """Everything that is known of one image."""

    cells: Cells
    intensity: npt.NDArray[np.uint8]
    """uint8[N]: 0, 1, 2, 3 for 0, 1+, 2+, 3+."""
    measured: Measured
    """Of the nuclei, same order."""
    extra: dict[str, npt.NDArray[np.float32]]
    """What else was measured, by column: of membrane markers `membrane_completeness`."""
    quality: Quality


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
    if its centroid lies inside; without it, the nucleus and the company it keeps decide. `xy` is in px of `rgb`. A cell
    depends on nothing further away than `settings.margin_um`. Raises ResolutionError for pixels too coarse.
    """
    return count_image(rgb, (mpp, mpp), marker, stain, settings, roi).cells


def count_image(
    rgb: npt.NDArray[np.uint8],
    mpp: tuple[float, float],
    marker: Marker,
    stain: SlideStain,
    settings: CountingSettings,
    roi: npt.NDArray[np.bool_] | None = None,
) -> Counted:
    """`count_cells` for pixels that need not be square, with every measurement beside the cells."""
    _require_image(rgb, mpp, roi, settings)
    plane, found = _plane_and_nuclei(rgb, mpp, marker, stain, settings)
    if roi is None:
        tumour = looks_like_tumour(found, mpp, stain, settings)
    else:
        column = np.clip(np.floor(found.xy[:, 0]).astype(np.intp), 0, roi.shape[1] - 1)
        row = np.clip(np.floor(found.xy[:, 1]).astype(np.intp), 0, roi.shape[0] - 1)
        tumour = roi[row, column]
    return classify(marker, plane, found, tumour, stain, settings, image_quality(rgb, mpp, plane, found))


def count_parts(
    rgb: npt.NDArray[np.uint8],
    mpp: float,
    marker: Marker,
    stain: SlideStain,
    settings: CountingSettings,
    parts: Sequence[tuple[slice, slice]],
) -> tuple[Counted, list[Quality]]:
    """`count_image`, and the quality of parts of the image without their focus.

    `parts`: rows and columns of working pixels. The quality of the whole has no focus either.
    """
    _require_image(rgb, (mpp, mpp), None, settings)
    plane, found = _plane_and_nuclei(rgb, (mpp, mpp), marker, stain, settings)
    tumour = looks_like_tumour(found, (mpp, mpp), stain, settings)
    quality = [_colour_quality(plane, found, rows, columns) for rows, columns in parts]
    whole = _colour_quality(plane, found, slice(None), slice(None))
    return classify(marker, plane, found, tumour, stain, settings, whole), quality


def _plane_and_nuclei(
    rgb: npt.NDArray[np.uint8],
    mpp: tuple[float, float],
    marker: Marker,
    stain: SlideStain,
    settings: CountingSettings,
) -> tuple[Plane, Measured]:
    plane = stain_plane(rgb, mpp, stain, settings, membrane=marker.compartment is Compartment.MEMBRANE)
    return plane, measure(plane, stain, settings)


def count_given(
    rgb: npt.NDArray[np.uint8],
    mpp: tuple[float, float],
    marker: Marker,
    stain: SlideStain,
    settings: CountingSettings,
    given: GivenCells,
    place: ImagePlace,
) -> Counted:
    """Measures the cells of another detector; their positions, and the classes that they come with, stay.

    `place`: of `rgb` on the slide. What an outline would be needed for is NaN where a cell has none.
    """
    plane = stain_plane(rgb, mpp, stain, settings, membrane=marker.compartment is Compartment.MEMBRANE)
    nuclei = as_nuclei(given, plane, place)
    found = measure(plane, stain, settings, nuclei)
    quality = image_quality(rgb, mpp, plane, found)
    counted = classify(marker, plane, found, given.tumour, stain, settings, quality)
    which = measured_as(nuclei)
    counted = dataclasses.replace(
        counted,
        cells=dataclasses.replace(
            counted.cells, cell_class=counted.cells.cell_class[which], dab_od=counted.cells.dab_od[which]
        ),
        intensity=counted.intensity[which],
        extra={name: values[which] for name, values in counted.extra.items()},
    )
    told = given.cell_class != UNKNOWN
    cell_class = np.where(told, given.cell_class, counted.cells.cell_class).astype(np.uint8)
    positive = cell_class == CellClass.POSITIVE
    # what was told stays; an intensity that was not is measured, at least 1+ for what was called positive
    intensity = np.where(positive, np.maximum(counted.intensity, 1), 0)
    intensity = np.where(given.intensity != UNKNOWN, given.intensity, intensity).astype(np.uint8)
    no_outline = np.array([ring is None for ring in given.rings], np.bool_)
    area = np.where(no_outline, np.nan, counted.cells.area_um2).astype(np.float32)
    measured = dataclasses.replace(
        found,
        hematoxylin_od=found.hematoxylin_od[which],
        max_dab_od=found.max_dab_od[which],
        elongation=np.where(no_outline, np.nan, found.elongation).astype(np.float32),
        circularity=np.where(no_outline, np.nan, found.circularity).astype(np.float32),
        edge_score=np.full(len(given), np.nan, np.float32),  # ours is of outlines that we traced
    )
    cells = dataclasses.replace(
        counted.cells,
        cell_class=cell_class,
        area_um2=area,
        tumour=given.tumour & (cell_class != CellClass.OTHER),
    )
    return dataclasses.replace(counted, cells=cells, intensity=intensity, measured=measured)


def classify(
    marker: Marker,
    plane: Plane,
    found: Measured,
    tumour: npt.NDArray[np.bool_],
    stain: SlideStain,
    settings: CountingSettings,
    quality: Quality,
) -> Counted:
    """Positive or negative, and 0 to 3+, in the compartment that the marker stains."""
    if marker.compartment is Compartment.MEMBRANE:
        membranes = measure_membranes(plane, found, settings)
        od, intensity = membranes.od, membranes.intensity
        extra = {"membrane_completeness": membranes.completeness}
        quality = dataclasses.replace(quality, solid_brown_um2=solid_brown_um2(plane, stain.positive_od))
    else:
        od, extra = found.dab_od, {}
        intensity = nuclear_intensity(od, od >= stain.positive_od, settings)
    cell_class = np.where(intensity > 0, CellClass.POSITIVE, CellClass.NEGATIVE).astype(np.uint8)
    other = found.other & (marker.compartment is Compartment.NUCLEUS)  # DAB beside a nucleus spoils its colour
    cell_class[other] = CellClass.OTHER
    cells = Cells(
        xy=found.xy,
        cell_class=cell_class,
        tumour=tumour & ~other,
        dab_od=np.maximum(od, 0),
        area_um2=found.area_um2,
    )
    return Counted(cells, np.where(other, 0, intensity).astype(np.uint8), found, extra, quality)


def image_quality(rgb: npt.NDArray[np.uint8], mpp: tuple[float, float], plane: Plane, found: Measured) -> Quality:
    """Of the nuclei that were found."""
    colours = _colour_quality(plane, found, slice(None), slice(None))
    return dataclasses.replace(colours, focus=focus_ratio(rgb, float(np.sqrt(mpp[0] * mpp[1]))))


def _colour_quality(plane: Plane, found: Measured, rows: slice, columns: slice) -> Quality:
    """Of the nuclei in these working pixels, without the focus."""
    part = rows, columns
    stained = np.maximum(plane.hematoxylin[part], 0) + np.maximum(plane.dab[part], 0)
    return measure_quality(found.nuclei.labels[part] > 0, stained, plane.residual[part], plane.saturated[part])


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
