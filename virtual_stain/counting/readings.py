"""The numbers a pathologist reads: labelling index, H-score, Allred, PD-L1 TPS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cells import CellClass, Cells

ALLRED_BINS = "0; < 1 %; 1 to < 10 %; 10 % to < 1/3; 1/3 to < 2/3; >= 2/3"
"""The half-open bins that are used for the proportion score 0–5 (Allred et al., Mod. Pathol. 11, 1998, names them
0; < 1 %; 1–10 %; 11–33 %; 34–66 %; ≥ 67 %, which leaves gaps)."""
ALLRED_INTENSITY = "class of the mean DAB optical density of the positive nuclei"
NO_CELLS = "no cells were counted"
TPS_RULE = "tumour cells with partial or complete membrane staining of any intensity / all tumour cells"

_PROPORTION_EDGES = (0.01, 0.10, 1 / 3, 2 / 3)


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings of one set of nuclei; None where there is no nucleus to read."""

    positive: int
    negative: int
    ratio: float | None
    standard_error: float | None
    """Binomial standard error of `ratio`; says nothing about errors of the counting itself."""
    by_intensity: tuple[int, int, int]
    """Nuclei of 1+, 2+, 3+."""
    h_score: float | None
    """1·%1+ + 2·%2+ + 3·%3+, 0–300."""
    allred_proportion: int | None
    allred_intensity: int | None
    mean_positive_dab_od: float | None

    @property
    def allred(self) -> int | None:
        """Sum of both parts: 0, or 2–8."""
        if self.allred_proportion is None or self.allred_intensity is None:
            return None
        return self.allred_proportion + self.allred_intensity

    def to_dict(self) -> dict[str, Any]:
        """As it stands in summary.json; a null comes with its reason."""
        value: dict[str, Any] = {
            "positive": self.positive,
            "negative": self.negative,
            "nuclei": self.positive + self.negative,
            "ratio": _rounded(self.ratio),
            "standard_error": _rounded(self.standard_error),
            # the keys of summary.json are older than the word
            "class_1": self.by_intensity[0],
            "class_2": self.by_intensity[1],
            "class_3": self.by_intensity[2],
            "h_score": _rounded(self.h_score, 3),
            "allred": self.allred,
            "allred_proportion": self.allred_proportion,
            "allred_intensity": self.allred_intensity,
            "mean_positive_dab_od": _rounded(self.mean_positive_dab_od),
        }
        if self.ratio is None:
            value["reason"] = NO_CELLS
        return value


def _rounded(value: float | None, digits: int = 6) -> float | None:
    return None if value is None else round(value, digits)


def nuclear_intensity(
    dab_od: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_], settings: CountingSettings
) -> npt.NDArray[np.uint8]:
    """uint8[N]: 0 negative, 1, 2, 3 by mean nuclear DAB optical density.

    Cut-offs 0.4 and 0.6 for 2+ and 3+ are QuPath's defaults (Bankhead 2017); 1+ begins at the slide's threshold.
    """
    intensity = (
        1 + (dab_od >= settings.intensity_2_od).astype(np.uint8) + (dab_od >= settings.intensity_3_od).astype(np.uint8)
    )
    return np.where(positive, intensity, 0).astype(np.uint8)


def read_cells(
    cells: Cells, settings: CountingSettings, *, tumour_only: bool, intensity: npt.NDArray[np.uint8] | None = None
) -> Readings:
    """Readings over the tumour cells, or over all nuclei.

    `intensity`: uint8[N], 0–3 for 0, 1+, 2+, 3+; without it the nuclear density decides.
    """
    chosen = cells.select(cells.tumour) if tumour_only else cells
    counts = chosen.counts(tumour_only=False)  # of the chosen ones, all
    positive = chosen.cell_class == CellClass.POSITIVE
    if intensity is None:
        intensity = nuclear_intensity(chosen.dab_od, positive, settings)
    elif tumour_only:
        intensity = intensity[cells.tumour]
    by_intensity = tuple(int(np.count_nonzero(intensity == g)) for g in (1, 2, 3))
    mean_od = float(chosen.dab_od[positive].mean()) if positive.any() else None
    total = counts.total
    proportion = strength = None
    if counts.ratio is not None:
        proportion = 0 if counts.ratio == 0 else 1 + sum(counts.ratio >= edge for edge in _PROPORTION_EDGES)
        cutoffs = (settings.intensity_2_od, settings.intensity_3_od)
        strength = 0 if mean_od is None else 1 + sum(mean_od >= cutoff for cutoff in cutoffs)
    return Readings(
        positive=counts.positive,
        negative=counts.negative,
        ratio=counts.ratio,
        standard_error=counts.standard_error,
        by_intensity=(by_intensity[0], by_intensity[1], by_intensity[2]),
        h_score=100 * sum(g * n for g, n in enumerate(by_intensity, 1)) / total if total else None,
        allred_proportion=proportion,
        allred_intensity=strength,
        mean_positive_dab_od=mean_od,
    )


def read_tps(cells: Cells) -> dict[str, Any]:
    """PD-L1 tumour proportion score. CPS and IC count immune cells and are other things: not read."""
    ratio = cells.counts().ratio
    value: dict[str, Any] = {"tps": None if ratio is None else round(ratio, 6), "rule": TPS_RULE}
    return value if ratio is not None else {**value, "reason": NO_CELLS}
