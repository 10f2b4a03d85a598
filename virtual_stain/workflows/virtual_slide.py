"""A slide of H&E tile by tile as virtual IHC: read with its surroundings, drawn, counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.config import CountingSettings
from virtual_stain.counting.sampling import sample_glass, sample_windows
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.geometry import Box, Size
from virtual_stain.markers import Marker
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.source import Rgb
from virtual_stain.slides.tissue import TissueMap
from virtual_stain.slides.window import read_window as read_pixels
from virtual_stain.tiles import TileGrid, TileRef
from virtual_stain.virtual.draw import expected_picture
from virtual_stain.virtual.he_nuclei import estimate_he_stain
from virtual_stain.virtual.maps import Maps, window_around
from virtual_stain.virtual.reading import VirtualReading, grid_px, margin_px, read_window

Generator = Callable[[npt.NDArray[np.uint8]], Mapping[str, npt.ArrayLike]]
"""uint8[1, h, w, 3] → the maps by name, float32[1, h/4, w/4] each."""
_WHITE = (255.0, 255.0, 255.0)


@dataclass(frozen=True, slots=True, eq=False)
class VirtualTile:
    """One tile, drawn and read."""

    tile: TileRef
    reading: VirtualReading
    he: npt.NDArray[np.uint8]
    """uint8[T, T, 3], as also the two pictures."""
    drawn: npt.NDArray[np.uint8]
    expected: npt.NDArray[np.uint8]


def he_stain(slide: Slide, tissue: TissueMap, settings: CountingSettings) -> SlideStain:
    """What the nuclei of an H&E slide are like, from windows spread over its tissue; the same for the same slide."""
    windows, mpp = sample_windows(slide, tissue, settings)
    return estimate_he_stain(windows, mpp, sample_glass(slide, tissue) or _WHITE, settings)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VirtualReader:
    """Draws and reads the tiles of a slide. A tile does not depend on which others are read, nor in which order."""

    slide: Slide
    tissue: TissueMap
    grid: TileGrid
    generator: Generator
    marker: Marker
    stain: SlideStain
    """Of `he_stain`."""
    seed: float
    """Of `slide_seed`."""
    settings: CountingSettings
    halo_px: int
    """How far the generator sees."""

    def read(self, tile: TileRef) -> VirtualTile:
        """Raises SlideError, also for damage around the tile."""
        mpp, side = self.grid.tile_mpp, self.grid.tile_px
        window = window_around(
            tile.col * side,
            tile.row * side,
            side,
            side,
            margin_px=margin_px(mpp, self.settings, self.halo_px),
            grid_px=grid_px(mpp, self.settings),
        )
        rgb = self._pixels(window.x, window.y, Size(window.width, window.height))
        maps = Maps.of(self.generator(rgb[None]))
        reading, drawn = read_window(
            rgb, maps, window, self.marker, mpp=mpp, stain=self.stain, seed=self.seed, settings=self.settings
        )
        return VirtualTile(
            tile=tile,
            reading=reading,
            he=window.core.of(rgb),
            drawn=window.core.of(drawn.rgb),
            expected=window.core.of(expected_picture(maps)),
        )

    def he(self, tile: TileRef) -> Rgb:
        """uint8[T, T, 3] of the H&E. Raises SlideError."""
        side = self.grid.tile_px
        return self._pixels(tile.col * side, tile.row * side, Size(side, side))

    def _pixels(self, x: int, y: int, size: Size) -> Rgb:
        """From a place on, px at the model's pixel size; white beyond the scan and where no camera took a picture."""
        grid = self.grid
        scale_x, scale_y = grid.tile_mpp / grid.mpp.x, grid.tile_mpp / grid.mpp.y
        left, top = grid.origin_px0[0] + x * scale_x, grid.origin_px0[1] + y * scale_y
        box = Box(left, top, size.width * scale_x, size.height * scale_y)
        return self.tissue.without_unknown(read_pixels(self.slide, box, size), box)
