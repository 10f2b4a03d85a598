"""Writes a slide as a tiled JPEG pyramid while it is rendered: strips in, a file out."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.errors import VirtualStainError
from virtual_stain.files import replacing
from virtual_stain.geometry import Size
from virtual_stain.phantom import tiff_bytes as tb
from virtual_stain.phantom.tiff_bytes import TiffStream, Value, pixels_per_cm

Rgb = npt.NDArray[np.uint8]

STRIP_PX = 512
_TILE_PX = 256
_STEP = 4
_SMALLEST_PX = 256


class StripSource(Protocol):
    """A slide that can be had from top to bottom."""

    @property
    def size(self) -> Size: ...

    @property
    def mpp(self) -> float: ...

    def strips(self, rows: int) -> Iterator[Rgb]: ...


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid."""

    size: Size
    downsample: int


def pyramid_levels(size: Size) -> tuple[Level, ...]:
    """Each level a quarter of the one before per side, until the next would be smaller than 256 px."""
    levels = [Level(size, 1)]
    while min(levels[-1].size.width, levels[-1].size.height) // _STEP >= _SMALLEST_PX:
        last = levels[-1]
        smaller = Size(last.size.width // _STEP, last.size.height // _STEP)
        levels.append(Level(smaller, last.downsample * _STEP))
    return tuple(levels)


class LevelStore:
    """The smaller levels, filled strip by strip in temporary files beside the slide."""

    def __init__(self, levels: tuple[Level, ...], folder: Path) -> None:
        self._stack = contextlib.ExitStack()
        self._images: list[Any] = []
        for level in levels[1:]:
            stream = self._stack.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
            shape = (level.size.height, level.size.width, 3)
            # a full disk must be an error here, not a bus error at some later write into the map
            os.posix_fallocate(stream.fileno(), 0, int(np.prod(shape)))
            self._images.append(np.memmap(stream, np.uint8, "r+", shape=shape))

    def __enter__(self) -> LevelStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._images.clear()
        self._stack.close()

    def add(self, strip: Rgb, top: int) -> None:
        """Takes a strip of level 0 that starts at row `top`; both are whole multiples of the coarsest step or last."""
        for image in self._images:
            top //= _STEP
            height, width = min(strip.shape[0] // _STEP, image.shape[0] - top), image.shape[1]
            if height <= 0:
                return
            strip = cv2.resize(
                strip[: height * _STEP, : width * _STEP], (width, height), interpolation=cv2.INTER_AREA
            ).astype(np.uint8)
            image[top : top + height] = strip

    def strips(self, index: int, rows: int) -> Iterator[Rgb]:
        """Strips of level `index` ≥ 1."""
        image = self._images[index - 1]
        for top in range(0, image.shape[0], rows):
            yield np.asarray(image[top : top + rows])


def encode_jpeg(rgb: Rgb, quality: int, restart_mcus: int = 0) -> bytes:
    """Baseline JPEG, YCbCr 4:4:4, standard Huffman tables."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    if restart_mcus:
        options += [cv2.IMWRITE_JPEG_RST_INTERVAL, restart_mcus]
    ok, encoded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not ok:
        raise VirtualStainError(f"OpenCV cannot encode a JPEG of {rgb.shape}.")
    return encoded.tobytes()


def write_tiled(path: Path, source: StripSource, quality: int, description: str, *, reduced_flag: bool) -> None:
    """Writes a pyramidal tiled TIFF atomically. `reduced_flag` marks the smaller levels, as generic TIFFs do.

    Raises OutputError.
    """
    levels = pyramid_levels(source.size)
    big = needs_big(source.size)
    with replacing(path) as temporary, temporary.open("wb") as stream, LevelStore(levels, path.parent) as store:
        tiff = TiffStream(stream, path.name, big=big)
        for index, level in enumerate(levels):
            strips = feeding(source.strips(STRIP_PX), store) if index == 0 else store.strips(index, STRIP_PX)
            offsets, counts = _write_tiles(tiff, strips, level.size, quality)
            entries = _entries(level, source.mpp, offsets, counts, big)
            if index == 0 or not reduced_flag:
                entries[270] = (tb.ASCII, description if index == 0 else _level_text(description, levels[0], level))
            if index and reduced_flag:
                entries[254] = (tb.LONG, 1)
            tiff.directory(entries)


def needs_big(size: Size) -> bool:
    """Whether a slide of `size` may outgrow the 4 GB of a classic TIFF: at half a byte per sample it would."""
    return size.area * 1.5 * 1.07 > 3.5e9


def _level_text(description: str, base: Level, level: Level) -> str:
    head, _, tail = description.partition("|")
    vendor = head.split("\n")[0].strip()
    sizes = f"{base.size.width}x{base.size.height} -> {level.size.width}x{level.size.height}"
    return f"{vendor}\r\n{sizes} - |{tail}"


def feeding(strips: Iterator[Rgb], store: LevelStore) -> Iterator[Rgb]:
    """Passes strips of level 0 on and fills the smaller levels with them."""
    top = 0
    for strip in strips:
        store.add(strip, top)
        top += strip.shape[0]
        yield strip


def _write_tiles(tiff: TiffStream, strips: Iterator[Rgb], size: Size, quality: int) -> tuple[list[int], list[int]]:
    offsets, counts = [], []
    columns = -(-size.width // _TILE_PX)
    for strip in strips:
        for y in range(0, strip.shape[0], _TILE_PX):
            band = strip[y : y + _TILE_PX]
            down, right = _TILE_PX - band.shape[0], columns * _TILE_PX - band.shape[1]
            if down or right:
                band = cv2.copyMakeBorder(band, 0, down, 0, right, cv2.BORDER_REPLICATE).astype(np.uint8)
            for x in range(columns):
                data = encode_jpeg(band[:, x * _TILE_PX : (x + 1) * _TILE_PX], quality)
                offsets.append(tiff.data(data))
                counts.append(len(data))
    return offsets, counts


def _entries(
    level: Level, mpp: float, offsets: list[int], counts: list[int], big: bool
) -> dict[int, tuple[int, Value]]:
    resolution = pixels_per_cm(mpp) / level.downsample
    return {
        256: (tb.LONG, level.size.width),
        257: (tb.LONG, level.size.height),
        258: (tb.SHORT, (8, 8, 8)),
        259: (tb.SHORT, 7),  # JPEG
        262: (tb.SHORT, 6),  # YCbCr
        277: (tb.SHORT, 3),
        282: (tb.RATIONAL, resolution),
        283: (tb.RATIONAL, resolution),
        284: (tb.SHORT, 1),
        296: (tb.SHORT, 3),  # per centimetre
        305: (tb.ASCII, "virtual-stain phantom"),
        322: (tb.LONG, _TILE_PX),
        323: (tb.LONG, _TILE_PX),
        324: (tb.LONG8 if big else tb.LONG, offsets),
        325: (tb.LONG, counts),
        530: (tb.SHORT, (1, 1)),
    }
