"""One colour scale for the heat map, its legend and QuPath's classes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.value_text import ValueText

UNUSED_RGB = (150, 150, 150)
FAILED_RGB = (220, 30, 30)
# few different scales, so that pictures of several slides can be compared
_TOPS = (0.2, 0.5, 1.0)
_LEAST_TOP_PER_MM2 = 200.0
_CLASSES = 10


@dataclass(frozen=True, slots=True)
class ColourScale:
    """viridis from 0 to `top` (a value): perceptually even, also for the colour-blind and in grey."""

    top: float
    shown: ValueText

    @staticmethod
    def for_values(values: Iterable[float], shown: ValueText) -> ColourScale:
        """The smallest of the fixed scales that holds all finite values: of counts 1, 2, 5 · 10ⁿ."""
        highest = max((v for v in values if math.isfinite(v)), default=0.0)
        if shown.definition.is_ratio:
            return ColourScale(next((t for t in _TOPS if highest <= t), _TOPS[-1]), shown)
        power = 10.0 ** math.floor(math.log10(max(highest, _LEAST_TOP_PER_MM2)))
        return ColourScale(
            next(s * power for s in (1, 2, 5, 10) if max(highest, _LEAST_TOP_PER_MM2) <= s * power), shown
        )

    def rgb(self, values: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """float[...] values → uint8[..., 3]."""
        from matplotlib import colormaps

        scaled = np.clip(np.asarray(values, np.float64) / self.top, 0.0, 1.0)
        return np.asarray(np.round(np.asarray(colormaps["viridis"](scaled))[..., :3] * 255), np.uint8)

    def class_of(self, value: float) -> tuple[str, tuple[int, int, int]]:
        """A tenth of the scale that holds `value`: its name, and the colour of its middle."""
        width = self.top / _CLASSES
        index = min(int(value / width + 1e-9), _CLASSES - 1)
        red, green, blue = (int(c) for c in self.rgb((index + 0.5) * width))
        low, high = (self.shown.factor * i * width for i in (index, index + 1))
        return f"{low:g}–{high:g} {self.shown.unit}", (red, green, blue)
