"""Reads detections of other programs: QuPath (GeoJSON, TSV), StarDist (.npz), any CSV."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from virtual_stain.counting.given import GivenCells, class_of, misunderstood, tumour_flags
from virtual_stain.errors import InputError
from virtual_stain.geometry import Box, Points

_OUTSIDE_PX0 = 2.0  # a detection may touch the border of the scan
_X_PX = ("x", "centroid x px", "x_px0", "centroid_x")
_X_UM = ("centroid x um", "x_um", "centroid_x_um", "x um")
_CLASS = ("class", "classification", "cell_class")
_TUMOUR = ("tumour", "tumor")
_PLAIN = str.maketrans({"µ": "u", "μ": "u", "\ufffd": "u", "^": "", "(": " ", ")": " ", "[": " ", "]": " "})
HINT = (
    "Cells come as QuPath GeoJSON (.geojson), as a table (.csv, .tsv) with x,y in level-0 px or x_um,y_um and "
    "optionally class and tumour, or as StarDist's details (.npz with points and coord)."
)


def read_given_cells(path: Path, bounds: Box, mpp: tuple[float, float], origin: str = "bounds") -> GivenCells:
    """Detections in level-0 px of the slide whose scan is `bounds` (px0) with `mpp` µm/px.

    GeoJSON and µm count from the corner of `bounds` (QuPath's frame) or, with `origin` "slide", from the corner of
    level 0; pixel columns of tables always count from the corner of level 0, as in this program's own cells.csv.
    Raises InputError that names the file and what is wrong: unreadable, no position, several images, cells outside.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected the cells of another detector. Received: no such file", hint=HINT)
    offset = (bounds.x, bounds.y) if origin == "bounds" else (0.0, 0.0)
    suffix = path.suffix.lower()
    if suffix in (".geojson", ".json"):
        cells = _geojson(path, offset)
    elif suffix in (".csv", ".tsv", ".txt"):
        cells = _table(path, mpp, offset)
    elif suffix == ".npz":
        cells = _stardist(path)
    else:
        raise InputError(f"{path}: expected .geojson, .csv, .tsv or .npz. Received: {suffix or 'no ending'}", hint=HINT)
    _require_inside(path, cells.xy, bounds)
    return cells


def _require_inside(path: Path, xy: Points, bounds: Box) -> None:
    low = np.array([bounds.x, bounds.y]) - _OUTSIDE_PX0
    high = np.array([bounds.x1, bounds.y1]) + _OUTSIDE_PX0
    outside = np.flatnonzero(~((xy >= low) & (xy <= high)).all(axis=1))
    if len(outside):
        x, y = xy[outside[0]]
        raise InputError(
            f"{path}: expected cells inside the scan ({bounds.width:g} × {bounds.height:g} px from {bounds.x:g}, "
            f"{bounds.y:g}). Received: {len(outside)} of {len(xy)} outside, the first at {x:g}, {y:g}",
            hint="Do they belong to this slide? Are they in µm, or do they count from another corner "
            "(--geojson-origin)?",
        )


def _geojson(path: Path, offset: tuple[float, float]) -> GivenCells:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: expected GeoJSON. Received something else: {error}") from None
    features = value if isinstance(value, list) else value.get("features") if isinstance(value, dict) else None
    if not isinstance(features, list):
        raise InputError(f"{path}: expected a GeoJSON FeatureCollection. Received: {str(value)[:80]}", hint=HINT)
    if isinstance(value, dict) and value.get("origin") in ("bounds", "slide"):
        declared = value.get("offset_px0", offset)
        offset = (float(declared[0]), float(declared[1])) if value["origin"] == "bounds" else (0.0, 0.0)
    rows = [_feature(f, path, i) for i, f in enumerate(features) if _is_cell(f)]
    if not rows:
        raise InputError(f"{path}: expected detections or cells. Received: none", hint=HINT)
    shift = np.asarray(offset)
    return GivenCells(
        detector="geojson",
        xy=np.array([r[0] for r in rows]) + shift,
        **_classes([r[1] for r in rows], [r[2] for r in rows]),
        rings=tuple(None if r[3] is None else r[3] + shift for r in rows),
    )


def _classes(names: list[str], told: list[bool | None]) -> dict[str, Any]:
    """Columns of GivenCells from class names; `told`: tumour where the file says it beside the name."""
    classes = [class_of(name) for name in names]
    return {
        "kind": np.array([c.kind for c in classes], np.uint8),
        "grade": np.array([c.grade for c in classes], np.uint8),
        "tumour": tumour_flags([c.tumour if t is None else t for c, t in zip(classes, told, strict=True)]),
        "strange": misunderstood(names),
    }


def _is_cell(feature: Any) -> bool:
    properties = feature.get("properties") if isinstance(feature, dict) else None
    kind = str((properties or {}).get("objectType", "detection")).lower()
    return kind in ("detection", "cell")


def _feature(feature: Any, path: Path, index: int) -> tuple[Points, str, bool | None, Points | None]:
    where = f"{path}: feature {index}"
    try:
        geometry = feature.get("nucleusGeometry") or feature["geometry"]
        ring = _outer_ring(geometry)
        position = np.asarray(geometry["coordinates"], np.float64)[:2] if ring is None else _middle(ring)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise InputError(f"{where}: expected a Point or a Polygon. Received: {str(feature)[:80]}") from None
    if not np.isfinite(position).all():
        raise InputError(f"{where}: expected finite coordinates. Received: {position.tolist()}")
    properties = feature.get("properties") or {}
    label = properties.get("classification")
    if isinstance(label, dict):
        label = label.get("name") or ": ".join(str(n) for n in label.get("names", []))
    told = (properties.get("measurements") or {}).get("Tumour")
    return position, str(label or ""), None if told is None else float(told) > 0, ring


def _outer_ring(geometry: dict[str, Any]) -> Points | None:
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind == "Point":
        return None
    rings = [coordinates[0]] if kind == "Polygon" else [p[0] for p in coordinates] if kind == "MultiPolygon" else []
    arrays = [np.asarray(r, np.float64)[:, :2] for r in rings]
    ring = max(arrays, key=lambda r: abs(_area(r)))
    ring = ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring
    if len(ring) < 3:
        raise ValueError("a ring needs three points")
    return ring


def _area(ring: Points) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2


def _middle(ring: Points) -> Points:
    """Centroid of the area; of a ring without one, the mean of its points."""
    near = ring - ring[0]
    x, y = near.T
    x1, y1 = np.roll(x, -1), np.roll(y, -1)
    cross = x * y1 - x1 * y
    if abs(cross.sum()) < 1e-9:
        return np.asarray(ring.mean(axis=0))
    return np.asarray(ring[0] + np.array([((x + x1) * cross).sum(), ((y + y1) * cross).sum()]) / (3 * cross.sum()))


def _plain(name: str) -> str:
    """A column's name without case, sign of micro, caret and brackets."""
    for old, new in (
        ("µ", "u"),
        ("μ", "u"),
        ("\ufffd", "u"),
        ("^", ""),
        ("(", " "),
        (")", " "),
        ("[", " "),
        ("]", " "),
    ):
        name = name.replace(old, new)
    return " ".join(name.lower().split())


def _table(path: Path, mpp: tuple[float, float], offset: tuple[float, float]) -> GivenCells:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    first = text.split("\n", 1)[0]
    delimiter = max(("\t", ";", ","), key=first.count)
    rows = list(csv.reader(text.splitlines(), delimiter=delimiter))
    names = [_plain(n) for n in rows[0]] if rows else []
    in_um = not any(n in names for n in _X_PX)
    x_at = next((names.index(n) for n in (_X_UM if in_um else _X_PX) if n in names), None)
    y_at = None if x_at is None else _y_of(names, names[x_at])
    if x_at is None or y_at is None:
        raise InputError(f"{path}: expected columns of the position. Received: {', '.join(names)[:200]}", hint=HINT)
    if "image" in names and len({r[names.index("image")] for r in rows[1:] if len(r) == len(names)}) > 1:
        raise InputError(f"{path}: expected the cells of one image. Received: several in the column Image.")
    class_at, tumour_at = (next((names.index(n) for n in c if n in names), None) for c in (_CLASS, _TUMOUR))
    xy, labels, told = [], [], []
    for line, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        try:
            x, y = float(row[x_at]), float(row[y_at])
            tumour = None if tumour_at is None else bool(float(row[tumour_at]))
        except (ValueError, IndexError):
            x = y = math.nan
            tumour = None
        if not (math.isfinite(x) and math.isfinite(y)):
            raise InputError(f"{path}, line {line}: expected numbers for the position. Received: {str(row)[:80]}")
        xy.append((x, y))
        labels.append(row[class_at] if class_at is not None and class_at < len(row) else "")
        told.append(tumour)
    points = np.array(xy, np.float64).reshape(-1, 2)
    return GivenCells(
        detector="table_um" if in_um else "table_px",
        xy=points / mpp + offset if in_um else points,
        **_classes(labels, told),
        rings=(None,) * len(points),
    )


def _y_of(names: list[str], x_name: str) -> int | None:
    """The column that is named like x's, with y in its place."""
    parts = {"x": "y", "x_px0": "y_px0", "x_um": "y_um", "centroid_x": "centroid_y", "centroid_x_um": "centroid_y_um"}
    wanted = parts.get(x_name, x_name.replace(" x ", " y ").replace("x um", "y um"))
    return names.index(wanted) if wanted in names else None


def _stardist(path: Path) -> GivenCells:
    """StarDist's `details` as numpy.savez(path, **details) writes them: points [N, 2] and coord [N, 2, K], (y, x)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            points = np.asarray(file["points"], np.float64)
            coord = np.asarray(file["coord"], np.float64)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: expected StarDist's details with points and coord. Received: {error}") from None
    n = len(points)
    if points.shape != (n, 2) or coord.ndim != 3 or coord.shape[:2] != (n, 2) or not np.isfinite(coord).all():
        raise InputError(f"{path}: expected points [N, 2], coord [N, 2, K]. Received: {points.shape}, {coord.shape}")
    # their pixel centres lie at whole numbers
    return GivenCells(
        detector="stardist",
        xy=points[:, ::-1] + 0.5,
        **_classes([""] * n, [None] * n),
        rings=tuple(ring.T[:, ::-1] + 0.5 for ring in coord),
    )
