"""One colour scale for every slide: heat map, its legend, the page in the browser and QuPath's classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from virtual_stain.value_text import ValueText

UNUSED_RGB = (150, 150, 150)
FAILED_RGB = (220, 30, 30)
_STEPS = 256
_RATIO_BOUNDS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_COUNT_BOUNDS = (0.0, 100.0, 200.0, 400.0, 600.0, 800.0, 1000.0, 2000.0, 3000.0, 5000.0, 10_000.0)


@dataclass(frozen=True, slots=True)
class ColourScale:
    """viridis along the square root of the value, from 0 to a fixed top.

    The same value has the same colour on every slide and in every picture. The square root leaves room for low values,
    where most of them lie and the cut-offs stand. viridis is perceptually even, also for the colour-blind and in grey.
    """

    shown: ValueText
    GAMMA: ClassVar[float] = 0.5
    """The colour follows value ** GAMMA."""

    @property
    def top(self) -> float:
        """Value of the last colour; larger counts have it, too."""
        return self.bounds[-1]

    @property
    def bounds(self) -> tuple[float, ...]:
        """Where the classes of QuPath meet, and the ticks of the legend; ascending values, the first 0."""
        return _RATIO_BOUNDS if self.shown.definition.is_ratio else _COUNT_BOUNDS

    @property
    def statement(self) -> str:
        """What a legend says about the scale."""
        top = f"{self.shown.factor * self.top:,g} {self.shown.unit}"
        more = "" if self.shown.definition.is_ratio else " and more"
        return f"One scale for all slides: 0 to {top}{more}, colour by the square root of the value."

    def place(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """float[...] values → float64[...] in 0–1: how far along the colours they lie."""
        share = np.clip(np.asarray(values, np.float64) / self.top, 0.0, 1.0)
        return np.asarray(share**self.GAMMA, np.float64)

    def rgb(self, values: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """float[...] values → uint8[..., 3]."""
        index = np.round(self.place(values) * (_STEPS - 1)).astype(np.intp)
        return np.asarray(self.table()[index], np.uint8)

    def table(self) -> npt.NDArray[np.uint8]:
        """uint8[256, 3]: the colours, first to last."""
        from matplotlib import colormaps

        colours = np.asarray(colormaps["viridis"](np.linspace(0, 1, _STEPS)))[:, :3]
        return np.asarray(np.round(colours * 255), np.uint8)

    def class_of(self, value: float) -> tuple[str, tuple[int, int, int]]:
        """The class that holds `value`: its name, and the colour of its middle along the scale."""
        bounds = self.bounds
        index = min(max(int(np.searchsorted(bounds, value, side="right")) - 1, 0), len(bounds) - 2)
        low, high = bounds[index], bounds[index + 1]
        middle = self.place([low, high]).mean()
        red, green, blue = (int(c) for c in self.table()[round(float(middle) * (_STEPS - 1))])
        first, last = (self.shown.factor * v for v in (low, high))
        open_ended = high == self.top and not self.shown.definition.is_ratio
        name = f"≥ {first:g}" if open_ended else f"{first:g}–{last:g}"
        return f"{name} {self.shown.unit}", (red, green, blue)
