"""What no camera took: tiles that were never written, black around the scan, padding of one colour.

It is neither glass nor tissue. A scanner's picture is never of one exact value over a large area unless it is
overexposed glass, which is as light as the rest of the glass. So what is flat, large and dark, or flat, large, coloured
and at the picture's edge, was filled in by a program.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Affine2D, Box, Points, Size
from virtual_stain.slides.description import TileTable
from virtual_stain.slides.source import Rgb

Mask = npt.NDArray[np.bool_]

_FLAT_LEVELS = 1  # of 255, over 3 px: filled areas after lossy compression
_BLACK = 40  # of 255: scanners' black, with some noise
_LIGHT = 60  # of 255, in the darkest channel: half of a brightfield picture; fluorescence has dark channels
_BLACK_NOISE_LEVELS = 3
_ONE_COLOUR_LEVELS = 2  # over a whole area that is filled with a colour
_DARK = 0.85  # of the picture's brightest places, in the brightest channel: glass is at least as light
_COLOURED = 1.07  # brightest over darkest channel, an optical density of 0.03: from here on it could pass for tissue
_LEAST_PX, _LEAST_FRACTION = 150, 0.0005  # of the picture; less may be saturated pigment
_LEAST_PICTURE = 0.05  # of a picture is not flat, if a camera took any of it
_RECTANGLE = 0.95  # of its bounding box: a missing tile inside the scan
_RINGING_PX, _RINGING_LEVELS = 8, 16  # of JPEG, whose blocks have 8 px
_RIM_PX = 2  # where compression and scaling mix it with the picture


@dataclass(frozen=True, slots=True, eq=False)
class MissingTiles:
    """The tiles of one level that were never written."""

    table: TileTable
    scale: tuple[float, float]
    """px0 per px of the level."""

    def on(self, shape: tuple[int, ...], px0_from_ov: Affine2D) -> Mask:
        """bool[h, w] of a picture: its pixels whose centre lies in such a tile."""
        rows, columns = self.table.missing.shape
        at = px0_from_ov.matrix
        x = (at[0, 0] * (np.arange(shape[1]) + 0.5) + at[0, 2]) / self.scale[0] / self.table.tile.width
        y = (at[1, 1] * (np.arange(shape[0]) + 0.5) + at[1, 2]) / self.scale[1] / self.table.tile.height
        inside_x, inside_y = (x >= 0) & (x < columns), (y >= 0) & (y < rows)
        column, row = np.clip(x.astype(np.intp), 0, columns - 1), np.clip(y.astype(np.intp), 0, rows - 1)
        return np.asarray(self.table.missing[np.ix_(row, column)] & inside_y[:, None] & inside_x, np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class UnknownArea:
    """Places of a slide that no camera took, with their rim; picklable, and small where it is `cropped`."""

    mask: Mask
    """bool[h, w] on an overview."""
    px0_from_ov: Affine2D
    """A scale and a shift per axis."""

    def at(self, points_px0: Points) -> Mask:
        """float64[N, 2] level-0 px → bool[N]. Beyond the mask, its edge goes on."""
        column, row = np.floor(self.px0_from_ov.inverse().apply(points_px0)).astype(np.intp).T
        height, width = self.mask.shape
        return np.asarray(self.mask[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)], np.bool_)

    def on(self, size: Size, box: Box) -> Mask:
        """bool[H, W] of a picture of `size` px that shows `box` (level-0 px): by the pixels' centres."""
        x = box.x + (np.arange(size.width) + 0.5) * box.width / size.width
        y = box.y + (np.arange(size.height) + 0.5) * box.height / size.height
        return np.asarray(self.mask[np.ix_(self._index(y, 1), self._index(x, 0))], np.bool_)

    def blanked(self, image: Rgb, box: Box) -> Rgb:
        """A picture of `box` (level-0 px), white where no camera took it, as it is beyond the scan."""
        if self.cropped(box) is None:
            return image
        unknown = self.on(Size(image.shape[1], image.shape[0]), box)
        return np.where(unknown[..., None], np.uint8(255), image) if unknown.any() else image

    def cropped(self, box: Box) -> UnknownArea | None:
        """The part that tells of `box` (level-0 px); None where nothing of it is unknown."""
        columns, rows = self._index(np.array([box.x, box.x1]), 0), self._index(np.array([box.y, box.y1]), 1)
        x0, y0 = int(columns[0]), int(rows[0])
        part = self.mask[y0 : int(rows[1]) + 1, x0 : int(columns[1]) + 1]
        if not part.any():
            return None
        return UnknownArea(part.copy(), self.px0_from_ov @ Affine2D.scale_and_shift("ov", "ov", (1.0, 1.0), (x0, y0)))

    def _index(self, values: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.intp]:
        scale, shift = self.px0_from_ov.matrix[axis, axis], self.px0_from_ov.matrix[axis, 2]
        index = np.floor((values - shift) / scale).astype(np.intp)
        return np.asarray(np.clip(index, 0, self.mask.shape[1 - axis] - 1), np.intp)


