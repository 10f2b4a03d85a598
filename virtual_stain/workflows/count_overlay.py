"""overlay.ome.tif: everything that was counted, outlined at full resolution, as a pyramid that QuPath opens.

Outlines wait in a file, 256 bytes a cell, and tiles are read, drawn and written one after the other: memory does not
grow with the slide but for 40 bytes a cell.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from virtual_stain.counting.outlines import Outline, draw_cell, draw_region
from virtual_stain.counting.source_words import source_words
from virtual_stain.geometry import Box, Points, Size
from virtual_stain.progress import QUIET, Progress
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.window import read_window
from virtual_stain.workflows.pyramid import TILE_PX, pyramid_levels, tiles_across, write_pyramid

U8 = npt.NDArray[np.uint8]

OVERLAY_NAME = "overlay.ome.tif"
_POINT_UM = 3.0  # half side of what stands for a cell without an outline
_THICK_PX = 2


class RingStore:
    """Outlines in an unnamed file, which vanishes when it is closed."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # lives as long as the store
        self._first, self._cell_class, self._tumour = array("q", [0]), array("B"), array("B")

    def __enter__(self) -> RingStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._cell_class)

    def append(self, cell: Outline) -> None:
        # float32 is 1/64 px at 2¹⁷ px: finer than what is drawn
        self._file.write(np.asarray(cell.ring, np.float32).tobytes())
        self._first.append(self._first[-1] + len(cell.ring))
        self._cell_class.append(cell.cell_class)
        self._tumour.append(cell.tumour)

    def points(self) -> npt.NDArray[np.float32]:
        """float32[Σ M, 2], read from the file as it is asked for."""
        self._file.flush()
        if self._first[-1] == 0:
            return np.zeros((0, 2), np.float32)
        return np.memmap(self._file, np.float32, "r", shape=(self._first[-1], 2))

    def spans(self) -> npt.NDArray[np.int64]:
        """int64[N + 1]: where each outline begins."""
        return np.asarray(self._first, np.int64)

    def outlines(self, index: npt.NDArray[np.intp]) -> list[Outline]:
        """A few of them, in the order of `index`."""
        points = self.points()
        return [self.outline(i, points) for i in index.tolist()]

    def outline(self, i: int, points: npt.NDArray[np.float32]) -> Outline:
        """The `i`-th; `points`: of `points()`, which is asked for once."""
        ring = points[self._first[i] : self._first[i + 1]]
        return Outline(self._cell_class[i], bool(self._tumour[i]), np.asarray(ring, np.float64))


def square(xy: tuple[float, float], mpp: tuple[float, float]) -> Points:
    """What stands for a cell of which only the place is known, float64[4, 2] px0."""
    x, y = _POINT_UM / mpp[0], _POINT_UM / mpp[1]
    return np.asarray(np.array(xy) + np.array([(-x, -y), (x, -y), (x, y), (-x, y)]), np.float64)


def write_overlay(
    slide: Slide, rings: RingStore, path: Path, region: Sequence[Points], tumour_source: str, progress: Progress = QUIET
) -> Size:
    """Writes the scanned part of `slide` with every outline and the border of `region` (rings, px0); returns its size.

    The picture's name says `tumour_source`. Raises SlideError, OutputError.
    """
    bounds = slide.bounds
    size = Size(max(1, int(bounds.width)), max(1, int(bounds.height)))
    levels = pyramid_levels(size)
    mpp = slide.mpp
    assert mpp is not None  # nothing is counted without a pixel size
    level_um = [(mpp.x * 2**k, mpp.y * 2**k) for k in range(len(levels))]
    name = f"{slide.name} counted, solid: {source_words(tumour_source)}"
    write_pyramid(path, name, levels, _all_tiles(slide, rings, region, levels), level_um, progress)
    return size


def _all_tiles(slide: Slide, rings: RingStore, region: Sequence[Points], levels: list[Size]) -> Iterator[U8]:
    points, spans = rings.points(), rings.spans()
    low, high = np.zeros((len(rings), 2), np.float32), np.zeros((len(rings), 2), np.float32)
    for i in range(len(rings)):
        ring = points[spans[i] : spans[i + 1]]
        low[i], high[i] = ring.min(axis=0), ring.max(axis=0)
    by_top = np.argsort(low[:, 1], kind="stable")
    tallest = float((high - low)[:, 1].max()) if len(rings) else 0.0
    for k, level in enumerate(levels):
        side = float(TILE_PX * 2**k)
        for row in range(tiles_across(level.height)):
            top = slide.bounds.y + row * side
            # a line has a width: a little beyond the tile counts
            reach = (_THICK_PX + 1.0) * 2**k
            first, last = np.searchsorted(low[by_top, 1], (top - tallest - reach, top + side + reach))
            near = by_top[first:last]
            for column in range(tiles_across(level.width)):
                left = slide.bounds.x + column * side
                inside = (low[near, 0] < left + side + reach) & (high[near, 0] > left - reach)
                inside &= high[near, 1] > top - reach
                box = Box(left, top, side, side)
                image = np.array(read_window(slide, box, Size(TILE_PX, TILE_PX)))
                for i in np.sort(near[inside]).tolist():
                    cell = rings.outline(i, points)
                    draw_cell(image, cell, (cell.ring - (left, top)) / 2**k, 1 if k else _THICK_PX)
                draw_region(image, [(ring - (left, top)) / 2**k for ring in region], _THICK_PX)
                yield image
