"""`vstain warp`: points and annotations from the H&E slide to the IHC slide or back."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virtual_stain.errors import InputError
from virtual_stain.files import read_json, write_text
from virtual_stain.geometry import Points
from virtual_stain.registration.result import Registration
from virtual_stain.registration.transform import PairTransform

Mapping = Callable[[Points], Points]

_DEPTH = {
    "Point": 0,
    "MultiPoint": 1,
    "LineString": 1,
    "MultiLineString": 2,
    "Polygon": 2,
    "MultiPolygon": 3,
}
_MAX_SEGMENTS = 64


@dataclass(frozen=True, slots=True)
class WarpFrame:
    """How a file's coordinates relate to level-0 px of the slide they belong to and of the one they go to."""

    inverse: bool = False
    """From IHC to H&E."""
    source_offset_px0: tuple[float, float] = (0.0, 0.0)
    """Added to what is read: the corner of the source slide's bounds where the file is in QuPath's frame."""
    target_offset_px0: tuple[float, float] = (0.0, 0.0)
    """Taken off what is written."""
    step_px0: float = math.inf
    """Edges of annotations longer than this are divided, so that a bent edge is bent; level-0 px of the source."""


def frame_of(registration: Registration, *, inverse: bool, from_bounds: bool) -> WarpFrame:
    """The frame of files of this pair; `from_bounds`: their GeoJSON counts from the corner of the scanned area
    (QuPath)."""
    source, target = (registration.ihc, registration.he) if inverse else (registration.he, registration.ihc)
    u = registration.transform.displacement
    step = math.inf if u is None else min(u.spacing_px0) / 2
    if inverse and u is not None:
        step *= registration.transform.ihc_from_he.scales[1]
    if not from_bounds:
        return WarpFrame(inverse=inverse, step_px0=step)
    corners = ((source.bounds.x, source.bounds.y), (target.bounds.x, target.bounds.y))
    return WarpFrame(inverse, *corners, step)


def warp_file(transform: PairTransform, source: Path, target: Path, frame: WarpFrame) -> int:
    """Maps the CSV or GeoJSON `source` into `target`; returns the number of points. Raises InputError, OutputError."""
    suffix = source.suffix.lower()
    if suffix == ".csv":
        # tables count from the slide's own corner, always
        mapping = _mapping(transform, WarpFrame(frame.inverse))
        text, count = warp_csv(_read_text(source), mapping, source)
    elif suffix in (".geojson", ".json"):
        document = read_json(source, "GeoJSON")
        warper = _Warper(_mapping(transform, frame), frame.step_px0, source)
        text = json.dumps(warper.document(document), ensure_ascii=False, allow_nan=False) + "\n"
        count = warper.count
    else:
        raise InputError(f"{source}: expected .csv with columns x,y, or .geojson. Received: {source.name}")
    write_text(target, text)
    return count


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected UTF-8 text. Received another encoding.") from None


def _mapping(transform: PairTransform, frame: WarpFrame) -> Mapping:
    def to_target(points: Points) -> Points:
        shifted = points + frame.source_offset_px0
        mapped = transform.to_he(shifted) if frame.inverse else transform.to_ihc(shifted)
        return mapped - frame.target_offset_px0

    return to_target


def warp_csv(text: str, mapping: Mapping, path: Path) -> tuple[str, int]:
    """Rows in the same order with x and y mapped and every other column as it was."""
    rows = list(csv.reader(io.StringIO(text)))
    if not rows or "x" not in rows[0] or "y" not in rows[0]:
        header = ",".join(rows[0]) if rows else "an empty file"
        raise InputError(f"{path}: expected a header with the columns x and y. Received: {header}")
    x_column, y_column = rows[0].index("x"), rows[0].index("y")
    body = [row for row in rows[1:] if row]
    points = np.array([_point(row, x_column, y_column, path, n) for n, row in enumerate(body, 2)], np.float64)
    mapped = mapping(points.reshape(-1, 2))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(rows[0])
    for row, (x, y) in zip(body, mapped, strict=True):
        row[x_column], row[y_column] = f"{x:.4f}", f"{y:.4f}"
        writer.writerow(row)
    return stream.getvalue(), len(body)


