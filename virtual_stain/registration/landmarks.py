"""A start set by a person: the same three or more places marked on both slides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virtual_stain.errors import InputError
from virtual_stain.geometry import Affine2D, Box, Points
from virtual_stain.tables import COMMA_HINT, SURPLUS, has_decimal_comma, read_table

COLUMNS = ("he_x", "he_y", "ihc_x", "ihc_y")
_LEAST = 3
_LEAST_SPREAD = 0.02  # smaller over larger extent of the places: on a line they fix no affine map
_MOST_STRETCH = 1.6


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """N ≥ 3 places on both slides."""

    he_px0: Points
    """float64[N, 2] level-0 px."""
    ihc_px0: Points
    rows: tuple[str, ...] = ()
    """Where each stands, for messages: file and row."""

    def __len__(self) -> int:
        return len(self.he_px0)

    def ihc_from_he(self) -> Affine2D:
        """The affine map that fits them best."""
        solution, *_ = np.linalg.lstsq(np.c_[self.he_px0, np.ones(len(self))], self.ihc_px0, rcond=None)
        matrix = np.eye(3)
        matrix[:2] = solution.T
        return Affine2D("ihc_px0", "he_px0", matrix)

    def require_on_scans(self, he: Box, ihc: Box) -> None:
        """Raises InputError that names the rows of landmarks which lie outside the scanned parts (level-0 px)."""
        problems = []
        for i in range(len(self)):
            row = self.rows[i] if self.rows else f"landmark {i + 1}"
            for name, (x, y), scan in (("H&E", self.he_px0[i], he), ("IHC", self.ihc_px0[i], ihc)):
                if not (scan.x <= x <= scan.x1 and scan.y <= y <= scan.y1):
                    there = f"x {scan.x:.0f}–{scan.x1:.0f}, y {scan.y:.0f}–{scan.y1:.0f}"
                    problems.append(f"{row}: {x:.0f}, {y:.0f} is not on the {name} ({there})")
        if problems:
            raise InputError(
                "Expected landmarks on the scanned slides. Received:\n" + "\n".join(f"  - {p}" for p in problems),
                hint="Level-0 px are meant, not µm and not pixels of an overview. Are the columns swapped?",
            )


def read_landmarks(path: Path) -> dict[str, Landmarks]:
    """Pair → landmarks, from CSV with the columns `he_x,he_y,ihc_x,ihc_y` (level-0 px) and optionally `pair`.

    Without that column everything belongs to the pair "". Raises InputError that names the file and the row.
    """
    rows = _rows(path)
    points: dict[str, list[list[float]]] = {}
    places: dict[str, list[str]] = {}
    for line, row in rows:
        if SURPLUS in row:
            raise InputError(
                f"{path}: row {line}: expected no more values than columns. Received also: {row[SURPLUS][:80]}",
                hint=COMMA_HINT,
            )
        try:
            values = [float(row[c]) for c in COLUMNS]
        except (KeyError, ValueError):  # too few values, or no number
            values = [math.nan]
        if not all(math.isfinite(v) for v in values):
            received = [row.get(c, "") for c in COLUMNS]
            comma = any(has_decimal_comma(text) for text in received)
            raise InputError(
                f"{path}: row {line}: expected numbers in {','.join(COLUMNS)}. Received: {received}",
                hint=COMMA_HINT if comma else None,
            )
        name = (row.get("pair") or "").strip()
        points.setdefault(name, []).append(values)
        places.setdefault(name, []).append(f"{path}: row {line}")
    if not points:
        raise InputError(f"{path}: expected at least {_LEAST} landmarks. Received: none.")
    return {
        pair: _checked(path, pair, np.array(values, np.float64), tuple(places[pair])) for pair, values in points.items()
    }


def read_pair_landmarks(path: Path) -> Landmarks:
    """The landmarks of one pair, from such a table. Raises InputError also where it holds those of several."""
    marks = read_landmarks(path)
    if len(marks) > 1:
        raise InputError(f"{path}: expected the landmarks of one pair. Received: those of {', '.join(sorted(marks))}")
    return next(iter(marks.values()))


def _rows(path: Path) -> list[tuple[int, Mapping[str, str]]]:
    table = read_table(path)
    if missing := [c for c in COLUMNS if c not in table.names]:
        raise InputError(
            f"{path}: expected the columns {','.join(COLUMNS)} (level-0 px). "
            f"Received: {','.join(table.names) or 'none'}",
            hint=f"Missing: {', '.join(missing)}. With several pairs add the column pair.",
        )
    return table.records()


def _checked(path: Path, pair: str, values: Points, rows: tuple[str, ...]) -> Landmarks:
    of = f" of pair {pair!r}" if pair else ""
    if len(values) < _LEAST:
        raise InputError(f"{path}: expected at least {_LEAST} landmarks{of}. Received: {len(values)}")
    landmarks = Landmarks(values[:, :2], values[:, 2:], rows)
    for name, points in (("H&E", landmarks.he_px0), ("IHC", landmarks.ihc_px0)):
        large, little = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)[:2]
        if little <= _LEAST_SPREAD * large:
            raise InputError(
                f"{path}: expected landmarks{of} spread over the tissue. Received: all of them on one line ({name})."
            )
    large, little = np.linalg.svd(landmarks.ihc_from_he().matrix[:2, :2], compute_uv=False)
    if large > _MOST_STRETCH * little:
        raise InputError(
            f"{path}: expected the same places on both slides{of}. Received: points between which the tissue would be "
            f"stretched {large / max(little, 1e-9):.1f} times more along one direction than across it.",
            hint="Are two of them swapped, or is the order on both slides not the same?",
        )
    return landmarks
