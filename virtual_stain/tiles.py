"""One window slides over a slide, row by row from the top left: the same grid for building and for scoring.

The window is physical (µm), so its corners fall between pixels. A corner is computed from its column and row, never
from its neighbour: errors do not add up over thousands of columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from virtual_stain.config.tiling import TilingSettings
from virtual_stain.geometry import Box, Size
from virtual_stain.slides.resolution import Mpp, require_mpp
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.tissue import TissueMap

_ROUNDING = 1e-6  # px or steps: what float64 loses at most


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Windows that cover a slide's bounds; the last column and row may reach beyond them."""

    origin_px0: tuple[float, float]
    mpp: Mpp
    window_um: float
    stride_um: float
    tile_px: int
    columns: int
    rows: int

    @property
    def tile_size(self) -> Size:
        return Size(self.tile_px, self.tile_px)

    @property
    def tile_mpp(self) -> float:
        """Pixel size of a tile, µm/px."""
        return self.window_um / self.tile_px

    def box(self, col: int, row: int) -> Box:
        """The window in level-0 px."""
        return Box(
            self.origin_px0[0] + col * self.stride_um / self.mpp.x,
            self.origin_px0[1] + row * self.stride_um / self.mpp.y,
            self.window_um / self.mpp.x,
            self.window_um / self.mpp.y,
        )


@dataclass(frozen=True, slots=True)
class TileRef:
    """One window with tissue."""

    col: int
    row: int
    box: Box
    """Level-0 px."""
    tissue_fraction: float
    """Of the window's area, 0–1 (exclusive 0)."""
    border: bool
    """The window reaches beyond the scan, or over places in it that no camera took: there its tile is white."""


@dataclass(frozen=True, slots=True)
class TilePlan:
    """All windows of a slide that hold tissue."""

    grid: TileGrid
    tiles: tuple[TileRef, ...]
    """Row by row from the top left."""
    n_glass: int
    """Windows without any tissue, which are never read."""


def make_grid(bounds: Box, mpp: Mpp, settings: TilingSettings) -> TileGrid:
    """The grid from the corner of `bounds` (level-0 px) on, as many windows as cover them."""
    return TileGrid(
        origin_px0=(bounds.x, bounds.y),
        mpp=mpp,
        window_um=settings.window_um,
        stride_um=settings.step_um,
        tile_px=settings.tile_px,
        columns=_count(bounds.width * mpp.x, settings),
        rows=_count(bounds.height * mpp.y, settings),
    )


def _count(length_um: float, settings: TilingSettings) -> int:
    return max(0, math.ceil((length_um - settings.window_um) / settings.step_um - _ROUNDING)) + 1


def plan_tiles(slide: Slide, tissue: TissueMap, settings: TilingSettings) -> TilePlan:
    """Every window that holds any tissue. Raises ResolutionError without a pixel size of 0.05–2.0 µm/px."""
    bounds = slide.bounds
    grid = make_grid(bounds, require_mpp(slide), settings)
    columns, rows = (a.ravel() for a in np.meshgrid(np.arange(grid.columns), np.arange(grid.rows)))
    x = grid.origin_px0[0] + columns * grid.stride_um / grid.mpp.x
    y = grid.origin_px0[1] + rows * grid.stride_um / grid.mpp.y
    fractions = tissue.fractions_in(x, y, x + grid.window_um / grid.mpp.x, y + grid.window_um / grid.mpp.y)
    tiles = []
    blank = tissue.blank
    for index in np.flatnonzero(fractions > 0):
        row, col = divmod(int(index), grid.columns)
        box = grid.box(col, row)
        border = box.x1 > bounds.x1 + _ROUNDING or box.y1 > bounds.y1 + _ROUNDING
        border = border or (blank is not None and blank.cropped(box) is not None)
        tiles.append(TileRef(col, row, box, float(fractions[index]), border))
    return TilePlan(grid, tuple(tiles), grid.columns * grid.rows - len(tiles))


_STRIP_COLUMNS = 8


def walking_order(plan: TilePlan) -> list[int]:
    """Indices of the tiles in the order to read them: strips of eight columns, each row by row.

    Neighbouring windows share compressed tiles of the file. Along a whole row of a wide slide these would have left
    any bounded cache before the next row comes.
    """
    key = [(t.col // _STRIP_COLUMNS, t.row, t.col) for t in plan.tiles]
    return sorted(range(len(key)), key=key.__getitem__)