def _point(row: list[str], x_column: int, y_column: int, path: Path, line: int) -> tuple[float, float]:
    try:
        x, y = float(row[x_column]), float(row[y_column])
    except (ValueError, IndexError):
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise InputError(f"{path}: row {line}: expected numbers in x and y. Received: {','.join(row)}")
    return x, y


class _Warper:
    """Walks a GeoJSON document; everything that is not a coordinate stays as it is."""

    def __init__(self, mapping: Mapping, step_px0: float, path: Path) -> None:
        self.mapping, self.step_px0, self.path = mapping, step_px0, path
        self.count = 0

    def document(self, value: Any) -> Any:
        if isinstance(value, list):  # QuPath also writes a bare list of features
            return [self.document(v) for v in value]
        kind = value.get("type") if isinstance(value, dict) else None
        if kind == "FeatureCollection":
            return {**_without_box(value), "features": [self.document(f) for f in value.get("features", [])]}
        if kind == "Feature":
            result = {**_without_box(value), "geometry": self.geometry(value.get("geometry"))}
            if "nucleusGeometry" in value:  # QuPath's cells carry a second outline
                result["nucleusGeometry"] = self.geometry(value["nucleusGeometry"])
            return result
        return self.geometry(value)

    def geometry(self, value: Any) -> Any:
        if value is None:
            return None
        kind = value.get("type") if isinstance(value, dict) else None
        if kind == "GeometryCollection":
            return {**_without_box(value), "geometries": [self.geometry(g) for g in value.get("geometries", [])]}
        if kind not in _DEPTH:
            raise InputError(f"{self.path}: expected GeoJSON geometry. Received: {kind or type(value).__name__}")
        area = kind in ("Polygon", "MultiPolygon")
        line = area or kind in ("LineString", "MultiLineString")
        try:
            coordinates = self._nested(value["coordinates"], _DEPTH[kind], line, area)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"{self.path}: a {kind} has unusable coordinates: {error}") from None
        return {**_without_box(value), "coordinates": coordinates}

    def _nested(self, value: Any, depth: int, line: bool, area: bool) -> Any:
        if depth == 0:
            return self._map([value])[0]
        if depth == 1:
            return self._path(value, area) if line else self._map(value)
        return [self._nested(v, depth - 1, line, area) for v in value]

    def _path(self, value: Any, area: bool) -> list[list[float]]:
        points = [list(p) for p in value]
        if area and points and points[0] != points[-1]:
            points.append(points[0])
        if area and len(points) < 4:
            raise ValueError(f"a ring needs three corners. Received: {len(points)} points")
        mapped = self._map(_divided(points, self.step_px0))
        if area:
            mapped[-1] = list(mapped[0])
        return mapped

    def _map(self, value: Any) -> list[list[float]]:
        if not len(value):
            return []
        points = np.array([p[:2] for p in value], np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise ValueError("expected positions of two finite numbers")
        self.count += len(points)
        mapped = self.mapping(points)
        # a third number (z) is kept
        return [[round(float(x), 4), round(float(y), 4), *p[2:]] for (x, y), p in zip(mapped, value, strict=True)]


def _without_box(value: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k != "bbox"}  # a bounding box of the old coordinates would be wrong


def _divided(points: list[list[float]], step: float) -> list[list[float]]:
    if not math.isfinite(step):
        return points
    result = points[:1]
    for before, after in itertools.pairwise(points):
        n = min(max(1, math.ceil(math.dist(before[:2], after[:2]) / step)), _MAX_SEGMENTS)
        for k in range(1, n):
            result.append([before[0] + (after[0] - before[0]) * k / n, before[1] + (after[1] - before[1]) * k / n])
        result.append(after)
    return result
