"""How far a picture can be trusted: sharpness, the camera's black, and what the two stains leave unexplained."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.doubtful import uncertainty_of
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.markers import CellCounts

BLURRED = "blurred"
SATURATED = "saturated"
UNEXPLAINED = "stains_unclear"
UNCERTAIN = "uncertain_ratio"
FEW_CELLS = "few_cells"
BROWN_NUCLEI = "brown_nuclei"
QUALITY_SENTENCES = {
    BLURRED: "much of the slide is out of focus: pale nuclei are missed there",
    SATURATED: "much of the nuclei is black to the camera: hue is lost there, and 2+ cannot be told from 3+",
    UNEXPLAINED: "much of the colour in the nuclei is neither hematoxylin nor DAB: do not trust the classes",
    UNCERTAIN: "few cells for the ratio that they have, or many doubtful ones: its uncertainty is large",
    FEW_CELLS: "too few tumour cells for a score to be relied on",
    BROWN_NUCLEI: "brown fills more nuclei or cells than have stained membranes, as of Ki67, ER or PR: "
    "is the marker right?",
}
"""What each flag means, for people."""

BLACK_LEVEL = 12
"""Grey level of a channel, 0–255, up to which the camera tells nothing."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Sums over a picture's nuclear pixels, which add up over windows, and the picture's sharpness."""

    nuclear_px: int
    saturated_px: int
    """With a channel at the camera's black."""
    stain_od: float
    """Σ hematoxylin + DAB."""
    unexplained_od: float
    """Σ of what neither explains."""
    focus: float | None
    """Focus ratio (counting/focus.py); None where there is too little structure."""
    solid_brown_um2: float = 0.0
    """Of membrane markers: DAB in patches as wide as nuclei (counting/membrane.py), µm²."""

    @property
    def saturated_fraction(self) -> float | None:
        return self.saturated_px / self.nuclear_px if self.nuclear_px else None

    @property
    def unexplained_fraction(self) -> float | None:
        return self.unexplained_od / self.stain_od if self.stain_od > 0 else None


def measure_quality(
    nuclear: npt.NDArray[np.bool_],
    stain: npt.NDArray[np.float32],
    residual: npt.NDArray[np.float32],
    saturated: npt.NDArray[np.bool_],
) -> Quality:
    """Of the colours alone: `focus` is None.

    `nuclear`: bool[h, w], working pixels inside nuclei; of all working pixels `stain`, the sum of both stains,
    `residual`, what is neither, and `saturated`.
    """
    return Quality(
        nuclear_px=int(np.count_nonzero(nuclear)),
        saturated_px=int(np.count_nonzero(saturated & nuclear)),
        stain_od=float(stain[nuclear].sum(dtype=np.float64)),
        unexplained_od=float(np.abs(residual[nuclear]).sum(dtype=np.float64)),
        focus=None,
    )


@dataclass(frozen=True, slots=True)
class SlideQuality:
    """The same over all windows of a slide."""

    total: Quality
    """Its focus is the median of the windows."""
    blurred_fraction: float | None
    """Share of the windows with structure that are out of focus."""
    standard_error: float | None
    uncertainty: float | None
    """Half the width of Wilson's interval at one standard error, joined with half the range of doubtful nuclei."""
    flags: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in summary.json."""
        return {
            "focus": _rounded(self.total.focus),
            "blurred_fraction": _rounded(self.blurred_fraction),
            "saturated_fraction": _rounded(self.total.saturated_fraction),
            "unexplained_fraction": _rounded(self.total.unexplained_fraction),
            "standard_error": _rounded(self.standard_error),
            "uncertainty": _rounded(self.uncertainty),
            "flags": list(self.flags),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def quality_flags(
    quality: Quality, counts: CellCounts, settings: CountingSettings, stain: SlideStain, doubtful: float = 0.0
) -> tuple[str, ...]:
    """What to beware of in one picture with `counts` tumour cells of a slide with `stain`.

    `doubtful`: half the width of the range that doubtful nuclei leave to the ratio (counting/doubtful.py).
    Eosin that was taken for DAB explains the colours of its slide as well as DAB would: so the slide's stain counts.
    """
    saturated, unexplained = quality.saturated_fraction, quality.unexplained_fraction
    uncertainty = uncertainty_of(counts, doubtful)
    raised = {
        BLURRED: quality.focus is not None and quality.focus < settings.min_window_focus,
        SATURATED: saturated is not None and saturated > settings.max_saturated_fraction,
        UNEXPLAINED: not stain.colours_are_explained
        or (unexplained is not None and unexplained > settings.max_unexplained_fraction),
        UNCERTAIN: uncertainty is not None and uncertainty > settings.max_standard_error,
    }
    return tuple(name for name, is_set in raised.items() if is_set)


def join_quality(
    parts: Iterable[Quality],
    counts: CellCounts,
    least_cells: int,
    settings: CountingSettings,
    stain: SlideStain,
    doubtful: float = 0.0,
) -> SlideQuality:
    """Of the windows of a slide; blur is flagged where a quarter of them or more is out of focus, fewer tumour cells
    than `least_cells` always."""
    all_parts = list(parts)
    focus = [p.focus for p in all_parts if p.focus is not None]
    total = Quality(
        nuclear_px=sum(p.nuclear_px for p in all_parts),
        saturated_px=sum(p.saturated_px for p in all_parts),
        stain_od=sum(p.stain_od for p in all_parts),
        unexplained_od=sum(p.unexplained_od for p in all_parts),
        focus=float(np.median(focus)) if focus else None,
        solid_brown_um2=math.fsum(p.solid_brown_um2 for p in all_parts),
    )
    blurred = float(np.mean([f < settings.min_window_focus for f in focus])) if focus else None
    flags = [f for f in quality_flags(total, counts, settings, stain, doubtful) if f != BLURRED]
    if blurred is not None and blurred >= 0.25:
        flags.insert(0, BLURRED)
    if counts.total < least_cells:
        flags.append(FEW_CELLS)
    return SlideQuality(total, blurred, counts.standard_error, uncertainty_of(counts, doubtful), tuple(flags))
