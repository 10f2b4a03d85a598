"""Compressed tiles whose bytes are broken, as the decoder or the format itself can tell.

Decoders of slides go on after corrupt data: they fill up what is missing and only warn. OpenSlide and imagecodecs drop
that warning, and grey blocks or noise would be taken for tissue. The fast reader's decoder tells. What others
read is decoded once more at an eighth of its size, by that decoder (a third of the time). JPEG 2000 has no such
decoder at hand: its code stream is checked for what its own rules forbid. Deflate has a check sum, which libtiff does
not look at. And two tiles that are no bare glass cannot share their bytes: one of both is a copy of other tissue.

Known here: TIFF files of any flavour whose tiles lie in a plain grid, and NDPI. Not known: DICOM, MIRAX, VMS, and
formats whose tiles overlap.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from virtual_stain.geometry import Size
from virtual_stain.slides.description import TileTable
from virtual_stain.slides.tiff_pages import quiet, tiff_pages

GRIDS = ("generic-tiff", "aperio", "philips", "image/tiff")
"""Formats of TIFF whose tiles lie where their number says."""
_JPEG, _JPEG_2000, _DEFLATE = (6, 7), (33003, 33004, 33005, 34712), (8, 32946)
_CORRUPT = re.compile(r"Corrupt JPEG data|Premature end|Inconsistent progression|Unsupported marker")
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes")
_MOST_PADDING = 16  # bytes between the data and the marker after it; writers align to words
_MOST_ZEROS = 32  # bytes of JPEG 2000 beyond those of empty packets: arithmetic coding leaves no such runs
_BLANK_VALUES = 8  # distinct bytes of a tile of one colour, with or without differences from pixel to pixel
_BLANK_GREY = 3.0  # standard deviation of a blank tile in JPEG
_BLANK_FRACTION = 0.01  # of the bytes of its pixels, to which a codec makes a blank tile smaller
_MOST_SAMPLES = 4  # bytes of a pixel
_READ_ERRORS = (OSError, ArithmeticError, ValueError, RuntimeError, LookupError, TypeError, struct.error)


@dataclass(frozen=True, eq=False)
class _Grid:
    """The compressed tiles (or strips) of one level."""

    tile: Size
    columns: int
    rows: int
    offsets: Any
    counts: Any
    compression: int
    tables: bytes | None
    shared: Any
    """bool[columns * rows]: the tile's bytes begin among those of another one."""

    def problem(self, file: _File, column: int, row: int, *, sound: bool) -> str | None:
        index = row * self.columns + column
        offset, count = int(self.offsets[index]), int(self.counts[index])
        if not offset or not count:  # never written: the description of the file tells of that
            return None
        if sound and not self.shared[index]:
            return None
        data = file.read(offset, count)
        if len(data) < count:
            return "the file ends within it"
        if self.compression in _JPEG and self.tables is not None and data[:2] == b"\xff\xd8":
            data = self.tables[:-2] + data[2:]
        found = None if sound else self._broken(data)
        if found is None and self.shared[index] and not self._is_blank(data):
            return "it has its bytes from another tile"
        return found

    def _broken(self, data: bytes) -> str | None:
        if self.compression in _JPEG_2000:
            return jpeg2000_problem(data)
        if self.compression in _DEFLATE:
            return deflate_problem(data, self._pixel_bytes)
        return jpeg_problem(data) if self.compression in _JPEG else None

    def _is_blank(self, data: bytes) -> bool:
        """Bare glass: writers keep one such tile for all."""
        if self.compression in _JPEG:
            grey = _grey_eighth(data)
            return grey is None or float(grey.std()) <= _BLANK_GREY
        if self.compression in _DEFLATE:
            data = zlib.decompressobj().decompress(data, self._pixel_bytes)
        return len(set(data)) <= _BLANK_VALUES or len(data) < _BLANK_FRACTION * self._pixel_bytes

    @property
    def _pixel_bytes(self) -> int:
        return self.tile.width * self.tile.height * _MOST_SAMPLES


