"""Sections of one block that lie beside each other on the IHC slide: which pieces of tissue may be the counterpart.

Pieces of one section lie near each other, sections lie apart. So pieces are joined across short gaps. A group counts
as a candidate where its area is about that of the H&E tissue. Control tissue and crumbs are much smaller.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import cv2
import numpy as np

from virtual_stain.errors import InputError
from virtual_stain.geometry import Box
from virtual_stain.registration.raster import Mask
from virtual_stain.registration.working import SideImage

_GAP_FRACTION = 0.08  # of the H&E tissue's side: pieces nearer than this belong to one section
_LIKE = (0.6, 1.6)  # area of a candidate over that of the H&E tissue
_MOST = 9
_ROW_FRACTION = 0.5  # of a section's height: middles that differ by less lie in one row


@dataclass(frozen=True, slots=True)
class Section:
    """A candidate on the IHC slide, and what its registration came to."""

    number: int
    """From 1: row by row from the top, each row from the left, as the slide is scanned."""
    box: Box
    """Level-0 px of the IHC."""
    taken: bool = False
    chance_log10: float | None = None
    """log10 of the probability of such agreement between unrelated slides; None: not tried."""
    consensus_fraction: float | None = None
    """Share of held-out windows that were recognised; None: not tried."""
    correlation: float | None = None
    """Mean correlation of the held-out windows, −1–1: how alike it is to the H&E. None: not tried."""


def find_sections(he: SideImage, ihc: SideImage) -> tuple[tuple[Section, ...], tuple[Mask, ...]]:
    """The candidates on the IHC and the tissue of each, bool[H, W] on its overview.

    Both are empty where there is no choice. Without pixel sizes the largest group stands for the size of the H&E
    tissue.
    """
    groups, areas = _groups(ihc, _side(he) if he.mpp is not None and ihc.mpp is not None else None)
    if len(areas) < 2:
        return (), ()
    known = he.mpp is not None and ihc.mpp is not None
    reference = _side(he) ** 2 if known else max(areas)
    chosen = [g for g, area in zip(groups, areas, strict=True) if _LIKE[0] <= area / reference <= _LIKE[1]]
    if len(chosen) < 2:
        return (), ()
    ordered = _in_rows(chosen)[:_MOST]
    sections = tuple(Section(number, _box(ihc, mask)) for number, mask in enumerate(ordered, 1))
    return sections, tuple(ordered)


def only_section(ihc: SideImage, masks: tuple[Mask, ...], number: int, path: str) -> SideImage:
    """The IHC with the tissue of one section alone. Raises InputError where there is none of this number."""
    if not 1 <= number <= max(len(masks), 1):
        there = f"{len(masks)} candidate sections" if masks else "one section"
        raise InputError(
            f"{path}: expected a section from 1 to {max(len(masks), 1)}, since {there} lie on it. Received: {number}",
            hint="Register without --section: registration.html lists the candidates with their numbers.",
        )
    return dataclasses.replace(ihc, mask=masks[number - 1]) if masks else ihc


def _side(side: SideImage) -> float:
    """Square root of the tissue area, µm (level-0 px without pixel sizes)."""
    return math.sqrt(np.count_nonzero(side.mask) * math.prod(side.unit_per_ov))


def _groups(ihc: SideImage, he_side: float | None) -> tuple[list[Mask], list[float]]:
    """Groups of pieces, and their areas in µm² (level-0 px²)."""
    unit = math.sqrt(math.prod(ihc.unit_per_ov))
    gap = max(1, round(_GAP_FRACTION * (he_side or _side(ihc)) / unit / 2))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * gap + 1, 2 * gap + 1))
    joined = cv2.dilate(ihc.mask.astype(np.uint8), kernel)
    count, labels = cv2.connectedComponents(joined)
    masks = [(labels == number) & ihc.mask for number in range(1, count)]
    return masks, [float(np.count_nonzero(m)) * unit**2 for m in masks]


def _in_rows(masks: list[Mask]) -> list[Mask]:
    middles = [(*(np.argwhere(m).mean(axis=0)), np.ptp(np.nonzero(m)[0]) + 1) for m in masks]
    left = sorted(range(len(masks)), key=lambda i: middles[i][0])
    ordered: list[int] = []
    while left:
        first = left[0]
        row = [i for i in left if middles[i][0] - middles[first][0] < _ROW_FRACTION * middles[first][2]]
        ordered += sorted(row, key=lambda i: middles[i][1])
        left = [i for i in left if i not in row]
    return [masks[i] for i in ordered]


def _box(ihc: SideImage, mask: Mask) -> Box:
    rows, columns = np.nonzero(mask)
    corners = ihc.px0_from_ov.apply([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]])
    (x0, y0), (x1, y1) = corners
    return Box(float(x0), float(y0), float(x1 - x0), float(y1 - y0))
