"""GeoJSON as QuPath writes it, with every coordinate mapped and everything else as it was.

All coordinates of a document are collected, mapped in one call, and written back: a file of cells has a hundred
thousand rings.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virtual_stain.errors import InputError
from virtual_stain.geojson import CHILDREN, children_of, objects_of, same_offset
from virtual_stain.geometry import Box, Points

Mapping = Callable[[Points], Points]
Position = list[Any]

_DEPTH = {"Point": 0, "MultiPoint": 1, "LineString": 1, "MultiLineString": 2, "Polygon": 2, "MultiPolygon": 3}
# a bounding box of the old coordinates would be wrong, and QuPath draws an ellipse into the box of its new corners
_OF_THE_OLD_SHAPE = ("bbox", "isEllipse")
_MAX_SEGMENTS = 64
_SAME_CORNER_PX0 = 1.0


@dataclass(frozen=True, slots=True)
class WarpFrame:
    """How a file's coordinates relate to level-0 px of the slide they belong to and of the one they go to."""

    inverse: bool = False
    """From IHC to H&E."""
    origin: str = "slide"
    """"bounds" (QuPath: from the corner of the scanned area) or "slide"."""
    source_offset_px0: tuple[float, float] = (0.0, 0.0)
    """Added to what is read: the corner of the source slide's bounds where `origin` is "bounds"."""
    target_offset_px0: tuple[float, float] = (0.0, 0.0)
    """Taken off what is written."""
    step_px0: float = math.inf
    """Edges longer than this are divided, so that a bent edge is bent; level-0 px of the source."""
    source_name: str = ""
    """The slide that the file belongs to; "": not checked."""
    target_name: str = ""
    """The slide that the result belongs to."""
    source_scan_px0: Box | None = None
    """What was scanned of the source slide; points far outside are another slide's."""


def warp_geojson(document: Any, mapping: Mapping, frame: WarpFrame, path: Path) -> tuple[Any, int]:
    """The mapped document and its number of positions. Raises InputError that names `path`."""
    kind = document.get("type") if isinstance(document, dict) else None
    if isinstance(document, list) or kind in ("Feature", "FeatureCollection"):
        objects_of(document, path)  # what the readers of regions and cells refuse is refused here, in the same words
    warper = _Warper(frame, path)
    result = warper.document(document)
    return result, warper.finish(mapping)


