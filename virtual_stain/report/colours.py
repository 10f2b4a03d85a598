"""One colour scale for the heat map, its legend and QuPath's classes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

UNUSED_RGB = (150, 150, 150)
FAILED_RGB = (220, 30, 30)
_TOPS = (0.2, 0.5, 1.0)  # few different scales, so that pictures of several slides can be compared
_CLASSES = 10


@dataclass(frozen=True, slots=True)
class ColourScale:
    """viridis from 0 to `top` (a fraction): perceptually even, also for the colour-blind and in grey."""

    top: float

    @staticmethod
    def for_values(values: Iterable[float]) -> ColourScale:
        """The smallest of the fixed scales that holds all finite values."""
        highest = max((v for v in values if math.isfinite(v)), default=0.0)
        return ColourScale(next(t for t in _TOPS if highest <= t or t == _TOPS[-1]))

    def rgb(self, values: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """float[...] fractions → uint8[..., 3]."""
        from matplotlib import colormaps

        scaled = np.clip(np.asarray(values, np.float64) / self.top, 0.0, 1.0)
        return np.asarray(np.round(np.asarray(colormaps["viridis"](scaled))[..., :3] * 255), np.uint8)

    def class_of(self, value: float) -> tuple[str, tuple[int, int, int]]:
        """A tenth of the scale that holds `value`: its name in per cent, and the colour of its middle."""
        width = self.top / _CLASSES
        index = min(int(value / width + 1e-9), _CLASSES - 1)
        red, green, blue = (int(c) for c in self.rgb((index + 0.5) * width))
        return f"{index * width * 100:g}–{(index + 1) * width * 100:g} %", (red, green, blue)
