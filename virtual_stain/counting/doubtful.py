"""What a ratio would be if all doubtful nuclei were negative, or all positive."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.markers import CellCounts


@dataclass(frozen=True, slots=True)
class RatioRange:
    """Of one set of nuclei; fractions, None without nuclei."""

    low: float | None
    high: float | None
    doubtful: int
    """Nuclei whose DAB lies in the slide's doubtful zone."""

    @property
    def half_width(self) -> float:
        return 0.0 if self.low is None or self.high is None else (self.high - self.low) / 2

    def to_dict(self) -> dict[str, float | int | None]:
        """As it stands in summary.json beside the ratio."""
        low, high = (None if v is None else round(v, 6) for v in (self.low, self.high))
        return {"ratio_low": low, "ratio_high": high, "doubtful_nuclei": self.doubtful}


def ratio_range(cells: Cells, stain: SlideStain, *, tumour_only: bool) -> RatioRange:
    """Of a nuclear marker, whose class follows from the nuclear DAB."""
    chosen = cells.select(cells.tumour) if tumour_only else cells
    low, high = stain.doubtful_od
    counted = chosen.cell_class != CellClass.OTHER
    positive = chosen.cell_class == CellClass.POSITIVE
    doubtful = counted & (chosen.dab_od >= low) & (chosen.dab_od < high)
    total = int(np.count_nonzero(counted))
    if total == 0:
        return RatioRange(None, None, 0)
    least, most = (int(np.count_nonzero(which)) for which in (positive & ~doubtful, positive | doubtful))
    return RatioRange(least / total, most / total, int(np.count_nonzero(doubtful)))


def uncertainty_of(counts: CellCounts, doubtful: float) -> float | None:
    """Of a ratio: of the number of cells, and half the width of the range that doubtful nuclei leave (`doubtful`)."""
    return None if counts.uncertainty is None else math.hypot(counts.uncertainty, doubtful)
