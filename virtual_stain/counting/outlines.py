"""How a counted cell and a region are drawn: what entered the percentage is solid, all else is dashed.

The shape of the line tells tumour from other, so that it is seen without colours, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cell_files import COLOURS
from virtual_stain.counting.cells import CellClass
from virtual_stain.counting.lettering import put_text, shortened, text_width
from virtual_stain.counting.source_words import source_words
from virtual_stain.geometry import Points, scale_bar_um

U8 = npt.NDArray[np.uint8]

REGION_COLOUR = (0, 130, 60)
SHIFT = 3  # cv2 draws to 1/8 px
_DASH_PX = 4.0
_DASHES = (3, 40)  # at least and at most on one outline
_ROW_PX, _SAMPLE_PX, _LETTER_PX = 24, 30, 14
_MIN_LEGEND_PX = 460


class Outline(NamedTuple):
    """One cell as it is drawn."""

    cell_class: int
    """CellClass."""
    tumour: bool
    """Whether it entered the percentage of tumour cells."""
    ring: Points
    """float64[M, 2], open; px0."""


def draw_cell(image: U8, cell: Outline, ring_px: Points, thickness: int) -> None:
    """`ring_px`: the cell's outline in px of `image`; a tumour cell solid, another one thin and dashed."""
    colour = COLOURS[CellClass(cell.cell_class)]
    if cell.tumour:
        cv2.polylines(image, [_fixed(ring_px)], True, colour, thickness, cv2.LINE_AA, shift=SHIFT)
    else:
        cv2.polylines(image, list(_fixed(_dashes(ring_px))), False, colour, 1, cv2.LINE_AA, shift=SHIFT)


def draw_region(image: U8, rings_px: Sequence[Points], thickness: int) -> None:
    """The border of the region; of rings far larger than the image only what touches it."""
    height, width = image.shape[:2]
    for ring in rings_px:
        pieces = np.stack([ring, np.roll(ring, -1, axis=0)], axis=1)
        low, high = pieces.min(axis=1), pieces.max(axis=1)
        near = ((high > -thickness) & (low < (width + thickness, height + thickness))).all(axis=1)
        if near.any():
            cv2.polylines(image, list(_fixed(pieces[near])), False, REGION_COLOUR, thickness, cv2.LINE_AA, shift=SHIFT)


def with_legend(image: U8, source: str, *, has_region: bool, slide: str = "", date: str = "") -> U8:
    """`image` with what its lines mean below it; wider with white, where it is narrow.

    `source`: as summary.json says what decided about tumour cells; `slide`, `date`: of the slide and of its file.
    """
    width = max(image.shape[1], _MIN_LEGEND_PX)
    kinds = [("positive", CellClass.POSITIVE), ("negative", CellClass.NEGATIVE)]
    items = [(f"tumour cell, {name}", COLOURS[kind], True) for name, kind in kinds]
    items += [(f"not in the percentage, {name}", COLOURS[kind], False) for name, kind in kinds]
    items.append(("other object", COLOURS[CellClass.OTHER], False))
    if has_region:
        items.append(("border of the region", REGION_COLOUR, True))
    about = [
        " · ".join(part for part in (slide, f"slide file of {date}" if date else "") if part),
        source_words(source),
    ]
    lines = [line for text in about if text for line in _wrapped(text, width - 16)]
    places, x, row = [], 8, len(lines)
    for text, _, _ in items:
        wide = _SAMPLE_PX + 24 + text_width(text, _LETTER_PX)
        if x > 8 and x + wide > width:
            x, row = 8, row + 1
        places.append((x, row))
        x += wide
    canvas = np.full((image.shape[0] + _ROW_PX * (row + 1) + 6, width, 3), 255, np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    below = canvas[image.shape[0] :]
    for i, line in enumerate(lines):
        put_text(below, line, (8, _ROW_PX * i + 17), _LETTER_PX)
    for (text, colour, solid), (x, row) in zip(items, places, strict=True):
        y = _ROW_PX * row + 12
        ends = (
            [(0.0, float(_SAMPLE_PX))] if solid else [(d, d + _DASH_PX) for d in np.arange(0, _SAMPLE_PX, 2 * _DASH_PX)]
        )
        pieces = np.array([[(x + start, y), (x + end, y)] for start, end in ends], np.float64)
        cv2.polylines(below, list(_fixed(pieces)), False, colour, 2 if solid else 1, cv2.LINE_AA, shift=SHIFT)
        put_text(below, text, (x + _SAMPLE_PX + 6, y + 5), _LETTER_PX)
    return canvas


def draw_scale_bar(image: U8, um_per_px: float) -> None:
    """A bar of 1, 2 or 5 · 10ⁿ µm, at most a quarter of the width, on the lower left of the picture."""
    height, width = image.shape[:2]
    length_um = scale_bar_um(width * um_per_px)
    length = max(1, round(length_um / um_per_px))
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    wide, high = max(length, text_width(text, _LETTER_PX)) + 16, _LETTER_PX + 20
    if wide > width or high > height:
        return  # a picture of a few px
    image[height - high :, :wide] = 255
    image[height - 10 : height - 5, 8 : 8 + length] = 0
    put_text(image, text, (8, height - 15), _LETTER_PX)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of whole words that fit into `width` px; a longer word is shortened."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, _LETTER_PX) <= width:
            lines[-1] = longer
        else:
            lines.append(shortened(word, _LETTER_PX, width))
    return [line for line in lines if line]


def _fixed(points: Points) -> npt.NDArray[np.int32]:
    """As cv2 counts: pixel centres at whole numbers, in 1/8 px."""
    return np.asarray(np.round((points - 0.5) * 2**SHIFT), np.int32)


def _dashes(ring: Points) -> npt.NDArray[np.float64]:
    """float64[K, 2, 2]: every other piece of a closed ring."""
    closed = np.concatenate([ring, ring[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    n = int(np.clip(along[-1] / (2 * _DASH_PX), *_DASHES))
    at = np.arange(2 * n) * (along[-1] / (2 * n))
    points = np.stack([np.interp(at, along, closed[:, 0]), np.interp(at, along, closed[:, 1])], axis=1)
    return points.reshape(n, 2, 2)
