"""A slide read faster than OpenSlide reads it, with the same pixels to the bit; OpenSlide reads whatever is left.

OpenSlide decodes a tile again for almost every window that touches it, through an ARGB surface that is then converted.
Here a tile is decoded once into a cache that all threads share, and copied from there. OpenSlide stays the reference:
it opens the slide, names its levels, bounds and pixel size, and reads every region that is not exactly reproducible
(other codecs, missing or damaged tiles, levels that it interpolates).
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from virtual_stain.errors import SlideError
from virtual_stain.geometry import Box, Size
from virtual_stain.slides.openslide_source import OpenSlideSource, try_openslide
from virtual_stain.slides.resolution import MppClaim
from virtual_stain.slides.source import Rgb
from virtual_stain.slides.tile_cache import TileCache

if TYPE_CHECKING:
    from virtual_stain.slides.jpeg_tiles import Tiles

FORMATS = ("generic-tiff", "aperio", "hamamatsu")
"""OpenSlide's vendors whose grids are plain; others overlap their tiles or fill in missing ones."""


class FastSource:
    """An OpenSlide slide whose JPEG tiles are decoded here; fits `Source`."""

    def __init__(self, path: Path, slow: OpenSlideSource) -> None:
        self._path = path
        self._slow_source: OpenSlideSource | None = slow
        self.format = slow.format
        self.level_sizes: tuple[Size, ...] = slow.level_sizes
        self.bounds: Box | None = slow.bounds
        self.claims: Sequence[MppClaim] = slow.claims
        self.notes, self.warnings = slow.notes, slow.warnings
        self._whole = [i for i, d in enumerate(slow.downsamples) if d == round(d)]
        self._quickhash = slow.quickhash()
        self.cache = TileCache()
        self._levels: Mapping[int, object] | None = None
        self._fd: int | None = None
        self._lock = threading.Lock()
        self._sound: set[tuple[int, int, int]] = set()
        self.slow_reads = 0
        """Regions that OpenSlide read."""

    def read(self, level: int, x: int, y: int, size: Size) -> tuple[Rgb, float, float]:
        if level in self._whole:
            image = self._read_exactly(level, x, y, size)
            if image is not None:
                return image, float(x), float(y)
        self.slow_reads += 1
        return self._slow().read(level, x, y, size)

    def is_sound(self, level: int, column: int, row: int) -> bool:
        """Whether this compressed tile was decoded without a remark."""
        return (level, column, row) in self._sound

    def _decode(self, tiles: Tiles, fd: int, level: int, column: int, row: int) -> Rgb:
        image = tiles.decode_sound(fd, column, row)
        if image is None:
            return tiles.decode(fd, column, row)
        self._sound.add((level, column, row))
        return image

    def twin(self) -> FastSource:
        """The same slide for another thread: an OpenSlide handle of its own, the decoded tiles in common."""
        self._prepare()
        other = object.__new__(FastSource)
        other.__dict__.update(self.__dict__)
        other._slow_source, other._lock, other.slow_reads = None, threading.Lock(), 0
        other._fd = None if self._fd is None else os.dup(self._fd)
        return other

    def quickhash(self) -> str | None:
        return self._quickhash

    def close(self) -> None:
        with self._lock:
            if self._slow_source is not None:
                self._slow_source.close()
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _slow(self) -> OpenSlideSource:
        if self._slow_source is None:
            self._slow_source = try_openslide(self._path)
            if self._slow_source is None:  # it was one when it was opened first
                raise SlideError(f"{self._path}: the slide has changed while it was read.")
        return self._slow_source

    def _prepare(self) -> Mapping[int, object]:
        """Reads the tiles' places once, when they are needed first: `vstain info` does not."""
        with self._lock:
            if self._levels is None:
                from virtual_stain.slides.jpeg_tiles import exact_levels

                self._levels = exact_levels(self._path, self.level_sizes, ndpi=self.format == "hamamatsu")
            if self._levels and self._fd is None:
                with contextlib.suppress(OSError):
                    self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            return self._levels

    def _read_exactly(self, level: int, x: int, y: int, size: Size) -> Rgb | None:
        from virtual_stain.slides.jpeg_tiles import NdpiTiles, NotExactError, TiffTiles

        tiles = self._prepare().get(level)
        fd = self._fd
        if fd is None or not isinstance(tiles, NdpiTiles | TiffTiles):
            return None
        full, tile = tiles.layout.size, tiles.layout.tile
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + size.width, full.width), min(y + size.height, full.height)
        inside = (x0, y0, x1, y1) == (x, y, x + size.width, y + size.height)
        shape = (size.height, size.width, 3)
        image = np.empty(shape, np.uint8) if inside else np.full(shape, 255, np.uint8)
        if x1 <= x0 or y1 <= y0:
            return image
        rows = range(y0 // tile.height, (y1 - 1) // tile.height + 1)
        columns = range(x0 // tile.width, (x1 - 1) // tile.width + 1)
        busy = []
        try:
            for column, row in ((c, r) for r in rows for c in columns):
                decode = functools.partial(self._decode, tiles, fd, level, column, row)
                part = self.cache.get_unless_busy((level, column, row), decode)
                if part is None:  # another thread is at it: first what nobody is at
                    busy.append((column, row, decode))
                else:
                    _copy(part, column * tile.width, row * tile.height, image, x, y, full)
            for column, row, decode in busy:
                part = self.cache.get((level, column, row), decode)
                _copy(part, column * tile.width, row * tile.height, image, x, y, full)
        except NotExactError:
            return None
        return image


def _copy(part: Rgb, left: int, top: int, image: Rgb, x: int, y: int, full: Size) -> None:
    """What `image`, which begins at level px (x, y), shows of `part`, a tile that begins at (left, top) and may reach
    beyond the level's size `full`: there `image` stays as it is."""
    x0, y0 = max(left, x), max(top, y)
    x1 = min(left + part.shape[1], x + image.shape[1], full.width)
    y1 = min(top + part.shape[0], y + image.shape[0], full.height)
    image[y0 - y : y1 - y, x0 - x : x1 - x] = part[y0 - top : y1 - top, x0 - left : x1 - left]


def accelerated(path: Path, source: OpenSlideSource) -> OpenSlideSource | FastSource:
    """The slide with the fast path where its format allows one."""
    if not hasattr(os, "pread"):  # Windows
        return source
    if source.format not in FORMATS or (source.format == "hamamatsu" and source.quickhash() is not None):
        return source
    if source.format == "hamamatsu" and path.suffix.lower() != ".ndpi":
        return source
    return FastSource(path, source)
