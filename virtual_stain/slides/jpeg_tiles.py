"""JPEG tiles of TIFF slides without OpenSlide: the same decoder with the same settings, each tile decoded once.

OpenSlide and imagecodecs both decode with libjpeg-turbo, the accurate inverse DCT and smooth chroma upsampling, so that
the pixels are equal to the bit (tests compare them). Only what is certainly the same is taken: 8-bit, three channels,
contiguous JPEG tiles; and the JPEG of an NDPI level, which is cut at its restart markers as OpenSlide does. Anything
else is left to OpenSlide.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import simplejpeg
import tifffile

from virtual_stain.geometry import Size
from virtual_stain.slides.jpeg_colour import RGB, YCBCR, declared_colour
from virtual_stain.slides.ndpi_tags import Tags, ndpi_directories
from virtual_stain.slides.source import Rgb
from virtual_stain.slides.tiff_pages import quiet, tiff_pages

_JPEG = 7
_RGB, _YCBCR = 2, 6
# restart intervals decoded in one call: multiples of 8, after which the markers' numbers repeat; as many as fill 4 MiB,
# from where on numpy asks for huge pages and the first touch of fresh memory costs less than the copy
_LEAST_STACKED, _MOST_STACKED, _STACK_BYTES = 32, 128, 4 * 2**20
_MCU_STARTS, _MCU_STARTS_HIGH = 65426, 65432
_HEAD_BYTES = 4096  # within which the markers stand
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # the marker that says: not YCbCr
_READ_ERRORS = (OSError, ArithmeticError, ValueError, RuntimeError, KeyError, IndexError, TypeError, struct.error)


class NotExactError(Exception):
    """This tile is not one of those that are certain to be the same: OpenSlide must read it."""


@dataclass(frozen=True, slots=True)
class TileGridLayout:
    """How a level is cut."""

    size: Size
    """Of the level, px."""
    tile: Size
    columns: int
    rows: int


@dataclass(frozen=True, eq=False)
class TiffTiles:
    """One level of a tiled TIFF."""

    layout: TileGridLayout
    offsets: Any
    counts: Any
    tables: bytes | None
    color: int

    def decode(self, fd: int, column: int, row: int) -> Rgb:
        """uint8[tile height, tile width, 3]. Raises NotExactError."""
        index = row * self.layout.columns + column
        offset, count = int(self.offsets[index]), int(self.counts[index])
        if count == 0 or offset == 0:
            raise NotExactError("a tile that is not there")
        data = _read(fd, offset, count)
        color = "YCBCR" if self.color == _YCBCR else "RGB"
        image = _decoded(data, tables=self.tables, colorspace=color, outcolorspace="RGB")
        return _of_size(image, self.layout.tile)

    def decode_sound(self, fd: int, column: int, row: int) -> Rgb | None:
        """The same pixels where the decoder has nothing to remark; None where it has. Raises NotExactError."""
        index = row * self.layout.columns + column
        offset, count = int(self.offsets[index]), int(self.counts[index])
        if count == 0 or offset == 0:
            raise NotExactError("a tile that is not there")
        data = _read(fd, offset, count)
        if self.tables is not None:
            data = self.tables[:-2] + data[2:]
        known = _saying(data, YCBCR if self.color == _YCBCR else RGB)
        return None if known is None else _without_remark(known, self.layout.tile)


@dataclass(frozen=True, eq=False)
class NdpiTiles:
    """One level of an NDPI: a single JPEG, whose restart intervals are stacked into tiles."""

    layout: TileGridLayout
    starts: Any
    """int64[N + 1]: where each restart interval begins in the file, and the end of the last."""
    header: bytes
    """From the start of the JPEG to the first interval."""
    size_at: int
    """Where the header holds height and width."""
    interval: Size
    """Pixels of one restart interval."""
    per_row: int
    """Intervals beside each other."""

    def decode(self, fd: int, column: int, row: int) -> Rgb:
        """uint8[≤ tile height, tile width, 3]. Raises NotExactError."""
        data, size = self.compressed(fd, column, row)
        return _of_size(_decoded(data, outcolorspace="RGB"), size)

    def decode_sound(self, fd: int, column: int, row: int) -> Rgb | None:
        """The same pixels where the decoder has nothing to remark; None where it has. Raises NotExactError."""
        return _without_remark(*self.compressed(fd, column, row))

    def compressed(self, fd: int, column: int, row: int) -> tuple[bytes, Size]:
        """A JPEG file of the tile and its size. Raises NotExactError."""
        stack = self.layout.tile.height // self.interval.height
        first, total = row * stack, (len(self.starts) - 1) // self.per_row
        count = min(stack, total - first)
        parts = [self._interval(fd, (first + i) * self.per_row + column, i, last=i == count - 1) for i in range(count)]
        height, width = count * self.interval.height, self.interval.width
        size = struct.pack(">HH", height, width)
        header = self.header[: self.size_at] + size + self.header[self.size_at + 4 :]
        return b"".join([header, *parts]), Size(width, height)

    def _interval(self, fd: int, index: int, number: int, *, last: bool) -> bytes:
        """The bytes of one interval with the marker that ends it, renumbered for the stack."""
        start, end = int(self.starts[index]), int(self.starts[index + 1])
        data = _read(fd, start, end - start)
        marker = data[-2:]
        final = index + 2 == len(self.starts)
        if len(data) < 3 or marker[:1] != b"\xff" or not (0xD0 <= marker[1] <= 0xD7 or (final and marker[1] == 0xD9)):
            raise NotExactError("a restart marker is not where the file says")
        return data[:-2] + (b"\xff\xd9" if last else bytes((0xFF, 0xD0 + number % 8)))


Tiles = TiffTiles | NdpiTiles


def exact_levels(path: Path, sizes: tuple[Size, ...], *, ndpi: bool) -> dict[int, Tiles]:
    """The levels (index in `sizes`) whose tiles can be decoded here; empty where the file is not understood.

    A level is the one directory of its size: where two have the same, neither is taken.
    """
    found: dict[Size, list[Tiles | None]] = {}
    try:
        for size, tiles in _ndpi_pages(path) if ndpi else _tiff_pages(path):
            found.setdefault(size, []).append(tiles)
    except _READ_ERRORS:
        return {}
    only = {size: tiles[0] for size, tiles in found.items() if len(tiles) == 1 and sizes.count(size) == 1}
    return {sizes.index(size): tiles for size, tiles in only.items() if tiles is not None}


def _tiff_pages(path: Path) -> Iterator[tuple[Size, Tiles | None]]:
    with quiet(), tifffile.TiffFile(path) as file:
        for page in tiff_pages(file):
            size = Size(int(page.imagewidth), int(page.imagelength))
            yield size, _tiff_tiles(page, size) if _plain_jpeg(page) else None


def _ndpi_pages(path: Path) -> Iterator[tuple[Size, Tiles | None]]:
    with path.open("rb") as stream:
        for tags in ndpi_directories(path):
            yield Size(int(tags[256][0]), int(tags[257][0])), _ndpi_tiles(stream, tags)


def _plain_jpeg(page: Any) -> bool:
    return (
        int(page.compression) == _JPEG
        and int(page.samplesperpixel) == 3
        and int(page.bitspersample) == 8
        and int(page.planarconfig) == 1
        and int(page.photometric) in (_RGB, _YCBCR)
        and int(page.imagedepth) == 1
        and page.tags.valueof("Orientation", 1) == 1
    )


def _tiff_tiles(page: Any, size: Size) -> TiffTiles | None:
    if not page.is_tiled or not page.tilewidth or not page.tilelength:
        return None
    tile = Size(int(page.tilewidth), int(page.tilelength))
    layout = TileGridLayout(size, tile, -(-size.width // tile.width), -(-size.height // tile.height))
    offsets, counts = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
    if len(offsets) != len(counts) or len(offsets) != layout.columns * layout.rows:
        return None
    return TiffTiles(layout, offsets, counts, page.jpegtables, int(page.photometric))


def _ndpi_tiles(stream: BinaryIO, tags: Tags) -> NdpiTiles | None:
    size = Size(int(tags[256][0]), int(tags[257][0]))
    starts, offsets, counts = (tags.get(name) for name in (_MCU_STARTS, 273, 279))
    if starts is None or offsets is None or counts is None or len(offsets) != 1 or tags[259][0] != _JPEG:
        return None
    high = tags.get(_MCU_STARTS_HIGH)
    if high is not None:
        starts = starts + (high << 32)
    stream.seek(int(offsets[0]))
    header = stream.read(int(starts[0]))
    size_at, mcu, restart = _frame(header)
    across, rows = -(-size.width // mcu.width), -(-size.height // mcu.height)
    # where chroma rows are subsampled their smoothing would cross from one interval into the next
    if mcu.height != 8 or not restart or across % restart or len(starts) != across // restart * rows:
        return None
    interval, per_row = Size(restart * mcu.width, mcu.height), across // restart
    tile = Size(interval.width, interval.height * _stacked(interval))
    layout = TileGridLayout(size, tile, per_row, -(-size.height // tile.height))
    ends = np.append(starts, int(counts[0])) + int(offsets[0])
    return NdpiTiles(layout, ends, header, size_at, interval, per_row)


def _stacked(interval: Size) -> int:
    eights = -(-_STACK_BYTES // (interval.area * 3 * 8))
    return min(max(8 * eights, _LEAST_STACKED), _MOST_STACKED)


def _frame(header: bytes) -> tuple[int, Size, int]:
    """(place of height and width, size of a minimum coded unit, restart interval) of a baseline JPEG's header."""
    at, place, mcu, restart = 2, 0, Size(8, 8), 0
    while at + 4 <= len(header):
        if header[at] != 0xFF:
            raise ValueError("Expected a JPEG marker.")
        code, (length,) = header[at + 1], struct.unpack(">H", header[at + 2 : at + 4])
        body = header[at + 4 : at + 2 + length]
        if code == 0xC0:
            place = at + 5
            factors = [body[7 + 3 * i] for i in range(body[5])]
            mcu = Size(8 * max(f >> 4 for f in factors), 8 * max(f & 15 for f in factors))
        elif code == 0xDD:
            (restart,) = struct.unpack(">H", body[:2])
        elif 0xC1 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            raise ValueError("Expected a baseline JPEG.")
        at += 2 + length
    if not place:
        raise ValueError("Expected a frame header.")
    return place, mcu, restart


