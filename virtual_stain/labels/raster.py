"""The pixels that the cells of a pair are counted on: one raster for all of its tiles, and the blocks that are counted
at once.

The raster lies on the H&E slide, upright, and begins at the corner of the grid of tiles. A block is some neighbouring
tiles with one margin around them, so that the margin is read, warped and counted once. Whatever the blocks are, every
pixel and every cell is the same: positions come from whole numbers of the raster (labels/raster_map.py), and blocks
begin where the resampling begins a new period (counting/resample.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from virtual_stain.counting.resample import AreaResampler
from virtual_stain.tiles import TileGrid, TileRef

MAX_BLOCK_PX = 3072**2
"""Raster pixels of a block's tiles, without margin: bounds the memory of a worker. A single tile may be larger."""
_ROUNDING_PX = 1e-6


@dataclass(frozen=True, slots=True)
class Raster:
    """Square pixels of one size on the H&E slide."""

    origin_px0: tuple[float, float]
    """(x, y) of the corner of pixel (0, 0)."""
    step_px0: tuple[float, float]
    """H&E level-0 px per pixel, along x and y."""
    mpp: float
    """µm per pixel."""


@dataclass(frozen=True, slots=True)
class Area:
    """A half-open rectangle [x, x1) × [y, y1) of whole raster pixels; may be negative."""

    x: int
    y: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        return self.x1 - self.x

    @property
    def height(self) -> int:
        return self.y1 - self.y


@dataclass(frozen=True, slots=True)
class Block:
    """Tiles of one raster that are counted at once."""

    raster: Raster
    tiles: tuple[TileRef, ...]
    areas: tuple[Area, ...]
    """Of the tiles, in their order."""

    def around(self, margin: int, period: tuple[int, int]) -> Area:
        """The tiles and at least `margin` px on every side; it begins and ends at multiples of `period` (x, y)."""
        px, py = period
        return Area(
            (min(a.x for a in self.areas) - margin) // px * px,
            (min(a.y for a in self.areas) - margin) // py * py,
            -(-(max(a.x1 for a in self.areas) + margin) // px) * px,
            -(-(max(a.y1 for a in self.areas) + margin) // py) * py,
        )


def block_of_one(tile: TileRef, side_px: int, mpp: float) -> Block:
    """A tile alone, on a raster that begins at its corner. `side_px`: raster pixels per tile."""
    step = tile.box.width / side_px, tile.box.height / side_px
    return Block(Raster((tile.box.x, tile.box.y), step, mpp), (tile,), (Area(0, 0, side_px, side_px),))


def cut_blocks(tiles: Sequence[TileRef], grid: TileGrid, side_px: int, margin_px: int, *, shared: bool) -> list[Block]:
    """Blocks of the tiles, in their order, which must be column by column; every tile stands in one block.

    `side_px`: raster pixels per tile. Tiles stand alone unless `shared`, and where the step between them is no whole
    number of raster pixels.
    """
    mpp = grid.window_um / side_px
    stride = round(grid.stride_um / mpp)
    if abs(grid.stride_um / mpp - stride) > _ROUNDING_PX:
        return [block_of_one(tile, side_px, mpp) for tile in tiles]
    raster = Raster(
        grid.origin_px0, (grid.window_um / grid.mpp.x / side_px, grid.window_um / grid.mpp.y / side_px), mpp
    )
    groups = [[tile] for tile in tiles]
    if shared:
        # a column at a time: its second and third tile make a column worth its margin
        columns = [_merged([[t] for t in c], stride, side_px, margin_px) for c in _columns(tiles)]
        groups = _merged([run for column in columns for run in column], stride, side_px, margin_px)
    return [Block(raster, tuple(g), tuple(_area(t, stride, side_px) for t in g)) for g in groups]


def _area(tile: TileRef, stride: int, side: int) -> Area:
    x, y = tile.col * stride, tile.row * stride
    return Area(x, y, x + side, y + side)


def _columns(tiles: Sequence[TileRef]) -> list[list[TileRef]]:
    return [list(column) for _, column in itertools.groupby(tiles, key=lambda t: t.col)]


def _merged(groups: list[list[TileRef]], stride: int, side: int, margin: int) -> list[list[TileRef]]:
    """Joins neighbours in the list where one block costs less than two, and stays small enough."""

    def pixels(tiles: list[TileRef], rim: int) -> int:
        columns, rows = [t.col for t in tiles], [t.row for t in tiles]
        return math.prod((max(v) - min(v)) * stride + side + 2 * rim for v in (columns, rows))

    merged: list[list[TileRef]] = []
    for group in groups:
        joined = [*merged[-1], *group] if merged else group
        apart = pixels(merged[-1], margin) + pixels(group, margin) if merged else 0
        if merged and pixels(joined, 0) <= MAX_BLOCK_PX and pixels(joined, margin) <= apart:
            merged[-1] = joined
        else:
            merged.append(group)
    return merged


def work_span(start: int, stop: int, window_start: int, ratio: Fraction) -> slice:
    """The working pixels whose centres lie in raster pixels [start, stop), counted from those of a window that begins
    at `window_start`, a multiple of the period. `ratio`: raster pixels per working pixel."""
    first, last = (math.ceil(Fraction(v) / ratio - Fraction(1, 2)) for v in (start, stop))
    offset = int(window_start / ratio)
    return slice(first - offset, last - offset)


def resampler(mpp: float, work_mpp: float) -> AreaResampler:
    """How a raster of `mpp` is brought to the working pixels that nuclei are looked for on."""
    return AreaResampler.towards((mpp, mpp), work_mpp)
