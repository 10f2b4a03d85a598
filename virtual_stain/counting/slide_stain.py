"""What one slide's stain is like: estimated once, then the same for every window of the slide."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from virtual_stain.counting.optical_density import PUBLISHED_DAB, PUBLISHED_HEMATOXYLIN, Vector
from virtual_stain.counting.vectors import GREY, NOT_SEPARABLE, OTHER_STAIN, SECOND_COLOUR
from virtual_stain.errors import InputError

NO_CLASS_IS_RIGHT = frozenset({NOT_SEPARABLE, OTHER_STAIN, GREY})
"""Flags of slides that are not stained with haematoxylin and DAB, or do not show it."""


@dataclass(frozen=True, slots=True)
class SlideStain:
    """Background, stain vectors and thresholds of one slide; optical densities are decadic."""

    background: Vector
    """Colour of empty glass (R, G, B), 0–255."""
    hematoxylin: Vector = PUBLISHED_HEMATOXYLIN
    """Unit vector of the counterstain in optical density (R, G, B)."""
    dab: Vector = PUBLISHED_DAB
    """Unit vector of DAB in optical density (R, G, B)."""
    typical_od: float = 0.3
    """Contrast of this slide's typical negative nucleus, optical density summed over the channels."""
    haze_od: float = 0.0
    """Signal of nearly all tissue between the nuclei, summed over the channels; nuclei are looked for beyond it."""
    typical_area_um2: float = 50.0
    """Area of this slide's typical nucleus, µm²: half of the nuclear area lies in larger ones."""
    positive_od: float = 0.15
    """Mean nuclear DAB optical density from which a nucleus is positive."""
    doubtful_od: tuple[float, float] = (0.15, 0.15)
    """From where to where a nucleus may be either; holds `positive_od`."""
    flags: tuple[str, ...] = ()
    """What makes the estimate less trustworthy; empty when nothing does."""

    def __post_init__(self) -> None:
        for name in ("background", "hematoxylin", "dab"):
            values = np.asarray(getattr(self, name), np.float64)
            if values.shape != (3,) or not np.isfinite(values).all():
                raise ValueError(f"{name}: expected three finite numbers. Received: {getattr(self, name)}")
        if abs(float(np.dot(self.hematoxylin, self.dab))) > 0.995:
            raise ValueError(f"Expected two different stains. Received: {self.hematoxylin} and {self.dab}")
        if not min(self.typical_od, self.typical_area_um2, self.positive_od) > 0:
            raise ValueError(f"Expected densities and area > 0. Received: {self}")
        if not all(np.isfinite(self.doubtful_od)):
            raise ValueError(f"doubtful_od: expected two finite numbers. Received: {self.doubtful_od}")
        if not 0 <= self.haze_od < float("inf"):
            raise ValueError(f"Expected haze_od ≥ 0. Received: {self.haze_od}")

    @property
    def is_hematoxylin_dab(self) -> bool:
        """Whether these are the two stains that are looked for; where not (H&E, a red dye), no class is right."""
        return not NO_CLASS_IS_RIGHT & set(self.flags)

    @property
    def colours_are_explained(self) -> bool:
        """Whether hematoxylin and DAB are all that was seen; where not, positives may be missed."""
        return self.is_hematoxylin_dab and SECOND_COLOUR not in self.flags

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back without loss."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> SlideStain:
        """Raises InputError when `values` is not what `to_dict` wrote."""
        try:
            vectors = {k: _vector(values[k]) for k in ("background", "hematoxylin", "dab")}
            return SlideStain(
                **vectors,
                typical_od=float(values["typical_od"]),
                haze_od=float(values["haze_od"]),
                typical_area_um2=float(values["typical_area_um2"]),
                positive_od=float(values["positive_od"]),
                doubtful_od=_pair(values["doubtful_od"]),
                flags=tuple(str(f) for f in values["flags"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"Expected a stain as this program writes it. Received: {values!r} ({error})") from None


def _vector(value: Any) -> Vector:
    """Raises ValueError or TypeError unless these are three numbers."""
    x, y, z = (float(v) for v in value)
    return x, y, z


def _pair(value: Any) -> tuple[float, float]:
    low, high = (float(v) for v in value)
    return low, high
