"""What a person changed about the counted cells of one tile: other classes, cells removed, cells added.

A correction names cells by their place in the label's list. The list is part of what `label_id` hashes, so a
correction can only ever meet the cells that it was made on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cells import UNKNOWN_INTENSITY, CellClass, Cells
from virtual_stain.markers import CellCounts

CLASSES = ("positive", "negative", "ignored")
"""As a person sees a cell; ignored: it does not enter the ratio (no tumour cell, or no nucleus)."""
INTENSITIES = ("1+", "2+", "3+")
"""Positive cells of a marker with intensities; "positive" is one whose intensity nobody has said."""
NAMES = CLASSES + INTENSITIES
"""What a person calls a cell, in corrections, API and QuPath."""
MAX_CHANGES = 20_000


@dataclass(frozen=True, slots=True)
class Correction:
    """Changes to a label's cells; equal corrections are equal values."""

    changed: tuple[tuple[int, str], ...] = ()
    """(index, name) of cells that a person calls otherwise."""
    removed: tuple[int, ...] = ()
    added: tuple[tuple[float, float, str], ...] = ()
    """(x, y, name) in tile px, pixel centres at + 0.5."""

    def __len__(self) -> int:
        return len(self.changed) + len(self.removed) + len(self.added)

    def to_json(self) -> str:
        """One line that `parse` reads back to an equal value."""
        value = {
            "changed": [list(c) for c in self.changed],
            "removed": list(self.removed),
            "added": [list(a) for a in self.added],
        }
        return json.dumps({k: v for k, v in value.items() if v}, separators=(",", ":"), allow_nan=False)

    @staticmethod
    def parse(value: str | Mapping[str, Any]) -> Correction:
        """From JSON or its value. Raises ValueError that says what is wrong."""
        if isinstance(value, str):
            text = value
            try:
                value = json.loads(text)
            except (json.JSONDecodeError, RecursionError):
                raise ValueError(f"correction: expected JSON. Received: {text[:60]!r}") from None
        if not isinstance(value, Mapping) or set(value) - {"changed", "removed", "added"}:
            raise ValueError('correction: expected an object with "changed", "removed", "added"')
        lists = {k: value.get(k) or [] for k in ("changed", "removed", "added")}
        if not all(isinstance(v, (list, tuple)) for v in lists.values()):
            raise ValueError("correction: expected lists")
        if sum(len(v) for v in lists.values()) > MAX_CHANGES:
            raise ValueError(f"correction: expected at most {MAX_CHANGES} changes")
        changed = {_index(c, 2): _cell_class(c[1]) for c in lists["changed"]}
        removed = {_index([r], 1) for r in lists["removed"]}
        if len(changed) != len(lists["changed"]) or len(removed) != len(lists["removed"]) or set(changed) & removed:
            raise ValueError("correction: the same cell is named twice")
        return Correction(tuple(sorted(changed.items())), tuple(sorted(removed)), tuple(map(_added, lists["added"])))

    def problem(self, cells: Cells, tile_px: float) -> str | None:
        """Why it cannot be of a label with these cells in a tile of `tile_px`; None: it can."""
        n_cells = len(cells)
        named = [i for i, _ in self.changed] + list(self.removed)
        names = {name for _, name in self.changed} | {a[2] for a in self.added}
        if cells.intensity is None and names & set(INTENSITIES):
            return f"correction: expected {', '.join(CLASSES)}: this marker has no intensities"
        if named and max(named) >= n_cells:
            return f"correction: expected cells 0 to {n_cells - 1}. Received: {max(named)}"
        if any(not (0 <= v < tile_px) for x, y, _ in self.added for v in (x, y)):
            return f"correction: expected added cells inside the tile of {tile_px:g} px"
        return None


@dataclass(frozen=True, slots=True, eq=False)
class CorrectedCells:
    """A label's cells after a correction."""

    cells: Cells
    """Kept cells in their order, then the added ones (without density and area: NaN)."""
    touched: npt.NDArray[np.bool_]
    """bool[N]: a person set the class or added the cell."""

    @property
    def counts(self) -> CellCounts:
        return self.cells.counts()


