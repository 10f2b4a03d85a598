"""What a membrane marker is read as: HER2 0 to 3+, PD-L1 TPS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cells import Cells
from virtual_stain.counting.readings import NO_CELLS

HER2_RULE = (
    "ASCO/CAP 2018, affirmed 2023: 3+ where more than 10 % of the tumour cells are 3+; 2+ where more than 10 % are 2+ "
    "or 3+, or 1 % to 10 % are 3+; 1+ where more than 10 % are stained at all; else 0"
)
NEEDS_ISH = "equivocal, needs ISH"
TPS_RULE = "tumour cells with partial or complete membrane staining of any intensity / all tumour cells"

_MORE_THAN = 0.10
_NOT_CHANCE = 0.01  # fewer 3+ cells than this are not told from errors of counting


@dataclass(frozen=True, slots=True)
class Her2Reading:
    """Percentages of the four classes among tumour cells, as fractions, and the score; None without cells."""

    fractions: tuple[float, float, float, float] | None
    score: str | None
    """"0", "1+", "2+" or "3+"."""

    @property
    def needs_ish(self) -> bool:
        """2+ is equivocal and never a final class."""
        return self.score == "2+"

    def to_dict(self) -> dict[str, Any]:
        """As it stands in summary.json."""
        if self.fractions is None:
            return {"score": None, "reason": NO_CELLS, "rule": HER2_RULE}
        names = ("0", "1+", "2+", "3+")
        return {
            "fractions": {n: round(f, 6) for n, f in zip(names, self.fractions, strict=True)},
            "score": self.score,
            "note": NEEDS_ISH if self.needs_ish else None,
            "rule": HER2_RULE,
        }


def read_her2(cells: Cells, grade: npt.NDArray[np.uint8]) -> Her2Reading:
    """Over the tumour cells. `grade`: uint8[N] membrane class of every cell."""
    tumour = grade[cells.tumour]
    if not len(tumour):
        return Her2Reading(None, None)
    f = [float(np.mean(tumour == g)) for g in range(4)]
    if f[3] > _MORE_THAN:
        score = "3+"
    elif f[2] + f[3] > _MORE_THAN or f[3] >= _NOT_CHANCE:
        score = "2+"
    else:
        score = "1+" if f[1] + f[2] + f[3] > _MORE_THAN else "0"
    return Her2Reading((f[0], f[1], f[2], f[3]), score)


def read_tps(cells: Cells) -> dict[str, Any]:
    """PD-L1 tumour proportion score. CPS and IC count immune cells and are other things: not read."""
    ratio = cells.counts().ratio
    value: dict[str, Any] = {"tps": None if ratio is None else round(ratio, 6), "rule": TPS_RULE}
    return value if ratio is not None else {**value, "reason": NO_CELLS}
