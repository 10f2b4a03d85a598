"""overlay.jpg: where the cells are on the slide, and one place to judge the counting by; overlay_full.jpg: more of that
place, pixel by pixel as the scanner saw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cell_files import COLOURS
from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.lettering import put_text, shortened
from virtual_stain.counting.outlines import Outline, draw_cell, draw_region, draw_scale_bar, with_legend
from virtual_stain.geometry import Box, Points, Size
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.window import read_window

U8 = npt.NDArray[np.uint8]

PANEL_PX = 1000
CLOSE_UP_UM = 250.0
FULL_PX = 2400
"""Side of overlay_full.jpg, level-0 px: smaller slides are on it as a whole."""
_TEXT_PX = 34
_TITLE_PX = 18
_REGION_PX = 2  # thickness of its border
_FADED = 0.7  # of the dot of a cell that is not in the percentage


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What is drawn on a slide."""

    cells: Cells
    outlines: Sequence[Outline]
    """Of the cells in the close-up and around it."""
    region: Sequence[Points]
    """Rings float64[M, 2] px0 of the region that decided about tumour cells; empty without one."""
    tumour_source: str
    date: str = ""
    """Of the slide's file, ISO 8601: not the day of the count, so that a count repeated later gives the same bytes."""


def close_up_box(slide: Slide, cells: Cells, mpp: tuple[float, float]) -> Box:
    """The square of `CLOSE_UP_UM` with the most positive tumour cells, px0; where there are none, with the most
    positive cells, or the most cells."""
    b = slide.bounds
    side = CLOSE_UP_UM / mpp[0], CLOSE_UP_UM / mpp[1]
    width, height = min(side[0], b.width), min(side[1], b.height)
    positive = cells.cell_class == CellClass.POSITIVE
    chosen = positive & cells.tumour if (positive & cells.tumour).any() else positive
    points = cells.xy[chosen] if chosen.any() else cells.xy
    x, y = b.centre
    if len(points):
        bins = max(1, round(b.width / width * 2)), max(1, round(b.height / height * 2))
        edges = (b.x, b.x1), (b.y, b.y1)
        density, x_edges, y_edges = np.histogram2d(points[:, 0], points[:, 1], bins=bins, range=edges)
        i, j = np.unravel_index(int(density.argmax()), density.shape)
        x, y = (x_edges[i] + x_edges[i + 1]) / 2, (y_edges[j] + y_edges[j + 1]) / 2
    left = float(np.clip(x - width / 2, b.x, b.x1 - width))
    top = float(np.clip(y - height / 2, b.y, b.y1 - height))
    return Box(left, top, width, height)


def full_box(slide: Slide, close_up: Box) -> Box:
    """The square of FULL_PX around `close_up`, inside the scan, on whole px0."""
    b, (x, y) = slide.bounds, close_up.centre
    width, height = min(FULL_PX, int(b.width)), min(FULL_PX, int(b.height))
    left = float(np.floor(np.clip(x - width / 2, b.x, b.x1 - width)))
    top = float(np.floor(np.clip(y - height / 2, b.y, b.y1 - height)))
    return Box(left, top, width, height)


def draw_full(slide: Slide, drawn: Drawn, box: Box) -> U8:
    """uint8[H, W, 3] RGB: `box` at full resolution with the cells' outlines; what they mean stands below."""
    image = _outlined(slide, drawn, box, Size(int(box.width), int(box.height)), 2)
    return _explained(image, slide, drawn)


def _explained(image: U8, slide: Slide, drawn: Drawn) -> U8:
    return with_legend(image, drawn.tumour_source, has_region=bool(drawn.region), slide=slide.name, date=drawn.date)


def draw_overlay(slide: Slide, drawn: Drawn, close_up: Box, title: str) -> U8:
    """uint8[H, W, 3] RGB: the whole scan with a dot for every cell, beside `close_up` with the cells' outlines.

    Tumour cells are full dots and solid outlines, others faint dots and dashed outlines.
    """
    left = _whole(slide, drawn, close_up)
    scale = PANEL_PX / max(close_up.width, close_up.height)
    size = Size(max(1, round(close_up.width * scale)), max(1, round(close_up.height * scale)))
    right = _outlined(slide, drawn, close_up, size, 2)
    height = max(left.shape[0], right.shape[0])
    canvas = np.full((height + _TEXT_PX, left.shape[1] + right.shape[1] + 8, 3), 255, np.uint8)
    canvas[_TEXT_PX : _TEXT_PX + left.shape[0], : left.shape[1]] = left
    canvas[_TEXT_PX : _TEXT_PX + right.shape[0], left.shape[1] + 8 :] = right
    put_text(canvas, shortened(title, _TITLE_PX, canvas.shape[1] - 16), (8, 24), _TITLE_PX)
    return _explained(canvas, slide, drawn)


def _whole(slide: Slide, drawn: Drawn, close_up: Box) -> U8:
    b, cells = slide.bounds, drawn.cells
    scale = PANEL_PX / max(b.width, b.height)
    size = Size(max(1, round(b.width * scale)), max(1, round(b.height * scale)))
    image = np.array(read_window(slide, b, size))
    image = (255 - (255 - image.astype(np.float32)) * 0.6).astype(np.uint8)  # faded, so that the dots stand out
    per_px0 = np.array([size.width / b.width, size.height / b.height])
    at = ((cells.xy - (b.x, b.y)) * per_px0).astype(np.intp)
    radius = 1 if len(cells) > 3000 else 2
    # tumour cells on the others, positives on top
    for i in np.lexsort((cells.cell_class == CellClass.POSITIVE, cells.tumour)).tolist():
        colour = np.array(COLOURS[CellClass(int(cells.cell_class[i]))], np.float64)
        shown = colour if cells.tumour[i] else 255 - (255 - colour) * (1 - _FADED)
        cv2.circle(image, (int(at[i, 0]), int(at[i, 1])), radius, shown.tolist(), -1, cv2.LINE_AA)
    draw_region(image, [(ring - (b.x, b.y)) * per_px0 for ring in drawn.region], _REGION_PX)
    corners = ((close_up.corners() - (b.x, b.y)) * scale).round().astype(int)
    cv2.rectangle(image, corners[0].tolist(), corners[2].tolist(), (0, 0, 0), 2)
    _scale(image, slide, b)
    return image


def _outlined(slide: Slide, drawn: Drawn, box: Box, size: Size, thickness: int) -> U8:
    image = np.array(read_window(slide, box, size))
    scale = np.array([size.width / box.width, size.height / box.height])
    for cell in drawn.outlines:
        draw_cell(image, cell, (cell.ring - (box.x, box.y)) * scale, thickness)
    draw_region(image, [(ring - (box.x, box.y)) * scale for ring in drawn.region], _REGION_PX)
    _scale(image, slide, box)
    return image


def _scale(image: U8, slide: Slide, box: Box) -> None:
    assert slide.mpp is not None  # nothing is counted without a pixel size
    draw_scale_bar(image, slide.mpp.x * box.width / image.shape[1])
