"""The IHC slide as it lies under the H&E, as a pyramidal OME-TIFF, so that a person can flip between both in QuPath.

Every level is read from the slide through matrix and displacement; nothing is held but one row of tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from virtual_stain.errors import InputError
from virtual_stain.geometry import Affine2D, Box, Points, Size
from virtual_stain.progress import QUIET, Progress
from virtual_stain.registration.raster import Rgb
from virtual_stain.registration.store import H5_NAME, JSON_NAME
from virtual_stain.registration.transform import PairTransform
from virtual_stain.reuse import MadeFrom, file_hashes, made_from
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.window import read_warped_window
from virtual_stain.workflows.pyramid import TILE_PX, pyramid_levels, tiles_across, write_pyramid

ALIGNED_NAME = "aligned.ome.tif"
_THREADS = 2


def aligned_made_from(folder: Path, mpp: float | None) -> MadeFrom:
    """What the aligned slide in `folder` depends on: the registration there, with its slides' hashes."""
    return made_from(
        __name__, inputs={"registration": file_hashes(folder, (JSON_NAME, H5_NAME))}, settings={"mpp": mpp}
    )


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
    levels = pyramid_levels(size)
    level_um = None
    if he.mpp is not None:
        level_um = [(bounds.width / s.width * he.mpp.x, bounds.height / s.height * he.mpp.y) for s in levels]
    name = f"{ihc.name} aligned to {he.name}"
    write_pyramid(path, name, levels, _all_tiles(he, ihc, transform, levels), level_um, progress)
    return size


def _step(he: Slide, mpp: float | None) -> tuple[float, float]:
    """H&E level-0 px per pixel of the picture along x and y."""
    if mpp is None:
        return 1.0, 1.0
    if he.mpp is None:
        raise InputError(f"{he.path}: the slide carries no pixel size.", hint="Pass it with --mpp-he.")
    return max(1.0, mpp / he.mpp.x), max(1.0, mpp / he.mpp.y)


def _all_tiles(he: Slide, ihc: Slide, transform: PairTransform, levels: list[Size]) -> Iterator[Rgb]:
    first = levels[0]
    with ThreadPoolExecutor(_THREADS) as threads:  # reading and resampling leave Python's lock
        for number, level in enumerate(levels):
            # exactly halved, whatever the rounding of the sizes: levels lie on each other
            step = he.bounds.width / first.width * 2**number, he.bounds.height / first.height * 2**number
            for row in range(tiles_across(level.height)):
                corners = [(c * TILE_PX, row * TILE_PX) for c in range(tiles_across(level.width))]
                yield from threads.map(lambda corner: _tile(he.bounds, ihc, transform, step, corner), corners)  # noqa: B023


def _tile(bounds: Box, ihc: Slide, transform: PairTransform, step: tuple[float, float], corner: tuple[int, int]) -> Rgb:
    origin = bounds.x + corner[0] * step[0], bounds.y + corner[1] * step[1]
    he_from_tile = Affine2D.scale_and_shift("he_px0", "tile", step, origin)
    box = Box(*origin, step[0] * TILE_PX, step[1] * TILE_PX)
    near = transform.local_affine(box.centre, reach_px0=max(box.width, box.height) / 2)
    if Box.around(near.apply(box.expanded(0.1 * box.width).corners())).intersection(ihc.bounds) is None:
        return np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)

    def to_ihc(points: Points) -> Points:
        return transform.to_ihc(he_from_tile.apply(points))

    return read_warped_window(ihc, near @ he_from_tile, Size(TILE_PX, TILE_PX), to_ihc)[0]
