"""Cells that another detector found: what every reader of such files returns, and how they are measured."""

from __future__ import annotations

import re
from collections import Counter
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

_NOT_TUMOUR = re.compile(
    r"(non|not|no|peri|anti)[- ]?(tumou?r|cancer|neoplas)|tumou?r[- ]infiltrat|stroma|immune|lympho|\btils?\b|macroph|"
    r"histiocyt|plasma|inflamm|neutroph|eosinoph|mast cell|fibro|endothel|vessel|vascul|adipo|muscle|nerve|blood|"
    r"erythro|normal|benign|necro|debris|ignore|exclude|art[ei]fact|background"
)
_TUMOUR = re.compile(r"tumou?r|cancer|carcinom|neoplas|malignan")
_POSITIVE = re.compile(r"^pos\b|^\+$|\bpositive\b")
_NEGATIVE = re.compile(r"^neg\b|^-$|\bnegative\b")
_INTENSITY = re.compile(r"^([0-3])\+?$|^(?:score|class|grade) ?([0-3])\+?$")
_NO_NUCLEUS = re.compile(r"^other$|ignore|exclude|art[ei]fact")
_PLAIN = re.compile(r"^(cells?|nucle(us|i)|detections?|)$")
_SHIFT = 4


@dataclass(frozen=True, slots=True, eq=False)
class GivenCells:
    """N detections in level-0 px of the slide; picklable."""

    detector: str
    """Which kind of file they came from, as summary.json names it."""
    xy: Points
    """float64[N, 2]."""
    cell_class: npt.NDArray[np.uint8]
    """uint8[N]: CellClass, or UNKNOWN."""
    intensity: npt.NDArray[np.uint8]
    """uint8[N]: 0–3, or UNKNOWN."""
    tumour: npt.NDArray[np.bool_]
    """bool[N]; all, where the file says nothing of tumour."""
    rings: tuple[Points | None, ...]
    """Outlines float64[M, 2], open, M ≥ 3; None where the file has only a point."""
    strange: dict[str, int]
    """Class names that were not understood, and how many cells have them."""
    notes: tuple[str, ...] = ()
    """Sentences: what in the file was passed over."""

    def __post_init__(self) -> None:
        lengths = {len(c) for c in (self.xy, self.cell_class, self.intensity, self.tumour, self.rings)}
        if len(lengths) != 1 or self.xy.ndim != 2 or self.xy.shape[1] != 2:
            raise ValueError(f"Expected columns of equal length and xy of shape [N, 2]. Received: {lengths}")

    def __len__(self) -> int:
        return len(self.xy)

    def select(self, index: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> GivenCells:
        """The cells that a boolean mask or an index array picks."""
        at = np.flatnonzero(index) if index.dtype == np.bool_ else index
        rings = tuple(self.rings[i] for i in at.tolist())
        cell_class, intensity, tumour = self.cell_class[index], self.intensity[index], self.tumour[index]
        return GivenCells(self.detector, self.xy[index], cell_class, intensity, tumour, rings, self.strange)


@dataclass(frozen=True, slots=True)
class ClassName:
    """What a class name tells of a cell."""

    cell_class: int = UNKNOWN
    """CellClass, or UNKNOWN."""
    intensity: int = UNKNOWN
    """0–3, or UNKNOWN."""
    tumour: bool | None = None
    understood: bool = True
    """Whether every word was."""


def class_of(name: str) -> ClassName:
    """A name as QuPath and others write it: "Tumor: Positive", "Stroma: Negative", "3+", "Ignore*" …

    What is no tumour goes before what is: a tumour-infiltrating lymphocyte is none.
    """
    cell_class, intensity, tumour, understood = UNKNOWN, UNKNOWN, None, True
    for word in (w.strip().strip("*").lower() for w in re.split(r"[:;,/|]", name)):
        told = _INTENSITY.match(word)
        if told:
            intensity = int(told[1] or told[2])
            cell_class = CellClass.POSITIVE if intensity else CellClass.NEGATIVE
        elif _NO_NUCLEUS.search(word):
            cell_class, tumour = CellClass.OTHER, False
        elif _NOT_TUMOUR.search(word):
            tumour = False
        elif _TUMOUR.search(word) and tumour is None:
            tumour = True
        elif not (_POSITIVE.search(word) or _NEGATIVE.search(word) or _TUMOUR.search(word) or _PLAIN.match(word)):
            understood = False
        if _POSITIVE.search(word):
            cell_class = CellClass.POSITIVE
        elif _NEGATIVE.search(word):
            cell_class, intensity = CellClass.NEGATIVE, 0
    return ClassName(int(cell_class), intensity, tumour, understood)


def misunderstood(names: list[str]) -> dict[str, int]:
    """How many cells have a class name that is not fully known, by name."""
    return {n: c for n, c in sorted(Counter(names).items()) if not class_of(n).understood}


def tumour_flags(told: list[bool | None]) -> npt.NDArray[np.bool_]:
    """bool[N]: where a file names tumour cells, only those are; where it names none, all but what it excludes."""
    named = any(t is True for t in told)
    return np.array([t is True if named else t is not False for t in told], np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class ImagePlace:
    """Where an image lies on its slide: its px = level-0 px / scale − corner."""

    corner: Points
    """float64[2]: its upper left corner, px of the level that it was read from."""
    scale: tuple[float, float]
    """Level-0 px per px of that level."""


def as_nuclei(given: GivenCells, plane: Plane, place: ImagePlace) -> Nuclei:
    """The cells as outlines in the working pixels of `plane`, so that they can be measured like ours.

    `place`: of the image that `plane` was made from.
    """
    # working px = (px0 − shift) / factor
    shift, factor = place.corner * place.scale, np.asarray(place.scale, np.float64) * np.asarray(plane.factor)
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
