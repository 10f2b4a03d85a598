"""Clinical cut-offs at which readings are compared with labels: what an error would change, and who says so.

Not a diagnosis: which rule applies to a patient is a panel's question (ER and PR also need intensity and controls,
PD-L1 the antibody and the organ).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.markers import Marker, ValueDefinition

MIN_CLASS_PATIENTS = 10
"""Patients that a cut-off needs on each of its sides before its AUC, sensitivity and specificity are shown. Fewer make
a figure of any size by chance: of two patients the AUC is 0 or 1."""


@dataclass(frozen=True, slots=True)
class CutOff:
    """A value that divides tumours into a lower and a higher class."""

    fraction: float
    source: str
    at_is_higher: bool = True
    """Whether the value itself belongs to the higher class ("from 20 %") or to the lower one ("at most 5 %")."""

    def higher(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """bool[N]: which fractions belong to the higher class."""
        result: npt.NDArray[np.bool_] = values >= self.fraction if self.at_is_higher else values > self.fraction
        return result

    @property
    def label(self) -> str:
        """`≥ 20 %` or `> 5 %`."""
        return f"{'≥' if self.at_is_higher else '>'} {100 * self.fraction:g} %"


_KI67 = (
    CutOff(0.05, "IKWG 2021: low where the index is at most 5 %", at_is_higher=False),
    CutOff(0.14, "St Gallen 2011"),
    CutOff(0.20, "St Gallen 2013; abemaciclib label"),
    CutOff(0.30, "IKWG 2021: high from 30 %"),
)
_HORMONE = (
    CutOff(0.01, "ASCO/CAP 2020: positive from 1 %"),
    CutOff(0.10, "ASCO/CAP 2020: above ER low positive (1–10 %)", at_is_higher=False),
)
_TPS = (
    CutOff(0.01, "KEYNOTE-010 (lung, 22C3): PD-L1 expression from a TPS of 1 %"),
    CutOff(0.50, "KEYNOTE-010 (lung, 22C3): high PD-L1 expression from a TPS of 50 %"),
)
CUT_OFFS: dict[Marker, tuple[CutOff, ...]] = {
    Marker.KI67: _KI67,
    Marker.ER: _HORMONE,
    Marker.PR: (*_HORMONE, CutOff(0.20, "St Gallen 2013: PR of luminal A-like")),
    Marker.PDL1: _TPS,
}


def cut_offs_of(marker: Marker, definition: ValueDefinition) -> tuple[CutOff, ...]:
    """Those of the marker; they are shares of positive cells, and of another value there are none."""
    return CUT_OFFS.get(marker, ()) if definition is ValueDefinition.POSITIVE_RATIO else ()


def is_shown(row: Mapping[str, Any]) -> bool:
    """Whether a cut-off of evaluation.json, at the level of patients, has enough of them on both sides."""
    higher = row["true_positive"] + row["false_negative"]
    lower = row["true_negative"] + row["false_positive"]
    return bool(min(higher, lower) >= MIN_CLASS_PATIENTS)