def correct(cells: Cells, correction: Correction) -> CorrectedCells:
    """Applies a correction that fits (`problem` is None). Raises ValueError otherwise."""
    n = len(cells)
    if (problem := correction.problem(cells, math.inf)) is not None:
        raise ValueError(problem)
    cell_class, tumour, touched = cells.cell_class.copy(), cells.tumour.copy(), np.zeros(n, np.bool_)
    intensity = None if cells.intensity is None else cells.intensity.copy()
    for index, name in correction.changed:
        cell_class[index], tumour[index] = _stored(name, int(cell_class[index]))
        if intensity is not None:
            intensity[index] = _intensity(name, int(intensity[index]))
        touched[index] = True
    keep = np.ones(n, np.bool_)
    keep[list(correction.removed)] = False
    old = Cells(cells.xy, cell_class, tumour, cells.dab_od, cells.area_um2, intensity).select(keep)
    added = len(correction.added)
    stored = [_stored(name, CellClass.OTHER) for _, _, name in correction.added]
    unknown = np.full(added, np.nan, np.float32)
    new = Cells(
        # float32, as every cell in a store and in a record
        xy=np.array([a[:2] for a in correction.added], np.float32).astype(np.float64).reshape(added, 2),
        cell_class=np.array([s[0] for s in stored], np.uint8),
        tumour=np.array([s[1] for s in stored], np.bool_),
        dab_od=unknown,
        area_um2=unknown,
        intensity=None
        if intensity is None
        else np.array([_intensity(name, 0) for _, _, name in correction.added], np.uint8),
    )
    return CorrectedCells(Cells.concatenated([old, new]), np.concatenate([touched[keep], np.ones(added, np.bool_)]))


def cell_names(cells: Cells) -> list[str]:
    """What a person calls each cell, one of NAMES: its class, or where it is positive its intensity."""
    names = [
        "ignored" if not tumour or stain == CellClass.OTHER else CLASSES[0 if stain == CellClass.POSITIVE else 1]
        for stain, tumour in zip(cells.cell_class.tolist(), cells.tumour.tolist(), strict=True)
    ]
    if cells.intensity is None:
        return names
    return [
        INTENSITIES[intensity - 1] if name == "positive" and intensity != UNKNOWN_INTENSITY else name
        for name, intensity in zip(names, cells.intensity.tolist(), strict=True)
    ]


def _stored(name: str, before: int) -> tuple[int, bool]:
    """(cell_class, tumour) of a class as a person sees it; what is ignored keeps its stain."""
    if name == "ignored":
        return before, False
    return int(CellClass.NEGATIVE if name == "negative" else CellClass.POSITIVE), True


def _intensity(name: str, before: int) -> int:
    """Intensity of a cell that a person calls `name`; a stained one keeps the one that it has."""
    if name in INTENSITIES:
        return INTENSITIES.index(name) + 1
    if name == "positive":
        return before or UNKNOWN_INTENSITY
    return before if name == "ignored" else 0


def _index(entry: Any, length: int) -> int:
    if not isinstance(entry, (list, tuple)) or len(entry) != length:
        raise ValueError(f"correction: expected [index, class]. Received: {entry!r:.60}")
    index = entry[0]
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 1_000_000_000:
        raise ValueError(f"correction: expected the index of a cell. Received: {index!r:.60}")
    return index


def _cell_class(value: Any) -> str:
    if value not in NAMES:
        raise ValueError(f"correction: expected {', '.join(NAMES)}. Received: {value!r:.60}")
    return str(value)


def _added(entry: Any) -> tuple[float, float, str]:
    if not isinstance(entry, (list, tuple)) or len(entry) != 3:
        raise ValueError(f"correction: expected [x, y, class]. Received: {entry!r:.60}")
    x, y = entry[:2]
    for v in (x, y):
        if not isinstance(v, (int, float)) or isinstance(v, bool) or not math.isfinite(v):
            raise ValueError(f"correction: expected a position in tile px. Received: {v!r:.60}")
    return round(float(x), 2), round(float(y), 2), _cell_class(entry[2])