def is_brightfield(rgb: Rgb) -> bool:
    """Whether a picture (uint8[H, W, 3]) is light on the whole: fluorescence is colour on black."""
    brightest = rgb.max(axis=-1)
    return not (float((brightest < 48).mean()) > 0.5 and float((brightest > 128).mean()) < 0.25)


def filled_mask(rgb: Rgb) -> Mask:
    """bool[H, W]: places of a picture uint8[H, W, 3] that a program filled with black or another dark colour.

    Nothing where the picture is fluorescence, whose ground is as black.
    """
    kernel = np.ones((3, 3), np.uint8)
    spread = _largest(np.asarray(cv2.subtract(cv2.dilate(rgb, kernel), cv2.erode(rgb, kernel)), np.uint8))
    brightest, darkest = _largest(rgb), ~_largest(~rgb)
    flat = spread <= _FLAT_LEVELS
    black = (brightest <= _BLACK) & (spread <= _BLACK_NOISE_LEVELS)
    light = _DARK * float(np.percentile(brightest, 99))
    coloured = flat & ~black & ((brightest < light) | (brightest > darkest * np.float32(_COLOURED) + 1))
    filled = _large(black, rgb, one_colour=False)
    filled = filled | (grown(filled) & (brightest <= _BLACK))
    if float((~flat).mean()) > _LEAST_PICTURE:
        filled |= _large(coloured, rgb, one_colour=True)
    known = rgb[~filled]
    if not is_brightfield(rgb) and not (known.size and float(np.median(known.min(axis=-1))) > _LIGHT):
        return np.zeros_like(filled)
    return np.asarray(filled, np.bool_)


def _largest(rgb: Rgb) -> npt.NDArray[np.uint8]:
    """uint8[H, W]: the largest channel of every pixel."""
    r, g, b = cv2.split(rgb)
    return np.asarray(cv2.max(cv2.max(r, g), b), np.uint8)


def _large(candidate: Mask, rgb: Rgb, *, one_colour: bool) -> Mask:
    """Its large areas that reach the picture's edge, or fill a rectangle and are black."""
    result = np.zeros(candidate.shape, np.bool_)
    if not candidate.any():
        return result
    height, width = candidate.shape
    _, labels, stats, _ = cv2.connectedComponentsWithStats(candidate.astype(np.uint8), connectivity=4)
    least = max(_LEAST_PX, _LEAST_FRACTION * candidate.size)
    for i in np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= least) + 1:
        x, y, w, h, area = (int(v) for v in stats[i])
        edge = min(x, y, width - x - w, height - y - h) <= _RIM_PX  # where flatness is lost
        if not edge and (one_colour or area < _RECTANGLE * w * h):
            continue
        if one_colour and not _lines_a_side(labels == i):
            continue
        part = labels[y : y + h, x : x + w] == i
        if one_colour and np.ptp(rgb[y : y + h, x : x + w][part], axis=0).max() > _ONE_COLOUR_LEVELS:
            continue
        result[y : y + h, x : x + w] |= part
        if one_colour:
            result |= _of_that_colour(grown(labels == i, _RINGING_PX), rgb, rgb[y : y + h, x : x + w][part])
    return result


def _of_that_colour(near: Mask, rgb: Rgb, filled: npt.NDArray[np.uint8]) -> Mask:
    """Places beside an area of one colour that compression has changed a little; `filled`: uint8[N, 3], its pixels."""
    low, high = (np.clip(np.median(filled, axis=0) + d, 0, 255) for d in (-_RINGING_LEVELS, _RINGING_LEVELS))
    return np.asarray(near & (cv2.inRange(rgb, low, high) > 0), np.bool_)


def _lines_a_side(part: Mask) -> bool:
    """Whether it runs along a whole side of the picture, as padding does and no piece of tissue."""
    inner = part[_RIM_PX:-_RIM_PX, _RIM_PX:-_RIM_PX]
    return inner.size > 0 and any(
        float(side.mean()) > _RECTANGLE for side in (inner[0], inner[-1], inner[:, 0], inner[:, -1])
    )


def grown(mask: Mask, px: int = _RIM_PX) -> Mask:
    """With its rim."""
    if not mask.any():
        return mask
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((2 * px + 1, 2 * px + 1), np.uint8)) > 0, np.bool_)


def tissue_behind(unknown: Mask, missing: Mask, tissue: Mask) -> int:
    """How many pixels of `unknown` would be tissue: of every area that share which its surroundings have.

    A frame that reaches the picture's edge lies outside the scan, unless the file names it as `missing` tiles.
    """
    if not unknown.any():
        return 0
    count, labels = cv2.connectedComponents(unknown.astype(np.uint8), connectivity=8)
    rim = grown(unknown, 3) & ~grown(unknown, 1)
    nearest = cv2.dilate(labels.astype(np.float32), np.ones((7, 7), np.uint8)).astype(np.intp)
    around = np.bincount(nearest[rim], minlength=count)
    stained = np.bincount(nearest[rim & tissue], minlength=count)
    area = np.bincount(labels.ravel(), minlength=count)
    outside = np.zeros(count, np.bool_)
    outside[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = True
    outside[np.unique(labels[missing])] = False
    share = np.where(outside, 0.0, stained / np.maximum(around, 1))
    return int((area * share)[1:].sum())
