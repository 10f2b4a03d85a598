"""What the generator says about a window, and where the window lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
PLACE_PX = 4
"""Side of a place of the maps, px."""


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """float32[h/4, w/4] each, of a window of h × w px that is a whole number of places."""

    positive_share: F32
    """p: share of positive cells among the tumour cells, 0–1."""
    tumour_cells: F32
    """λ: expected tumour cells of a place."""
    dab: F32
    """Density of DAB in cut-offs of positive, mean of a place."""
    hematoxylin: F32
    """Density of haematoxylin in typical negative nuclei, mean of a place."""

    @staticmethod
    def of(outputs: Mapping[str, npt.ArrayLike], index: int = 0) -> Maps:
        """From what the generator answers, float32[B, h/4, w/4] each."""
        names = ("positive_share", "tumour_cells", "dab", "hematoxylin")
        return Maps(*(np.asarray(outputs[name], np.float32)[index] for name in names))

    def inside(self, core: Core) -> Maps:
        """Those of the window's core."""
        first_row, last_row = core.top // PLACE_PX, (core.top + core.height) // PLACE_PX
        first, last = core.left // PLACE_PX, (core.left + core.width) // PLACE_PX
        fields = (self.positive_share, self.tumour_cells, self.dab, self.hematoxylin)
        return Maps(*(f[first_row:last_row, first:last] for f in fields))


@dataclass(frozen=True, slots=True)
class Core:
    """The part of a window that is read; around it lies what it depends on. px of the window."""

    left: int
    top: int
    width: int
    height: int

    def of(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8[h, w, 3] → the core of it."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, slots=True)
class Window:
    """A window on a slide, in px of the model's pixel size, and the core in it."""

    x: int
    """Of the left edge in the slide's frame, px."""
    y: int
    width: int
    height: int
    core: Core


def window_around(x: int, y: int, width: int, height: int, *, margin_px: int, grid_px: int) -> Window:
    """The window that a core (px of the slide's frame) is read in.

    It reaches at least `margin_px` beyond the core. Its edges lie on multiples of `grid_px`, so that every window meets
    the same places and working pixels, however the slide is cut.
    """
    left, top = ((v - margin_px) // grid_px * grid_px for v in (x, y))
    right, bottom = (-(-(v + margin_px) // grid_px) * grid_px for v in (x + width, y + height))
    return Window(left, top, right - left, bottom - top, Core(x - left, y - top, width, height))
