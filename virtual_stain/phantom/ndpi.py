"""Writes a minimal Hamamatsu NDPI: one JPEG per level with a restart marker every few hundred blocks.

The layout is the one that OpenSlide documents and its `hamamatsu` reader demands (openslide.org/formats/hamamatsu):
each level is a directory with a single strip, SourceLens gives the level's magnification, McuStarts the places of the
restart intervals. A level is encoded strip by strip; strips are joined at restart markers, where JPEG's state is reset.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from virtual_stain.errors import OutputError, VirtualStainError
from virtual_stain.files import replacing
from virtual_stain.geometry import Size
from virtual_stain.phantom import tiff_bytes as tb
from virtual_stain.phantom.pyramid import (
    STRIP_PX,
    Level,
    LevelStore,
    Rgb,
    StripSource,
    encode_jpeg,
    feeding,
    pyramid_levels,
)
from virtual_stain.phantom.tiff_bytes import TiffStream, Value, pixels_per_cm

_MCU_PX = 8  # 4:4:4: a block of 8 × 8 px
_MAX_RESTART = 512
_JPEG_LIMIT_PX = 65_500
_EOI = b"\xff\xd9"


def write_ndpi(path: Path, source: StripSource, quality: int) -> None:
    """Writes `source` atomically. Raises OutputError where it is too large for one JPEG per level."""
    if max(source.size.width, source.size.height) > _JPEG_LIMIT_PX:
        raise OutputError(
            f"{path}: {source.size.width} × {source.size.height} px; an NDPI level of this writer is one JPEG, "
            f"which ends at {_JPEG_LIMIT_PX} px per side.",
            hint="Use --format tiff, a smaller --size-mm or a larger pixel size.",
        )
    levels = pyramid_levels(source.size)
    with replacing(path) as temporary, temporary.open("wb") as stream, LevelStore(levels, path.parent) as store:
        tiff = TiffStream(stream, path.name, ndpi=True)
        for index, level in enumerate(levels):
            strips = feeding(source.strips(STRIP_PX), store) if index == 0 else store.strips(index, STRIP_PX)
            offset, count, starts = _write_jpeg(tiff, strips, level.size, quality)
            tiff.directory(_entries(level, source.mpp, offset, count, starts))


def restart_interval(width: int) -> int:
    """Blocks between restart markers: the largest divisor of a row's blocks that is at most 512."""
    per_row = -(-width // _MCU_PX)
    return max(n for n in range(1, min(per_row, _MAX_RESTART) + 1) if per_row % n == 0)


def _write_jpeg(
    tiff: TiffStream, strips: Iterator[Rgb], size: Size, quality: int
) -> tuple[int, int, npt.NDArray[np.int64]]:
    """Joins the strips into one JPEG; returns its offset, length and the starts of its restart intervals."""
    interval = restart_interval(size.width)
    begin, written, number = 0, 0, 0
    starts: list[npt.NDArray[np.int64]] = []
    for strip in strips:
        header, scan = _split(encode_jpeg(strip, quality, interval))
        if written == 0:
            begin = tiff.data(_with_height(header, size.height))
            written = len(header)
        else:
            # the marker that stands between this strip and the one before
            tiff.data(bytes([0xFF, 0xD0 + number % 8]))
            number += 1
            written += 2
        data = np.frombuffer(scan, np.uint8).copy()
        markers = np.flatnonzero((data[:-1] == 0xFF) & (data[1:] >= 0xD0) & (data[1:] <= 0xD7))
        data[markers + 1] = 0xD0 + (number + np.arange(len(markers))) % 8
        starts.append(written + np.concatenate([[0], markers + 2]))
        number += len(markers)
        tiff.data(data.tobytes())
        written += len(data)
    tiff.data(_EOI)
    all_starts = np.concatenate(starts)
    expected = -(-size.width // _MCU_PX) // interval * -(-size.height // _MCU_PX)
    if len(all_starts) != expected:
        raise VirtualStainError(f"{tiff.name}: expected {expected} restart intervals. Received: {len(all_starts)}")
    return begin, written + len(_EOI), all_starts


def _split(jpeg: bytes) -> tuple[bytes, bytes]:
    """A JPEG as (everything up to the scan's data, the data without the end marker)."""
    position = 2
    while True:
        marker, length = jpeg[position + 1], int.from_bytes(jpeg[position + 2 : position + 4], "big")
        position += 2 + length
        if marker == 0xDA:  # start of scan
            return jpeg[:position], jpeg[position:-2]


def _with_height(header: bytes, height: int) -> bytes:
    """The header of a strip, made the header of the whole level."""
    position = 2
    while header[position + 1] != 0xC0:  # start of frame, baseline
        position += 2 + int.from_bytes(header[position + 2 : position + 4], "big")
    return header[: position + 5] + height.to_bytes(2, "big") + header[position + 7 :]


def _entries(
    level: Level, mpp: float, offset: int, count: int, starts: npt.NDArray[np.int64]
) -> dict[int, tuple[int, Value]]:
    resolution = pixels_per_cm(mpp) / level.downsample
    return {
        256: (tb.LONG, level.size.width),
        257: (tb.LONG, level.size.height),
        258: (tb.SHORT, (8, 8, 8)),
        259: (tb.SHORT, 7),
        262: (tb.SHORT, 6),
        271: (tb.ASCII, "Hamamatsu"),
        272: (tb.ASCII, "virtual-stain phantom"),
        273: (tb.LONG, offset),
        277: (tb.SHORT, 3),
        278: (tb.LONG, level.size.height),
        279: (tb.LONG, count),
        282: (tb.RATIONAL, resolution),
        283: (tb.RATIONAL, resolution),
        296: (tb.SHORT, 3),
        530: (tb.SHORT, (1, 1)),
        65420: (tb.SHORT, 1),  # this is an NDPI
        65421: (tb.FLOAT, 10.0 / mpp / level.downsample),  # SourceLens
        65422: (tb.SLONG, 0),
        65423: (tb.SLONG, 0),
        65424: (tb.SLONG, 0),  # focal plane
        65426: (tb.LONG, [int(v) for v in starts]),
    }
