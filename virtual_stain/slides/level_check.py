"""Whether the levels of a pyramid show one picture. Sizes cannot tell: a writer that fails halfway leaves a level of
the right size that is black, shifted, or of another slide, and every mask and window read from it is then wrong.

Each level is compared with the next finer one at the few places where the coarsest shows most.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Size
from virtual_stain.slides.source import Levels

_PLACES = 4
_SIDE_PX, _REACH_PX = 64, 4  # of a compared part; how far both may lie apart by rounding
_LOOK_PX = 1024  # longer side of the picture in which places are chosen
_LEAST_SPREAD = 4.0  # standard deviation of grey levels; less shows nothing to compare
_LEAST_ALIKE = 0.5  # correlation at the best place: levels of 20 real pyramids have 0.74 and more, others below 0.25
_LARGEST_STEP = 40.0  # a level is this much coarser than the next finer one at most, or it would cost too much


def unlike_level(slide: Levels, sizes: Sequence[Size]) -> int | None:
    """The first level that shows another picture than the next finer one; None: all agree, or cannot be compared.

    `sizes`: of the levels, px. Raises SlideError where a region cannot be read.
    """
    if len(sizes) < 2:
        return None
    places = _places(slide, sizes)
    for level in range(1, len(sizes)):
        alike = [a for box in places if (a := _alike(slide, level, sizes, box)) is not None]
        if len(alike) > 1 and max(alike) < _LEAST_ALIKE:
            return level
    return None


def _places(slide: Levels, sizes: Sequence[Size]) -> list[tuple[float, float]]:
    """Points (level-0 px) where level 0 may show most, by the finest level that is small enough to be looked at."""
    level = next((i for i, s in enumerate(sizes) if max(s.width, s.height) <= _LOOK_PX), len(sizes) - 1)
    size = Size(min(sizes[level].width, _LOOK_PX), min(sizes[level].height, _LOOK_PX))
    grey = _grey(slide, level, 0, 0, size)
    cell = max(8, max(size.width, size.height) // 16)
    mean, square = (cv2.blur(g, (cell, cell)) for g in (grey, grey * grey))
    spread = np.sqrt(np.maximum(square - mean * mean, 0))
    found = []
    for _ in range(_PLACES):
        row, column = (int(i) for i in np.unravel_index(int(spread.argmax()), spread.shape))
        found.append(((column + 0.5) * slide.level_scales[level][0], (row + 0.5) * slide.level_scales[level][1]))
        spread[max(0, row - cell) : row + cell, max(0, column - cell) : column + cell] = -1
    return found


def _alike(slide: Levels, level: int, sizes: Sequence[Size], place: tuple[float, float]) -> float | None:
    """Correlation of two levels around a place (level-0 px), the best of shifts by some pixels; None: nothing there."""
    scale, finer = slide.level_scales[level], slide.level_scales[level - 1]
    step = scale[0] / finer[0], scale[1] / finer[1]
    side = min(_SIDE_PX, sizes[level].width, sizes[level].height)
    if side < 4 * _REACH_PX or max(step) > _LARGEST_STEP:
        return None
    x = int(np.clip(place[0] / scale[0] - side / 2, 0, sizes[level].width - side))
    y = int(np.clip(place[1] / scale[1] - side / 2, 0, sizes[level].height - side))
    coarse = _grey(slide, level, x, y, Size(side, side))
    fine = _grey(slide, level - 1, round(x * step[0]), round(y * step[1]), Size(*(round(side * s) for s in step)))
    fine = np.asarray(cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA), np.float32)
    inner = coarse[_REACH_PX:-_REACH_PX, _REACH_PX:-_REACH_PX]
    if fine.std() < _LEAST_SPREAD:
        return None
    if inner.std() < _LEAST_SPREAD / 4:
        return 0.0
    return float(cv2.matchTemplate(fine, np.ascontiguousarray(inner), cv2.TM_CCOEFF_NORMED).max())


def _grey(slide: Levels, level: int, x: int, y: int, size: Size) -> npt.NDArray[np.float32]:
    image = slide.read_patch(level, x, y, size).image
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
