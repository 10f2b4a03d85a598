"""The IHC side of a block of tiles: read, warped under the H&E side and counted once.

There is a margin around the block, so that a cell at the edge is counted as in the middle and by one tile only. What a
tile gets does not depend on the block that it stands in.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cells import Cells
from virtual_stain.counting.count import count_parts
from virtual_stain.counting.quality import Quality
from virtual_stain.geometry import Affine2D, Points, Size
from virtual_stain.labels.fixed_map import KNOT_PX, Sampling, lattice, positions, read_raster, sampling_of
from virtual_stain.labels.raster import Area, Block, resampler, work_span
from virtual_stain.labels.raster_map import map_to_ihc
from virtual_stain.labels.sources import PairSources, TileSettings
from virtual_stain.slides.window import read_warped_window
from virtual_stain.tiles import TileRef

_Rgb = npt.NDArray[np.uint8]  # uint8[H, W, 3]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Under:
    """What lies under one tile."""

    image: _Rgb
    """The IHC tile."""
    overlap_fraction: float
    """Share of the H&E scan's part of the tile that the IHC scan covers, 0–1."""
    cells: Cells
    """Of the whole block; tile px."""
    quality: Quality
    """Of the tile's nuclei, without the focus."""


@dataclass(frozen=True, slots=True, eq=False)
class CountedBlock:
    """A block, read and counted."""

    block: Block
    image: _Rgb
    """uint8[H, W, 3] of `area`; white where no camera took the IHC slide."""
    area: Area
    """The block with its margin."""
    covered: _Mask
    """bool[h, w]: whether the middles of the cells of `lattice(area)` lie on a picture of the IHC slide."""
    cells: Cells
    """px of `image`."""
    quality: tuple[Quality, ...]
    """Of the block's tiles, in their order."""
    fineness: int
    """Pixels of `image` per tile pixel and axis."""

    def under(self, tile: TileRef, inside: tuple[slice, slice]) -> Under:
        """`inside`: rows and columns of the tile (tile px) that lie in the H&E scan."""
        index = self.block.tiles.index(tile)
        own, fine = self.block.areas[index], self.fineness
        rows, columns = (
            slice(start + part.start * fine, start + part.stop * fine)
            for start, part in zip((own.y, own.x), inside, strict=True)
        )
        shift = np.array([self.area.x - own.x, self.area.y - own.y], np.float64)
        return Under(
            image=self._tile(own),
            overlap_fraction=self._covered(rows, columns),
            cells=self.cells.moved((self.cells.xy + shift) / fine),
            quality=self.quality[index],
        )

    def _tile(self, own: Area) -> _Rgb:
        x, y, fine = own.x - self.area.x, own.y - self.area.y, self.fineness
        tile = np.ascontiguousarray(self.image[y : y + own.height, x : x + own.width])
        if fine > 1:
            size = own.width // fine, own.height // fine
            tile = np.asarray(cv2.resize(tile, size, interpolation=cv2.INTER_AREA), np.uint8)
        return tile

    def _covered(self, rows: slice, columns: slice) -> float:
        """The share of these raster pixels, by the middles of the lattice's cells in them."""
        x, y = lattice(self.area)
        across = _cells_in(columns, int(x[0]), len(x))
        down = _cells_in(rows, int(y[0]), len(y))
        return float(self.covered[down, across].mean())


def _cells_in(pixels: slice, first: int, count: int) -> slice:
    """The cells of a lattice that begins at pixel `first` whose middles lie in `pixels`; at least the nearest one."""
    middle = first + KNOT_PX // 2
    start = min(-(-(pixels.start - middle) // KNOT_PX), count - 1)
    return slice(start, max(-(-(pixels.stop - middle) // KNOT_PX), start + 1))


def sampling_of_pair(sources: PairSources, block: Block) -> Sampling:
    """How the IHC slide is looked at; `exact` says whether blocks may hold more than one tile."""
    return sampling_of(sources.ihc, sources.registration.transform, block.raster)


def count_block(sources: PairSources, block: Block, settings: TileSettings) -> CountedBlock:
    """Reads and counts what lies under the tiles of a block. Raises SlideError naming file and region."""
    mpp = settings.count_mpp
    shrink = resampler(mpp, settings.counting.work_mpp)
    area = block.around(settings.margin_px, shrink.period)
    covered, unknown = _coverage(sources, block, area)
    image = _read(sources, block, area)
    if unknown is not None:
        image = np.where(unknown[..., None], np.uint8(255), image)
    parts = [(work_span(a.y, a.y1, area.y, shrink.y), work_span(a.x, a.x1, area.x, shrink.x)) for a in block.areas]
    counted, quality = count_parts(image, mpp, sources.marker, sources.stain, settings.counting, parts)
    cells = counted.cells
    if sources.marker.has_intensities:
        cells = dataclasses.replace(cells, intensity=counted.intensity)
    return CountedBlock(block, image, area, covered, cells, tuple(quality), settings.fineness)


def _read(sources: PairSources, block: Block, area: Area) -> _Rgb:
    transform, raster = sources.registration.transform, block.raster
    sampling = sampling_of_pair(sources, block)
    if sampling.exact:
        return read_raster(sources.ihc, transform, raster, area, sampling)
    (x, y), (step_x, step_y) = raster.origin_px0, raster.step_px0
    he_from_area = Affine2D.scale_and_shift(
        "he_px0", "area", raster.step_px0, (x + area.x * step_x, y + area.y * step_y)
    )

    def to_ihc(points: Points) -> Points:
        return map_to_ihc(transform, he_from_area, points)

    return read_warped_window(sources.ihc, transform.ihc_from_he @ he_from_area, Size(area.width, area.height), to_ihc)[
        0
    ]


def _coverage(sources: PairSources, block: Block, area: Area) -> tuple[_Mask, _Mask | None]:
    """`CountedBlock.covered`, and bool[H, W] of `area`: no camera took the IHC slide there; None: nothing of it."""
    columns, rows = lattice(area)
    half = KNOT_PX // 2
    x, y = positions(sources.registration.transform, block.raster, columns + half, rows + half)
    b = sources.ihc.bounds
    covered = (x >= b.x) & (x < b.x1) & (y >= b.y) & (y < b.y1)
    blank = sources.ihc_tissue.blank
    if blank is None:
        return covered, None
    coarse = blank.at(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(x.shape)
    if not coarse.any():
        return covered, None
    fine = np.kron(coarse, np.ones((KNOT_PX, KNOT_PX), np.bool_))
    top, left = area.y - int(rows[0]), area.x - int(columns[0])
    return covered & ~coarse, fine[top : top + area.height, left : left + area.width]
