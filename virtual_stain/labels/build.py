"""One tile of a pair: its H&E side read, trust measured, and the label made of it and of what lies under it.

The H&E window is upright and read as in scoring. The IHC side is read and counted for a block of tiles at once
(labels/ihc_block.py).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cells import Cells
from virtual_stain.counting.doubtful import ratio_range
from virtual_stain.counting.focus import focus_ratio
from virtual_stain.counting.quality import Quality, quality_flags
from virtual_stain.geometry import Affine2D, Box, Points, Size
from virtual_stain.labels.ihc_block import CountedBlock, count_block
from virtual_stain.labels.jpeg import encode_jpeg
from virtual_stain.labels.label import TileLabel, Trust, judge, label_id
from virtual_stain.labels.raster import block_of_one
from virtual_stain.labels.sources import PairSources, TileSettings
from virtual_stain.markers import Compartment
from virtual_stain.registration.transform import PairTransform
from virtual_stain.slides.tissue import TissueMap
from virtual_stain.slides.window import read_window
from virtual_stain.tiles import TileRef

_Rgb = npt.NDArray[np.uint8]  # uint8[H, W, 3]
_SAMPLES = 32  # points across a window at which the two tissue masks are compared
_ERROR_PLACES = np.array([[x, y] for y in (1 / 6, 0.5, 5 / 6) for x in (1 / 6, 0.5, 5 / 6)])


def build_tile(
    sources: PairSources, ref: TileRef, settings: TileSettings, counted: CountedBlock | None = None
) -> TileLabel:
    """Reads and judges one window. Raises SlideError naming file and region.

    `counted`: the block that it stands in; None: it is read and counted alone, on pixels of its own.
    """
    size = settings.tile_px
    if counted is None:
        counted = count_block(sources, block_of_one(ref, settings.count_px, settings.count_mpp), settings)
    he_from_tile = Affine2D.scale_and_shift(
        "he_px0", "tile", (ref.box.width / size, ref.box.height / size), (ref.box.x, ref.box.y)
    )
    he_image = sources.he_tissue.without_unknown(read_window(sources.he, ref.box, Size(size, size)), ref.box)
    inside = _inside(sources.he.bounds, he_from_tile, size)
    under = counted.under(ref, inside)
    ihc_image, cells, quality = under.image, _cells_of_tile(under.cells, inside), under.quality
    if sources.ihc_tissue.blank is not None:
        at_ihc = sources.registration.transform.to_ihc(he_from_tile.apply(cells.xy))
        cells = cells.select(~sources.ihc_tissue.blank.at(at_ihc))
    if sources.he_tissue.blank is not None:
        cells = cells.select(~sources.he_tissue.blank.at(he_from_tile.apply(cells.xy)))
    cells = sources.regions.mark(cells, he_from_tile.apply(cells.xy), sources.registration.transform)
    trust = _measure_trust(sources, ref, he_image, ihc_image, under.overlap_fraction, quality, settings)
    counts = cells.counts()
    nuclear = sources.marker.compartment is Compartment.NUCLEUS
    doubtful = ratio_range(cells, sources.stain, tumour_only=True).half_width if nuclear else 0.0
    flags, weight, usable = judge(
        trust,
        counts.total,
        settings.labels,
        max_p95_um=settings.max_p95_um,
        counting_flags=quality_flags(quality, counts, settings.counting, sources.stain, doubtful),
    )
    return TileLabel(
        col=ref.col,
        row=ref.row,
        box=ref.box,
        tissue_fraction=ref.tissue_fraction,
        trust=trust,
        cells=cells,
        flags=flags,
        weight=weight,
        usable_count=usable,
        label_id=label_id(he_image, ihc_image, sources.transform_sha256, cells),
        he_jpeg=encode_jpeg(he_image, settings.labels.jpeg_quality),
        ihc_jpeg=encode_jpeg(ihc_image, settings.labels.jpeg_quality),
    )


def transform_sha256(transform: PairTransform) -> str:
    """Hash of the matrix and the local displacement, at full precision."""
    digest = hashlib.sha256(np.ascontiguousarray(transform.ihc_from_he.matrix, "<f8").tobytes())
    field = transform.displacement
    if field is not None:
        digest.update(np.array([*field.origin_px0, *field.spacing_px0], "<f8").tobytes())
        digest.update(np.asarray(field.values_px0.shape, "<i8").tobytes())
        digest.update(np.ascontiguousarray(field.values_px0, "<f4").tobytes())
    return digest.hexdigest()


def _inside(bounds: Box, he_from_tile: Affine2D, size: int) -> tuple[slice, slice]:
    """(rows, columns) of the tile that lie in the H&E scan; the rest of a border tile is padding."""
    low, high = he_from_tile.inverse().apply([[bounds.x, bounds.y], [bounds.x1, bounds.y1]])
    x0, y0 = (int(np.clip(math.floor(v + 1e-6), 0, size - 1)) for v in low)
    x1, y1 = (int(np.clip(math.ceil(v - 1e-6), 1, size)) for v in high)
    return slice(y0, max(y1, y0 + 1)), slice(x0, max(x1, x0 + 1))


def _cells_of_tile(counted: Cells, inside: tuple[slice, slice]) -> Cells:
    """The cells (tile px) whose centre lies in the tile and in the H&E scan, top to bottom."""
    xy = counted.xy.astype(np.float32).astype(np.float64)
    rows, columns = inside
    keep = (xy[:, 0] >= columns.start) & (xy[:, 0] < columns.stop) & (xy[:, 1] >= rows.start) & (xy[:, 1] < rows.stop)
    order = np.lexsort((xy[:, 0], xy[:, 1]))
    return counted.moved(xy).select(order[keep[order]])


def _measure_trust(
    sources: PairSources,
    ref: TileRef,
    he_image: _Rgb,
    ihc_image: _Rgb,
    overlap_fraction: float,
    quality: Quality,
    settings: TileSettings,
) -> Trust:
    places = _ERROR_PLACES * (ref.box.width, ref.box.height) + (ref.box.x, ref.box.y)
    # a few places with nothing under them are a matter of the overlap; all the others must be known
    bare = sources.registration.bare_at(places)
    counted = places if bare.mean() > 1 - settings.labels.min_tissue_overlap_fraction else places[~bare]
    median, p95 = (float(np.mean(v)) for v in sources.registration.error_at_um(counted))
    return Trust(
        overlap_fraction=overlap_fraction,
        tissue_overlap_fraction=_tissue_overlap(sources, ref.box),
        focus_he=focus_ratio(he_image, settings.tile_mpp),
        focus_ihc=focus_ratio(ihc_image, settings.tile_mpp),
        error_median_um=median if math.isfinite(median) else None,
        error_p95_um=p95 if math.isfinite(p95) else None,
        border=ref.border,
        saturated_fraction=quality.saturated_fraction,
        unexplained_fraction=quality.unexplained_fraction,
    )


def _tissue_overlap(sources: PairSources, box: Box) -> float | None:
    """Share of the H&E tissue in the window that has IHC tissue under it."""
    steps = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    x, y = np.meshgrid(box.x + steps * box.width, box.y + steps * box.height)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    tissue = points[_is_tissue(sources.he_tissue, points)]
    if not len(tissue):
        return None
    return float(_is_tissue(sources.ihc_tissue, sources.registration.transform.to_ihc(tissue)).mean())


def _is_tissue(tissue: TissueMap, points: Points) -> npt.NDArray[np.bool_]:
    """bool[N]: the mask at float64[N, 2] level-0 px; False outside it."""
    column, row = np.floor(tissue.px0_from_ov.inverse().apply(points)).astype(np.intp).T
    height, width = tissue.mask.shape
    known = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found = tissue.mask[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    result: npt.NDArray[np.bool_] = known & found
    return result