@dataclass(frozen=True, eq=False)
class _NdpiGrid:
    """Restart intervals of an NDPI level, stacked as the reader stacks them."""

    tiles: Any
    """Of `jpeg_tiles`."""

    @property
    def tile(self) -> Size:
        return self.tiles.layout.tile  # type: ignore[no-any-return]

    @property
    def columns(self) -> int:
        return int(self.tiles.layout.columns)

    @property
    def rows(self) -> int:
        return int(self.tiles.layout.rows)

    def problem(self, file: _File, column: int, row: int, *, sound: bool) -> str | None:
        if sound:
            return None
        from virtual_stain.slides.jpeg_tiles import NotExactError

        try:
            data, _ = self.tiles.compressed(file.handle, column, row)
        except NotExactError:  # OpenSlide reads these, and looks at the markers itself
            return None
        return jpeg_problem(data)


class TileDamage:
    """Which compressed tiles of one slide are broken; each is looked at once. Safe for threads."""

    def __init__(
        self,
        path: Path,
        format: str,
        sizes: tuple[Size, ...],
        is_sound: Callable[[int, int, int], bool] = lambda level, column, row: False,
    ) -> None:
        """`is_sound`: of a level's tile, whether the reader's own decoder has decoded it and had nothing to remark."""
        self._is_sound = is_sound
        self._path, self._format, self._sizes = path, format, sizes
        self._lock = threading.Lock()
        self._grids: Mapping[int, _Grid | _NdpiGrid] | None = None
        self._file: _File | None = None
        self._seen: dict[tuple[int, int, int], str | None] = {}

    def within(self, level: int, x: int, y: int, size: Size) -> tuple[str, ...]:
        """One sentence for each broken tile of `level` (of the file) that a region of it touches."""
        grid = self._prepare().get(level)
        file = self._file
        if grid is None or file is None:
            return ()
        full, tile = self._sizes[level], grid.tile
        x1, y1 = min(x + size.width, full.width), min(y + size.height, full.height)
        found = []
        for row in range(max(y, 0) // tile.height, min((y1 - 1) // tile.height + 1, grid.rows)):
            for column in range(max(x, 0) // tile.width, min((x1 - 1) // tile.width + 1, grid.columns)):
                key = level, column, row
                if key not in self._seen:
                    self._seen[key] = grid.problem(file, column, row, sound=self._is_sound(*key))
                problem = self._seen[key]
                if problem is not None:
                    found.append(f"the tile in column {column}, row {row} of level {level} is damaged: {problem}")
        return tuple(found)

    def table(self, level: int) -> TileTable | None:
        """The tiles of `level` that were found broken so far; None where there are none."""
        broken = [(c, r) for (at, c, r), problem in list(self._seen.items()) if at == level and problem is not None]
        if not broken:
            return None
        grid = self._prepare()[level]
        found = np.zeros((grid.rows, grid.columns), np.bool_)
        columns, rows = zip(*broken, strict=True)
        found[rows, columns] = True
        return TileTable(grid.tile, found)

    def tile(self, level: int) -> Size | None:
        """The size of the level's tiles; None where nothing is known of them."""
        grid = self._prepare().get(level)
        return None if grid is None else grid.tile

    def _prepare(self) -> Mapping[int, _Grid | _NdpiGrid]:
        with self._lock:
            if self._grids is None:
                self._grids = self._read_grids()
                if self._grids:
                    self._file = _File(self._path)
            return self._grids

    def _read_grids(self) -> dict[int, _Grid | _NdpiGrid]:
        if self._format == "hamamatsu" and self._path.suffix.lower() == ".ndpi":
            from virtual_stain.slides.jpeg_tiles import exact_levels

            return {
                level: _NdpiGrid(tiles) for level, tiles in exact_levels(self._path, self._sizes, ndpi=True).items()
            }
        if self._format not in GRIDS:
            return {}
        grids: dict[int, _Grid | _NdpiGrid] = {}
        try:
            for size, grid in _tiff_grids(self._path):
                if size in self._sizes:
                    grids.setdefault(self._sizes.index(size), grid)
        except _READ_ERRORS:
            return {}
        return grids


class _File:
    """A descriptor of its own for all threads, closed with its last user."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self.handle)
        self._lock = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.handle, count, offset)
        with self._lock:  # Windows
            os.lseek(self.handle, offset, os.SEEK_SET)
            return os.read(self.handle, count)


def _tiff_grids(path: Path) -> Iterator[tuple[Size, _Grid]]:
    with quiet(), tifffile.TiffFile(path) as file:
        for found in tiff_pages(file):
            page: Any = found.aspage()
            compression = int(page.compression)
            if int(page.imagedepth) != 1:
                continue
            size = Size(int(page.imagewidth), int(page.imagelength))
            if page.is_tiled:
                tile = Size(int(page.tilewidth), int(page.tilelength))
            else:
                tile = Size(size.width, min(size.height, int(page.rowsperstrip or size.height)))
            columns, rows = -(-size.width // tile.width), -(-size.height // tile.height)
            offsets, counts = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
            if len(offsets) == len(counts) == columns * rows:
                shared = _shared(offsets, counts)
                yield size, _Grid(tile, columns, rows, offsets, counts, compression, page.jpegtables, shared)


def _shared(offsets: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """bool[n]: which of the ranges of bytes begin within another one, or where another one begins."""
    order = np.lexsort((counts, offsets))
    starts, ends = offsets[order], offsets[order] + counts[order]
    begins_within = starts[1:] < np.maximum.accumulate(ends)[:-1]
    found = np.zeros(len(offsets), np.bool_)
    found[order[1:]] = begins_within
    found[order[:-1]] |= begins_within & (starts[1:] == starts[:-1])
    return found & (counts > 0) & (offsets > 0)


def deflate_problem(data: bytes, most_bytes: int) -> str | None:
    """What zlib says of a stream: its check sum is looked at here, and by no reader of TIFF files."""
    stream = zlib.decompressobj()
    try:
        stream.decompress(data, most_bytes + 1)
    except zlib.error as error:
        return str(error)
    if stream.unconsumed_tail:
        return f"it holds more than the {most_bytes} bytes of its pixels"
    return None  # where its end is missing, the reader has all pixels or says so itself


def _grey_eighth(data: bytes) -> npt.NDArray[np.uint8] | None:
    import simplejpeg

    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "GRAY", min_factor=8))
    except ValueError:
        return None


def jpeg_problem(data: bytes) -> str | None:
    """What the decoder warns of in a JPEG file, None where it finds nothing.

    What it cannot decode at all is no matter of this function: the reader raises an error of its own.
    """
    import simplejpeg

    try:
        # an end marker that is missing is no damage by itself; data that are missing before it are
        simplejpeg.decode_jpeg(data + b"\xff\xd9", "GRAY", fastdct=True, fastupsample=True, min_factor=8)
    except ValueError as error:
        text = str(error)
        padding = _EXTRANEOUS.search(text)
        if _CORRUPT.search(text) and not (padding and int(padding[1]) <= _MOST_PADDING):
            return text
    return None


def jpeg2000_problem(data: bytes) -> str | None:
    """What the rules of a JPEG 2000 code stream forbid; None where nothing is found, or where it is of another kind."""
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0:
        return "it has no start of a code stream"
    try:
        return _code_stream_problem(data, start)
    except (struct.error, IndexError):
        return "its code stream ends early"


def _code_stream_problem(data: bytes, start: int) -> str | None:
    at, packets, markers = start + 2, 1, b""
    while True:
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFF51:  # SIZ
            packets *= struct.unpack_from(">H", data, at + 38)[0]
        elif marker == 0xFF52:  # COD
            style, layers, levels = data[at + 4], struct.unpack_from(">H", data, at + 6)[0], data[at + 9]
            packets *= layers * (levels + 1)
            if style & 1:  # precincts of their own: packets are not counted
                packets = len(data)
            markers = (b"\x91" if style & 2 else b"") + (b"\x92" if style & 4 else b"")
        elif marker == 0xFF90:  # SOT: the first tile-part
            break
        elif marker >> 8 != 0xFF:
            return "a marker of its header is not where it should be"
        at += 2 + length
    forbidden = re.compile(b"\xff[\x90-\xff]" if not markers else b"\xff(?![%s])[\x90-\xff]" % markers)
    zeros = bytes(packets + _MOST_ZEROS)
    while True:
        marker = struct.unpack_from(">H", data, at)[0]
        if marker == 0xFFD9:  # EOC
            return None
        if marker != 0xFF90:
            return "a tile-part or the end of its code stream is not where it should be"
        length = struct.unpack_from(">I", data, at + 6)[0]
        end = at + length if length else data.rfind(b"\xff\xd9")
        if end > len(data) or end < 0:
            return "its code stream ends early"
        body = data.find(b"\xff\x93", at, end)  # SOD
        if body < 0 or end <= at:
            return "a tile-part has no data"
        if forbidden.search(data, body + 2, end):
            return "its data hold a marker that no encoder writes there"
        if len(zeros) < end - body and data.find(zeros, body + 2, end) >= 0:
            return "its data hold a run of zeros that no encoder writes"
        at = end