class _Warper:
    """Copies a document, and remembers its positions to map them at the end."""

    def __init__(self, frame: WarpFrame, path: Path) -> None:
        self.frame, self.path = frame, path
        self.positions: list[Position] = []
        self.rings: list[list[Position]] = []

    def finish(self, mapping: Mapping) -> int:
        """Maps in place; rings end where they began and keep their sense, also when the map is a mirror."""
        if not self.positions:
            return 0
        before = [_area(ring) for ring in self.rings]
        mapped = mapping(np.array([p[:2] for p in self.positions], np.float64))
        for position, (x, y) in zip(self.positions, mapped, strict=True):
            position[:2] = round(float(x), 4), round(float(y), 4)
        for ring, area in zip(self.rings, before, strict=True):
            ring[-1] = list(ring[0])
            if _area(ring) * area < 0:
                ring.reverse()
        return len(self.positions)

    def document(self, value: Any) -> Any:
        if isinstance(value, list):  # QuPath also writes a bare list of features
            return [self.document(v) for v in value]
        kind = value.get("type") if isinstance(value, dict) else None
        if kind == "FeatureCollection":
            return self.collection(value)
        if kind == "Feature":
            return self.feature(value)
        return self.geometry(value)

    def feature(self, value: dict[str, Any]) -> dict[str, Any]:
        result = {**self.with_children(_without_box(value)), "geometry": self.geometry(value.get("geometry"))}
        if "nucleusGeometry" in value:  # QuPath's cells carry a second outline
            result["nucleusGeometry"] = self.geometry(value["nucleusGeometry"])
        if isinstance(value.get("properties"), dict):
            result["properties"] = self.with_children(value["properties"])
        return result

    def with_children(self, value: dict[str, Any]) -> dict[str, Any]:
        """The same, with what lies in an object mapped as well."""
        result = {k: v for k, v in value.items() if k not in _OF_THE_OLD_SHAPE}
        for key in CHILDREN:
            if value.get(key) is not None:
                found = [self.document(child) for child in children_of(value, key, self.path, "an object")]
                # a collection stays one, without a frame of its own
                result[key] = {**value[key], "features": found} if isinstance(value[key], dict) else found
        return result

    def listed(self, value: dict[str, Any], key: str) -> list[Any]:
        items = value.get(key)
        if not isinstance(items, list):
            received = "nothing" if items is None else type(items).__name__
            raise InputError(f"{self.path}: expected a list of {key}. Received: {received}")
        return items

    def collection(self, value: dict[str, Any]) -> dict[str, Any]:
        origin = value.get("origin", self.frame.origin)
        if origin in ("bounds", "slide") and origin != self.frame.origin:
            raise InputError(
                f"{self.path}: expected coordinates with origin {self.frame.origin!r}. Received: {origin!r}",
                hint=f"Pass --geojson-origin {origin}.",
            )
        self._check_slide(value.get("slide"))
        self._check_offset(value.get("offset_px0"))
        head = {"type": "FeatureCollection", "origin": self.frame.origin, "offset_px0": [*self.frame.target_offset_px0]}
        if "slide" in value:
            head["slide"] = self.frame.target_name
        rest = {k: v for k, v in _without_box(value).items() if k not in head}
        return {**head, **rest, "features": [self.document(f) for f in self.listed(value, "features")]}

    def _check_slide(self, slide: Any) -> None:
        if not isinstance(slide, str) or not slide or self.frame.source_name in ("", slide):
            return
        way = "Leave out --inverse" if self.frame.inverse else "Pass --inverse"
        other = 'For a slide that was renamed, set "slide" at the top of the file to its new name.'
        raise InputError(
            f"{self.path}: expected annotations of the slide {self.frame.source_name!r}. Received: those of {slide!r}",
            hint=f"{way}: these annotations are mapped the other way." if slide == self.frame.target_name else other,
        )

    def _check_offset(self, offset: Any) -> None:
        if offset is not None and not same_offset(offset, self.frame.source_offset_px0, _SAME_CORNER_PX0):
            raise InputError(
                f"{self.path}: expected annotations of the registered slide, whose scan begins at "
                f"{list(self.frame.source_offset_px0)}. Received: offset_px0 {offset}",
                hint="Is it the right slide, and the right direction (--inverse: from IHC to H&E)?",
            )

    def geometry(self, value: Any) -> Any:
        if value is None:
            return None
        kind = value.get("type") if isinstance(value, dict) else None
        if kind == "GeometryCollection":
            return {**_without_box(value), "geometries": [self.geometry(g) for g in self.listed(value, "geometries")]}
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
            return self._remembered([value])[0]
        if depth == 1:
            return self._path(value, area) if line else self._remembered(value)
        return [self._nested(v, depth - 1, line, area) for v in value]

    def _path(self, value: Any, area: bool) -> list[Position]:
        if area and isinstance(value, list) and not value:
            return []  # an object without a shape stays one
        points = [list(p) for p in value]
        if area and points and points[0] != points[-1]:
            points.append(points[0])
        if area and len(points) < 4:
            raise ValueError(f"a ring needs three corners. Received: {len(points)} points")
        path = self._remembered(_divided(points, self.frame.step_px0))
        if area:
            self.rings.append(path)
        return path

    def _remembered(self, value: Any) -> list[Position]:
        # a third number (z) is kept
        positions = [[float(p[0]), float(p[1]), *p[2:]] for p in value]
        if not all(math.isfinite(p[0]) and math.isfinite(p[1]) for p in positions):
            raise ValueError("expected positions of finite numbers")
        self.positions += positions
        return positions


def _area(ring: list[Position]) -> float:
    """Shoelace: positive when it runs clockwise on the screen."""
    return float(sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring)))


def _without_box(value: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k not in _OF_THE_OLD_SHAPE}


def _divided(points: list[Position], step: float) -> list[Position]:
    if not math.isfinite(step):
        return points
    result = points[:1]
    for before, after in itertools.pairwise(points):
        n = min(max(1, math.ceil(math.dist(before[:2], after[:2]) / step)), _MAX_SEGMENTS)
        for k in range(1, n):
            result.append([before[0] + (after[0] - before[0]) * k / n, before[1] + (after[1] - before[1]) * k / n])
        result.append(after)
    return result
