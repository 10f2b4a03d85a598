"""Cells that another detector found: what every reader of such files returns, and how they are measured."""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cells import CellClass
from virtual_stain.counting.contours import Rays, Shapes, shapes
from virtual_stain.counting.measure import Plane
from virtual_stain.counting.nuclei import Nuclei
from virtual_stain.geometry import Points

UNKNOWN = 255
"""Class of a cell that the file does not tell: its own DAB decides."""
POINT_RADIUS_UM = 3.0
"""Cells without an outline are measured in a disc of this radius."""

_NOT_TUMOUR = (
    "stroma",
    "immune",
    "lympho",
    "fibro",
    "endothel",
    "necrosis",
    "ignore",
    "exclude",
    "artifact",
    "artefact",
)
_SHIFT = 4


@dataclass(frozen=True, slots=True, eq=False)
class GivenCells:
    """N detections in level-0 px of the slide; picklable."""

    detector: str
    """Which kind of file they came from, as summary.json names it."""
    xy: Points
    """float64[N, 2]."""
    kind: npt.NDArray[np.uint8]
    """uint8[N]: CellClass, or UNKNOWN."""
    tumour: npt.NDArray[np.bool_]
    """bool[N]; all, where the file says nothing of tumour."""
    rings: tuple[Points | None, ...]
    """Outlines float64[M, 2], open, M ≥ 3; None where the file has only a point."""

    def __post_init__(self) -> None:
        lengths = {len(self.xy), len(self.kind), len(self.tumour), len(self.rings)}
        if len(lengths) != 1 or self.xy.ndim != 2 or self.xy.shape[1] != 2:
            raise ValueError(f"Expected columns of equal length and xy of shape [N, 2]. Received: {lengths}")

    def __len__(self) -> int:
        return len(self.xy)

    def select(self, index: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> GivenCells:
        """The cells that a boolean mask or an index array picks."""
        at = np.flatnonzero(index) if index.dtype == np.bool_ else index
        rings = tuple(self.rings[i] for i in at.tolist())
        return GivenCells(self.detector, self.xy[index], self.kind[index], self.tumour[index], rings)


def class_of(name: str) -> tuple[int, bool | None]:
    """(CellClass or UNKNOWN, tumour or None) that a class name tells, as QuPath and others write it.

    "Tumor: Positive", "Negative", "Stroma: Negative", "3+", "Ignore*" … The last word that is known decides the stain.
    """
    words = [w.strip().strip("*").lower() for w in re.split(r"[:;,/|]", name)]
    kind, tumour = UNKNOWN, None
    for word in words:
        if word.startswith("pos") or word in ("1+", "2+", "3+", "+"):
            kind = CellClass.POSITIVE
        elif word.startswith("neg") or word in ("0", "-"):
            kind = CellClass.NEGATIVE
        elif word == "other" or word.startswith(("ignore", "exclude", "artifact", "artefact")):
            kind, tumour = CellClass.OTHER, False
        if re.match(r"(non|not|no|peri)[- ]?tumou?r", word) or word.startswith(_NOT_TUMOUR):
            tumour = False
        elif word.startswith(("tumor", "tumour", "cancer", "carcinoma")):
            tumour = True
    return int(kind), tumour


def tumour_flags(told: list[bool | None]) -> npt.NDArray[np.bool_]:
    """bool[N]: where a file names tumour cells, only those are; where it names none, all but what it excludes."""
    named = any(t is True for t in told)
    return np.array([t is True if named else t is not False for t in told], np.bool_)


def as_nuclei(given: GivenCells, plane: Plane, to_working: tuple[Points, Points]) -> Nuclei:
    """The cells as outlines in the working pixels of `plane`, so that they can be measured like ours.

    `to_working`: (shift, factor), working px = (px0 − shift) / factor.
    """
    shift, factor = to_working
    centre = (given.xy - shift) / factor
    disc = Rays(16, 1.0, 1, 1).directions * (POINT_RADIUS_UM / np.asarray(plane.mpp))
    rings = [
        centre[i] + disc if ring is None else _turned((ring - shift) / factor) for i, ring in enumerate(given.rings)
    ]
    labels = np.zeros(plane.signal.shape, np.int32)
    for i, ring in enumerate(rings):
        corners = np.rint((ring - 0.5) * 2**_SHIFT).astype(np.int32)
        cv2.fillPoly(labels, [corners], (i + 1,), shift=_SHIFT)
    parts = [shapes(ring[None] - centre[i]) for i, ring in enumerate(rings)]
    n = len(given)
    return Nuclei(
        labels=labels,
        polygon=rings,
        centroid=centre,
        shape=_joined(parts),
        contrast_od=np.zeros(n, np.float32),
        edge_score=np.zeros(n, np.float32),
    )


def measured_as(nuclei: Nuclei) -> npt.NDArray[np.intp]:
    """intp[N]: the cell whose pixels every cell is measured on: itself, or the one that hides it wholly.

    Without pixels a cell would read as negative.
    """
    n, labels = len(nuclei.centroid), nuclei.labels
    hidden = np.flatnonzero(np.bincount(labels.ravel(), minlength=n + 1)[1:] == 0)
    column, row = np.floor(nuclei.centroid[hidden]).astype(np.intp).T
    above = labels[np.clip(row, 0, labels.shape[0] - 1), np.clip(column, 0, labels.shape[1] - 1)].astype(np.intp)
    which = np.arange(n)
    which[hidden] = np.where(above > 0, above - 1, hidden)
    return which


def _turned(ring: Points) -> Points:
    """With positive shoelace area."""
    x, y = ring[:, 0], ring[:, 1]
    area = float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y))
    return ring if area >= 0 else ring[::-1]


def _joined(parts: list[Shapes]) -> Shapes:
    if not parts:
        nothing = np.zeros(0)
        return Shapes(np.zeros((0, 2)), nothing, nothing, nothing, nothing)
    return Shapes(
        middle=np.concatenate([p.middle for p in parts]),
        area_px=np.concatenate([p.area_px for p in parts]),
        elongation=np.concatenate([p.elongation for p in parts]),
        width_px=np.concatenate([p.width_px for p in parts]),
        circularity=np.concatenate([p.circularity for p in parts]),
    )
