"""Tables of cells: QuPath's measurements (TSV, µm) and any CSV with positions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from virtual_stain.counting.given import GivenCells, class_of, misunderstood, tumour_flags
from virtual_stain.errors import InputError
from virtual_stain.geojson import DETECTED, NOT_TOLD, plain_type
from virtual_stain.tables import COMMA_HINT, has_decimal_comma, read_text, require_no_surplus, table_of

_X_PX = ("x", "centroid x px", "x_px0", "centroid_x")
_X_UM = ("centroid x um", "x_um", "centroid_x_um", "x um")
_CLASS = ("class", "classification", "cell_class")
_TUMOUR = ("tumour", "tumor")
_TYPE, _NAME = "object type", "name"
_MICRO = str.maketrans({"µ": "u", "μ": "u", "\ufffd": "u", "^": "", "(": " ", ")": " ", "[": " ", "]": " "})
_YES, _NO, _BLANK = ("1", "true", "yes"), ("0", "false", "no"), ("", "nan", "na", "none", "null")
_UNNAMED = ("pathannotationobject", "pathtileobject", "pathrootobject", "tmacoreobject")
HINT = (
    "Cells come as QuPath GeoJSON (.geojson), as a table (.csv, .tsv) with x,y in level-0 px or x_um,y_um and "
    "optionally class and tumour, or as StarDist's details (.npz with points and coord)."
)


def class_columns(names: list[str], told: list[bool | None]) -> dict[str, Any]:
    """Columns of GivenCells from class names; `told`: tumour where the file says it beside the name."""
    classes = [class_of(name) for name in names]
    return {
        "cell_class": np.array([c.cell_class for c in classes], np.uint8),
        "intensity": np.array([c.intensity for c in classes], np.uint8),
        "tumour": tumour_flags([c.tumour if t is None else t for c, t in zip(classes, told, strict=True)]),
        "strange": misunderstood(names),
    }


def tumour_told(text: str, where: str) -> bool | None:
    """A yes or no in words or as 1 or 0; None where there is none. Raises InputError for anything between."""
    word = text.strip().lower()
    if word in _BLANK:
        return None
    if word in _YES or word in _NO:
        return word in _YES
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if number not in (0.0, 1.0):
        raise InputError(f"{where}: expected tumour as 1 or 0, true or false, or blank. Received: {text[:40]!r}")
    return number == 1.0


def read_table(path: Path, mpp: tuple[float, float], offset: tuple[float, float]) -> GivenCells:
    """The cells of a table; `mpp` µm/px, `offset`: what µm count from, level-0 px. Raises InputError."""
    table = table_of(read_text(path, "the table of cells", any_encoding=True), str(path), strict=False)
    rows = table.rows
    names = [_plain(n) for n in table.header]
    in_um = not any(n in names for n in _X_PX)
    x_at = next((names.index(n) for n in (_X_UM if in_um else _X_PX) if n in names), None)
    y_at = None if x_at is None else _y_of(names, names[x_at])
    if x_at is None or y_at is None:
        raise InputError(f"{path}: expected columns of the position. Received: {', '.join(names)[:200]}", hint=HINT)
    cells = [(line, row) for line, row in rows if _is_cell(names, row)]
    if rows and not cells:
        raise InputError(f"{path}: expected detections or cells. Received: {len(rows)} rows of other objects")
    if "image" in names and len({row[names.index("image")] for _, row in cells if len(row) == len(names)}) > 1:
        raise InputError(f"{path}: expected the cells of one image. Received: several in the column Image.")
    class_at, tumour_at = (next((names.index(n) for n in c if n in names), None) for c in (_CLASS, _TUMOUR))
    xy, labels, told = [], [], []
    for line, row in cells:
        where = f"{path}, line {line}"
        require_no_surplus(table.header, row, where)
        xy.append(_position(row, (x_at, y_at), where, table.delimiter))
        labels.append(_at(row, class_at))
        told.append(tumour_told(_at(row, tumour_at), where))
    points = np.array(xy, np.float64).reshape(-1, 2)
    return GivenCells(
        detector="table_um" if in_um else "table_px",
        xy=points / mpp + offset if in_um else points,
        **class_columns(labels, told),
        rings=(None,) * len(points),
    )


def _is_cell(names: list[str], row: list[str]) -> bool:
    """False for QuPath's annotations, tiles, cores and the image itself.

    Before 0.4 there was no column for it, and an object without a name was named by its kind.
    """
    if _TYPE in names:
        return plain_type(_at(row, names.index(_TYPE))) in (*DETECTED, NOT_TOLD)
    name = _at(row, names.index(_NAME)).strip().lower() if _NAME in names else ""
    return name not in _UNNAMED and not name.startswith("root object")


def _at(row: list[str], index: int | None) -> str:
    return row[index] if index is not None and index < len(row) else ""


def _position(row: list[str], at: tuple[int, int], where: str, delimiter: str) -> tuple[float, float]:
    try:
        x, y = float(row[at[0]]), float(row[at[1]])
    except (ValueError, IndexError):
        x = y = math.nan
    if math.isfinite(x) and math.isfinite(y):
        return x, y
    comma = delimiter != "," and any(has_decimal_comma(_at(row, i)) for i in at)
    raise InputError(
        f"{where}: expected numbers for the position. Received: {str(row)[:80]}", hint=COMMA_HINT if comma else None
    )


def _plain(name: str) -> str:
    """A column's name without case, sign of micro, caret and brackets."""
    return " ".join(name.translate(_MICRO).lower().split())


def _y_of(names: list[str], x_name: str) -> int | None:
    """The column that is named like x's, with y in its place."""
    parts = {"x": "y", "x_px0": "y_px0", "x_um": "y_um", "centroid_x": "centroid_y", "centroid_x_um": "centroid_y_um"}
    wanted = parts.get(x_name, x_name.replace(" x ", " y ").replace("x um", "y um"))
    return names.index(wanted) if wanted in names else None
