"""The IHC slide as it lies under the H&E, as a pyramidal OME-TIFF, so that a person can flip between both in QuPath.

Every level is read from the slide through matrix and displacement; nothing is held but one row of tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from virtual_stain.errors import InputError
from virtual_stain.files import replacing
from virtual_stain.geometry import Affine2D, Box, Points, Size
from virtual_stain.progress import QUIET, Progress
from virtual_stain.registration.raster import Rgb
from virtual_stain.registration.transform import PairTransform
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.window import read_warped_window

ALIGNED_NAME = "aligned.ome.tif"
_TILE_PX = 512
_SMALLEST_PX = 1024  # no level below this
_QUALITY = 88
_THREADS = 2


def write_aligned(
    he: Slide,
    ihc: Slide,
    transform: PairTransform,
    path: Path,
    *,
    mpp: float | None = None,
    progress: Progress = QUIET,
) -> Size:
    """Writes the scanned part of the H&E's frame (what QuPath shows of it) with the IHC's pixels; returns its size.

    `mpp`: µm per pixel, by default the H&E's own, so that coordinates in QuPath are the same on both. White where the
    IHC was not scanned. Raises InputError for `mpp` without a pixel size of the H&E, SlideError, OutputError.
    """
    step = _step(he, mpp)
    bounds = he.bounds
    size = Size(max(1, round(bounds.width / step[0])), max(1, round(bounds.height / step[1])))
    levels = _levels(size)
    n_tiles = sum(_tiles_across(s.width) * _tiles_across(s.height) for s in levels)
    tiles = progress.track(_all_tiles(he, ihc, transform, levels), n_tiles, path.name, "tile")
    options: dict[str, Any] = {
        "dtype": np.uint8,
        "tile": (_TILE_PX, _TILE_PX),
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": _QUALITY},
        "subsampling": (1, 1),
    }
    with replacing(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=True, ome=True) as writer:
        for index, level in enumerate(levels):
            count = _tiles_across(level.width) * _tiles_across(level.height)
            writer.write(
                _some(tiles, count),
                shape=(level.height, level.width, 3),
                metadata=_metadata(he, ihc, bounds, size) if index == 0 else None,
                subifds=len(levels) - 1 if index == 0 else None,
                subfiletype=0 if index == 0 else 1,
                **_resolution(he, bounds, level),
                **options,
            )
    return size


def _step(he: Slide, mpp: float | None) -> tuple[float, float]:
    """H&E level-0 px per pixel of the picture along x and y."""
    if mpp is None:
        return 1.0, 1.0
    if he.mpp is None:
        raise InputError(f"{he.path}: the slide carries no pixel size.", hint="Pass it with --mpp-he.")
    return max(1.0, mpp / he.mpp.x), max(1.0, mpp / he.mpp.y)


def _levels(size: Size) -> list[Size]:
    sizes = [size]
    while max(sizes[-1].width, sizes[-1].height) > _SMALLEST_PX:
        sizes.append(Size(math.ceil(sizes[-1].width / 2), math.ceil(sizes[-1].height / 2)))
    return sizes


def _tiles_across(length: int) -> int:
    return math.ceil(length / _TILE_PX)


def _some(tiles: Iterator[Rgb], count: int) -> Iterator[Rgb]:
    for _ in range(count):
        yield next(tiles)


def _all_tiles(he: Slide, ihc: Slide, transform: PairTransform, levels: list[Size]) -> Iterator[Rgb]:
    first = levels[0]
    with ThreadPoolExecutor(_THREADS) as threads:  # reading and resampling leave Python's lock
        for number, level in enumerate(levels):
            # exactly halved, whatever the rounding of the sizes: levels lie on each other
            step = he.bounds.width / first.width * 2**number, he.bounds.height / first.height * 2**number
            for row in range(_tiles_across(level.height)):
                corners = [(c * _TILE_PX, row * _TILE_PX) for c in range(_tiles_across(level.width))]
                yield from threads.map(lambda corner: _tile(he.bounds, ihc, transform, step, corner), corners)  # noqa: B023


def _tile(bounds: Box, ihc: Slide, transform: PairTransform, step: tuple[float, float], corner: tuple[int, int]) -> Rgb:
    origin = bounds.x + corner[0] * step[0], bounds.y + corner[1] * step[1]
    he_from_tile = Affine2D.scale_and_shift("he_px0", "tile", step, origin)
    box = Box(*origin, step[0] * _TILE_PX, step[1] * _TILE_PX)
    near = transform.local_affine(box.centre, reach_px0=max(box.width, box.height) / 2)
    if Box.around(near.apply(box.expanded(0.1 * box.width).corners())).intersection(ihc.bounds) is None:
        return np.full((_TILE_PX, _TILE_PX, 3), 255, np.uint8)

    def to_ihc(points: Points) -> Points:
        return transform.to_ihc(he_from_tile.apply(points))

    return read_warped_window(ihc, near @ he_from_tile, Size(_TILE_PX, _TILE_PX), to_ihc)[0]


def _metadata(he: Slide, ihc: Slide, bounds: Box, size: Size) -> dict[str, Any]:
    value: dict[str, Any] = {"axes": "YXS", "Name": f"{ihc.name} aligned to {he.name}"}
    if he.mpp is not None:
        value |= {
            "PhysicalSizeX": bounds.width / size.width * he.mpp.x,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": bounds.height / size.height * he.mpp.y,
            "PhysicalSizeYUnit": "µm",
        }
    return value


def _resolution(he: Slide, bounds: Box, level: Size) -> dict[str, Any]:
    if he.mpp is None:
        return {"resolution": (1, 1), "resolutionunit": "NONE"}
    um = bounds.width / level.width * he.mpp.x, bounds.height / level.height * he.mpp.y
    return {"resolution": (1e4 / um[0], 1e4 / um[1]), "resolutionunit": "CENTIMETER"}
