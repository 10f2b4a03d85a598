"""Clinical cut-offs at which readings are compared with labels: what an error would change, and who says so.

Not a diagnosis: which rule applies to a patient is a panel's question (ER and PR also need intensity and controls).
"""

from __future__ import annotations

from dataclasses import dataclass

from virtual_stain.markers import Marker


@dataclass(frozen=True, slots=True)
class CutOff:
    """A value at or above which a tumour belongs to the higher class."""

    fraction: float
    source: str


_KI67 = (
    CutOff(0.05, "IKWG 2021: low where the index is at most 5 %"),
    CutOff(0.14, "St Gallen 2011"),
    CutOff(0.20, "St Gallen 2013; abemaciclib label"),
    CutOff(0.30, "IKWG 2021: high from 30 %"),
)
_HORMONE = (
    CutOff(0.01, "ASCO/CAP 2020: positive from 1 %"),
    CutOff(0.10, "ASCO/CAP 2020: above ER low positive (1–10 %)"),
)
CUT_OFFS: dict[Marker, tuple[CutOff, ...]] = {
    Marker.KI67: _KI67,
    Marker.ER: _HORMONE,
    Marker.PR: (*_HORMONE, CutOff(0.20, "St Gallen 2013: PR of luminal A-like")),
}
