"""A slide of H&E tile by tile as virtual IHC: read with its surroundings, drawn, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.config import CountingSettings
from virtual_stain.counting.sampling import sample_glass, sample_windows
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.geometry import Box, Size
from virtual_stain.markers import Marker
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.tissue import TissueMap
from virtual_stain.slides.window import read_window as read_pixels
from virtual_stain.tiles import TileGrid, TileRef
from virtual_stain.virtual.draw import expected_picture, slide_seed
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


def virtual_tiles(
    slide: Slide,
    grid: TileGrid,
    tiles: Iterable[TileRef],
    generator: Generator,
    marker: Marker,
    stain: SlideStain,
    settings: CountingSettings,
    halo_px: int,
) -> Iterator[VirtualTile]:
    """Each tile of a slide, in the order given. Raises SlideError.

    `stain`: of `he_stain`; `halo_px`: how far the generator sees. A tile does not depend on which others are read.
    """
    mpp, side = grid.tile_mpp, grid.tile_px
    margin, step = margin_px(mpp, settings, halo_px), grid_px(mpp, settings)
    seed = slide_seed(slide.content_hash())
    for tile in tiles:
        window = window_around(tile.col * side, tile.row * side, side, side, margin_px=margin, grid_px=step)
        scale_x, scale_y = mpp / grid.mpp.x, mpp / grid.mpp.y
        box = Box(
            grid.origin_px0[0] + window.x * scale_x,
            grid.origin_px0[1] + window.y * scale_y,
            window.width * scale_x,
            window.height * scale_y,
        )
        rgb = read_pixels(slide, box, Size(window.width, window.height))
        maps = Maps.of(generator(rgb[None]))
        reading, drawn = read_window(rgb, maps, window, marker, mpp=mpp, stain=stain, seed=seed, settings=settings)
        yield VirtualTile(
            tile=tile,
            reading=reading,
            he=window.core.of(rgb),
            drawn=window.core.of(drawn.rgb),
            expected=window.core.of(expected_picture(maps)),
        )