def _read(fd: int, offset: int, count: int) -> bytes:
    try:
        data = os.pread(fd, count, offset)
    except OSError as error:
        raise NotExactError(str(error)) from None
    if len(data) != count:
        raise NotExactError("the file ends early")
    return data


def _decoded(data: bytes, **options: Any) -> Rgb:
    try:
        return np.asarray(imagecodecs.jpeg8_decode(data, **options), np.uint8)
    except (RuntimeError, ValueError) as error:
        raise NotExactError(str(error)) from None


def _saying(data: bytes, colour: str) -> bytes | None:
    """A JPEG file that libjpeg takes for one of this colour, with a marker where needed; None where that is unsure."""
    declared = declared_colour(data)
    if colour == YCBCR:
        return None if declared == RGB else data  # libjpeg's default
    if b"JFIF" in data[:_HEAD_BYTES] or declared == YCBCR:  # JFIF comes before any other marker
        return None
    return data if declared == RGB else data[:2] + _ADOBE_RGB + data[2:]


def _without_remark(data: bytes, size: Size) -> Rgb | None:
    """By a decoder as exact and as fast as the other one, which tells of corrupt data; None where it tells anything."""
    try:
        # an end marker that is missing is no damage; data that are missing before it are
        image = np.asarray(simplejpeg.decode_jpeg(data + b"\xff\xd9", "RGB"), np.uint8)
    except ValueError:
        return None
    return image if image.shape == (size.height, size.width, 3) else None


def _of_size(image: Rgb, size: Size) -> Rgb:
    if image.shape != (size.height, size.width, 3):
        raise NotExactError(f"expected {size}, received {image.shape}")
    return image
