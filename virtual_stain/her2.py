"""HER2: from shares of the intensities to the score, by one rule for what is counted and what is predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

HER2_RULE = (
    "ASCO/CAP 2018, affirmed 2023: 3+ where more than 10 % of the tumour cells are 3+; 2+ where more than 10 % are 2+ "
    "or 3+, or 1 % to 10 % are 3+; 1+ where more than 10 % are stained at all; else 0"
)
NEEDS_ISH = "equivocal, needs ISH"
HER2_SCORES = ("0", "1+", "2+", "3+")

_MORE_THAN = 0.10
_NOT_CHANCE = 0.01  # fewer 3+ cells than this are not told from errors of counting

Fractions = tuple[float, float, float, float]
"""Shares of 0, 1+, 2+ and 3+ among the tumour cells."""


@dataclass(frozen=True, slots=True)
class Her2Reading:
    """Shares of the four intensities among tumour cells, and the score; None without cells."""

    fractions: Fractions | None
    score: str | None
    """"0", "1+", "2+" or "3+"."""

    @staticmethod
    def of(fractions: Fractions | None) -> Her2Reading:
        """With the score that the rule gives."""
        return Her2Reading(fractions, None if fractions is None else her2_score(fractions))

    @property
    def needs_ish(self) -> bool:
        """2+ is equivocal and never a final class."""
        return self.score == "2+"

    def to_dict(self, reason: str) -> dict[str, Any]:
        """As it stands in summary.json and report.json; `reason`: why there is no score where there is none."""
        if self.fractions is None:
            return {"score": None, "reason": reason, "rule": HER2_RULE}
        return {
            "fractions": {n: round(f, 6) for n, f in zip(HER2_SCORES, self.fractions, strict=True)},
            "score": self.score,
            "note": NEEDS_ISH if self.needs_ish else None,
            "rule": HER2_RULE,
        }


def her2_score(fractions: Fractions) -> str:
    """`HER2_RULE`."""
    _, one, two, three = fractions
    if three > _MORE_THAN:
        return "3+"
    if two + three > _MORE_THAN or three >= _NOT_CHANCE:
        return "2+"
    return "1+" if one + two + three > _MORE_THAN else "0"


def her2_fractions(shares: npt.NDArray[np.float64], cells: npt.NDArray[np.float64]) -> Fractions | None:
    """Of a slide from its tiles: `shares` float64[N, 3] of 1+, 2+, 3+, `cells` float64[N] that weight them; None
    without cells. Sums are exact, so the order of the tiles does not matter."""
    total = math.fsum(cells)
    if not total > 0:
        return None
    one, two, three = (math.fsum(shares[:, i] * cells) / total for i in range(3))
    return max(0.0, 1 - one - two - three), one, two, three


def read_her2(intensity: npt.NDArray[np.uint8]) -> Her2Reading:
    """Of a slide from its counted tumour cells: uint8[N], 0 to 3 each."""
    if not len(intensity):
        return Her2Reading.of(None)
    f = [float(np.mean(intensity == i)) for i in range(4)]
    return Her2Reading.of((f[0], f[1], f[2], f[3]))
