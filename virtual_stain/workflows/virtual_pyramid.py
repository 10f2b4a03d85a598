"""A virtual slide as a file: an OME-TIFF pyramid that says in its name, its metadata and its picture what it is.

The picture has the frame of the H&E's scan. Glass is lilac, a colour that no scanner has, and bears a text at every
level. What has no reading is grey. All else has the lilac light of that glass.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Size
from virtual_stain.progress import QUIET, Progress
from virtual_stain.slides.virtual_look import VIRTUAL_GLASS
from virtual_stain.slides.virtual_mark import VIRTUAL_MARK, VIRTUAL_SENTENCE
from virtual_stain.virtual.draw import REFERENCE
from virtual_stain.workflows.pyramid import TILE_PX, pyramid_levels, tiles_across, write_pyramid

LILAC = VIRTUAL_GLASS
_TEXT = ("VIRTUAL - predicted from H&E", "not a stain - research use only")
_TEXT_COLOUR = (122, 84, 160)
_PATTERN = Size(1024, 256)
Rgb = npt.NDArray[np.uint8]


class Canvas:
    """The picture while it is made: a file for each level, so that memory holds a block at a time.

    Pixels that nobody draws stay empty and cost no disk where files may have holes.
    """

    def __init__(self, folder: Path, size: Size) -> None:
        """Raises OSError."""
        self.levels = pyramid_levels(size)
        self._paths = [folder / f"level-{i}" for i in range(len(self.levels))]
        for path, level in zip(self._paths, self.levels, strict=True):
            with path.open("wb") as file:
                file.truncate(level.area * 3)

    def draw(self, x: int, y: int, rgb: Rgb) -> None:
        """Puts uint8[h, w, 3] at a place of level 0, px; what reaches beyond the picture is left out."""
        size = self.levels[0]
        height, width = max(0, min(rgb.shape[0], size.height - y)), max(0, min(rgb.shape[1], size.width - x))
        if height and width:
            self._open(0)[y : y + height, x : x + width] = np.maximum(rgb[:height, :width], 1)  # 0 0 0: not drawn

    def tiles(self) -> Iterator[Rgb]:
        """uint8[TILE_PX, TILE_PX, 3], level by level and row by row, as `write_pyramid` takes them."""
        for level, size in enumerate(self.levels):
            for row in range(tiles_across(size.height)):
                for column in range(tiles_across(size.width)):
                    yield self._tile(level, column * TILE_PX, row * TILE_PX)

    def _open(self, level: int) -> Rgb:
        # opened anew each time: what stays mapped would count as this process' memory
        size = self.levels[level]
        mapped: Rgb = np.memmap(self._paths[level], np.uint8, "r+", shape=(size.height, size.width, 3))
        return mapped

    def _tile(self, level: int, x: int, y: int) -> Rgb:
        size = self.levels[level]
        height, width = min(TILE_PX, size.height - y), min(TILE_PX, size.width - x)
        if level == 0:
            drawn = np.array(self._open(0)[y : y + height, x : x + width])
        else:
            drawn = _halved(np.array(self._open(level - 1)[2 * y : 2 * (y + height), 2 * x : 2 * (x + width)]))
            if drawn.any():
                self._open(level)[y : y + height, x : x + width] = drawn
        tile = glass(x, y)
        empty = ~drawn.any(axis=2, keepdims=True)
        tile[:height, :width] = np.where(empty, tile[:height, :width], drawn)
        return tile


def glass(x: int, y: int) -> Rgb:
    """uint8[TILE_PX, TILE_PX, 3] of bare glass from a place (px of any level) on: lilac, with the text."""
    rows, columns = (np.arange(v, v + TILE_PX) % side for v, side in ((y, _PATTERN.height), (x, _PATTERN.width)))
    return np.asarray(_pattern()[np.ix_(rows, columns)], np.uint8)


def tinted(rgb: Rgb) -> Rgb:
    """A drawn picture under the light of lilac glass."""
    light = np.array(LILAC, np.float32) / np.array(REFERENCE.background, np.float32)
    return np.clip(np.rint(rgb * light), 1, 255).astype(np.uint8)


def without_reading(he: Rgb) -> Rgb:
    """The H&E (uint8[h, w, 3]) in pale grey: tissue that nothing is said about."""
    grey = 110.0 + 0.45 * cv2.cvtColor(he, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)


def write_virtual_slide(
    path: Path, canvas: Canvas, mpp: float, facts: Mapping[str, str], progress: Progress = QUIET
) -> None:
    """Writes the file. `mpp`: of level 0, µm/px; `facts`: what the metadata say beside that it is a prediction.

    Raises OutputError.
    """
    size = canvas.levels[0]
    level_um = [(mpp * size.width / level.width, mpp * size.height / level.height) for level in canvas.levels]
    said = {"mark": VIRTUAL_MARK, "is": VIRTUAL_SENTENCE, **facts}
    name = f"VIRTUAL {path.name.removesuffix('.ome.tif')}"
    write_pyramid(path, name, canvas.levels, canvas.tiles(), level_um, progress, facts=said, software=VIRTUAL_MARK)


def _halved(rgb: Rgb) -> Rgb:
    """uint8[ceil(h/2), ceil(w/2), 3]: the mean of what is drawn; empty where less than half of four pixels is."""
    height, width = (side + side % 2 for side in rgb.shape[:2])
    padded = np.zeros((height, width, 3), np.float32)
    padded[: rgb.shape[0], : rgb.shape[1]] = rgb
    blocks = padded.reshape(height // 2, 2, width // 2, 2, 3)
    count = (blocks.max(axis=4) > 0).sum(axis=(1, 3))[..., None]
    mean = blocks.sum(axis=(1, 3)) / np.maximum(count, 1)
    return np.where(count >= 2, np.maximum(np.rint(mean), 1), 0).astype(np.uint8)


@functools.cache
def _pattern() -> Rgb:
    image = np.full((_PATTERN.height, _PATTERN.width, 3), LILAC, np.uint8)
    for line, text in enumerate(_TEXT):
        where = (24 + 512 * line, 128 * line + 76)
        cv2.putText(image, text, where, cv2.FONT_HERSHEY_SIMPLEX, 0.85, _TEXT_COLOUR, 2, cv2.LINE_AA)
    return image
