"""What every reader of other programs' GeoJSON asks of it: its objects, nested or not, what kind of QuPath object each
one is, its class, shape and measurements, and which slide its coordinates count from.

QuPath tells the kind of an object in three ways: `objectType` (since 0.4), `object_type` (0.3), and before that only in
the feature's id ("PathAnnotationObject"). A derived class ("Tumor: Positive") is `classification.name` or, since 0.4,
a list `classification.names`; `measurements` was a list of {name, value} before it became an object.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from virtual_stain.errors import InputError

ORIGINS = ("bounds", "slide")
NOT_TOLD = ""
"""Kind of an object of which the file says nothing."""
DETECTED = ("detection", "cell")
"""Kinds that a detector made."""
NOT_DRAWN = (*DETECTED, "tile", "tma_core", "root")
"""Kinds that nobody drew as a region."""

_BY_NAME = {
    "pathdetectionobject": "detection",
    "pathcellobject": "cell",
    "pathannotationobject": "annotation",
    "pathtileobject": "tile",
    "pathrootobject": "root",
    "tmacoreobject": "tma_core",
}
_MAX_OFFSET_ERROR_PX0 = 0.5
CHILDREN = ("childObjects", "children")
"""Where an object keeps the objects that lie in it: QuPath's nested export has them among its properties."""
_MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class GeoObject:
    """One object of a file, whether it stands at the top or within another."""

    feature: dict[str, Any]
    where: str
    """For messages: "feature 3", "feature 3, child 2"."""
    depth: int
    """0 at the top; what lies in another object says more exactly what is there."""

    @property
    def kind(self) -> str:
        return object_type(self.feature)

    @property
    def class_name(self) -> str:
        return class_name(self.feature)

    @property
    def plane(self) -> tuple[int, int]:
        """(z, t) of the focus plane and time that QuPath drew it on; (0, 0) where the file names none."""
        geometry = self.feature.get("geometry")
        plane = geometry.get("plane") if isinstance(geometry, dict) else None
        if not isinstance(plane, dict):
            return 0, 0
        z, t = (plane.get(name) for name in ("z", "t"))
        return (z if isinstance(z, int) else 0), (t if isinstance(t, int) else 0)


_FARTHEST_PX = 1e9  # of any slide; beyond it areas overflow
_MOST_CROSSINGS = 2000  # a drawn outline has a few; the pieces of a tangle grow with their square
_SAMPLED_SEGMENTS = 400
_MOSTLY = 0.5  # of a hole's area
_LENGTHS = ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "mm")


def read_geojson(path: Path) -> Any:
    """The document, with or without a byte order mark. Raises InputError that names `path`."""
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected GeoJSON. Received something else: {error!s:.200}") from None


def features_of(value: Any, path: Path, hint: str | None = None) -> list[dict[str, Any]]:
    """Features of a FeatureCollection, a single Feature or (older QuPath) a bare list. Raises InputError."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "Feature":
        found: Any = [value]
    elif isinstance(value, dict):
        found = value.get("features")
    else:
        found = value
    if not isinstance(found, list):
        received = kind or type(value).__name__
        raise InputError(f"{path}: expected a GeoJSON FeatureCollection. Received: {received}", hint=hint)
    for i, feature in enumerate(found):
        if not isinstance(feature, dict) or not isinstance(feature.get("properties") or {}, dict):
            raise InputError(
                f"{path}: feature {i}: expected a feature whose properties are named. Received: {str(feature)[:80]}"
            )
    return found


def objects_of(value: Any, path: Path, hint: str | None = None) -> list[GeoObject]:
    """All objects of a file, each before those that lie in it. Raises InputError that names the object."""
    objects: list[GeoObject] = []
    _require_px(value, path)
    for i, feature in enumerate(features_of(value, path, hint)):
        objects += _with_children(feature, path, f"feature {i}", 0)
    return objects


def _require_px(value: Any, path: Path) -> None:
    """Raises InputError for a file that names a length as the unit of its coordinates."""
    for name in ("unit", "units"):
        told = value.get(name) if isinstance(value, dict) else None
        if isinstance(told, str) and told.strip().lower() in _LENGTHS:
            raise InputError(
                f"{path}: expected coordinates in level-0 px. Received: {name} {told!r}",
                hint="Divide the coordinates by the pixel size, or export them in pixels.",
            )


def _with_children(feature: Any, path: Path, where: str, depth: int) -> Iterator[GeoObject]:
    properties = feature.get("properties") if isinstance(feature, dict) else []
    if not isinstance(properties, dict | None) or depth > _MAX_DEPTH:
        raise InputError(
            f"{path}: {where}: expected a feature whose properties are named. Received: {str(feature)[:80]}"
        )
    if feature.get("type") == "FeatureCollection":
        for i, inner in enumerate(children_of(feature, "features", path, where)):
            yield from _with_children(inner, path, f"{where}, feature {i}", depth)
        return
    yield GeoObject(feature, where, depth)
    holders = feature, properties or {}
    children = [c for holder in holders for key in CHILDREN for c in children_of(holder, key, path, where)]
    for i, child in enumerate(children):
        yield from _with_children(child, path, f"{where}, child {i}", depth + 1)


def children_of(holder: dict[str, Any], key: str, path: Path, where: str) -> list[Any]:
    """The objects that `holder` keeps under `key` of CHILDREN, as a list or as a collection of its own; [] without.

    Raises InputError that names the object.
    """
    found = holder.get(key)
    if found is None:
        return []
    if isinstance(found, dict) and isinstance(found.get("features"), list):  # a collection of its own
        found = found["features"]
    if not isinstance(found, list):
        raise InputError(f"{path}: {where}: expected a list of {key} (child objects). Received: {str(found)[:80]}")
    return found


def require_one_plane(objects: Iterable[GeoObject], path: Path) -> None:
    """Raises InputError where objects lie on several focus planes or times: each would count once a plane."""
    planes = sorted({o.plane for o in objects})
    if len(planes) > 1:
        listed = ", ".join(f"z={z} t={t}" for z, t in planes[:6])
        raise InputError(
            f"{path}: expected objects on one plane, since a slide has one. Received: {listed}",
            hint="Export the objects of one z plane (and one time) alone.",
        )


def polygons_of(item: GeoObject, path: Path) -> BaseGeometry | None:
    """The object's areas as a valid shapely geometry, possibly empty; None where the object has no shape at all (null,
    or no coordinates). Points and lines have no area. Raises InputError for coordinates that are none."""
    geometry = item.feature.get("geometry")
    if geometry is None and "geometry" in item.feature:
        return None
    if not isinstance(geometry, dict):
        raise InputError(f"{path}: expected features with a geometry. Received: {str(item.feature)[:80]}")
    rings = list(_polygon_rings(geometry))
    if not rings:
        listed = geometry.get("geometries") or geometry.get("coordinates")
        return None if listed in (None, [], [[]], [[[]]]) else shapely.Polygon()
    return shapely.union_all([_polygon(r, path, item.where) for r in rings])


def _polygon_rings(geometry: Any) -> Iterator[list[Any]]:
    """Of every polygon that has any; what has no coordinates has no shape."""
    if not isinstance(geometry, dict):
        return
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "GeometryCollection":
        parts = geometry.get("geometries") or []
        for part in parts if isinstance(parts, list) else ():
            yield from _polygon_rings(part)
        return
    found = [coordinates] if kind == "Polygon" else (coordinates or []) if kind == "MultiPolygon" else []
    for rings in found if isinstance(found, list) else [found]:
        if not isinstance(rings, list | None):  # no list of rings: who makes a polygon of it says so
            yield [rings]
        elif rings and any(rings):
            yield [ring for ring in rings if ring]


def _polygon(rings: list[Any], path: Path, where: str) -> BaseGeometry:
    try:
        corners = [[(float(p[0]), float(p[1])) for p in ring] for ring in rings]
        usable = all(len(ring) >= 3 and all(abs(v) < _FARTHEST_PX for p in ring for v in p) for ring in corners)
    except (TypeError, ValueError, IndexError, KeyError):
        usable = False
    if not usable:
        raise InputError(
            f"{path}: {where}: expected rings of at least three points (x, y). Received: {str(rings)[:80]}"
        )
    drawn = shapely.Polygon(corners[0], corners[1:])
    if not drawn.is_valid:
        crossings, segments = _crossings(drawn)
        if crossings > max(_MOST_CROSSINGS, 2 * segments):
            raise InputError(
                f"{path}: {where}: expected the outline of an area. Received rings of {segments} segments that cross "
                f"each other about {crossings:.0f} times."
            )
    shell, *holes = (_area_of_ring(ring) for ring in corners)
    if not all(_is_hole(hole, shell) for hole in holes) or _nested(holes):
        raise InputError(
            f"{path}: {where}: expected holes within the outline and beside each other. Received: a hole outside the "
            "outline, around it, or within another hole: that does not say what is inside.",
            hint="Draw an island within a hole as an object of its own.",
        )
    return shapely.difference(shell, shapely.union_all(holes))


def _area_of_ring(ring: list[tuple[float, float]]) -> BaseGeometry:
    """What one ring encloses; where it crosses itself, by the even–odd rule."""
    parts = shapely.get_parts(shapely.make_valid(shapely.Polygon(ring)))
    return shapely.union_all([g for g in parts if g.geom_type in ("Polygon", "MultiPolygon")])


def _is_hole(hole: BaseGeometry, shell: BaseGeometry) -> bool:
    """Whether a hole lies in its shell for the most part; drawn by hand, it may reach over its edge."""
    return shell.covers(hole) or shapely.intersection(hole, shell).area > _MOSTLY * hole.area


def _nested(holes: list[BaseGeometry]) -> bool:
    """Whether one hole lies within another one."""
    if len(holes) < 2:
        return False
    first, second = shapely.STRtree(holes).query(holes, predicate="covered_by")
    return bool(np.any(first != second))


def _crossings(shape: shapely.Polygon) -> tuple[float, int]:
    """(about how often segments of its rings cross or touch others than their neighbours, number of segments)."""
    rings = [np.asarray(ring.coords) for ring in (shape.exterior, *shape.interiors)]
    segments = shapely.linestrings(np.concatenate([np.stack([r[:-1], r[1:]], axis=1) for r in rings]))
    sample = segments[:: max(1, len(segments) // _SAMPLED_SEGMENTS)]
    met = shapely.STRtree(segments).query(sample, predicate="intersects").shape[1] - 3 * len(sample)
    return max(0, met) * len(segments) / len(sample) / 2, len(segments)


def object_type(feature: dict[str, Any]) -> str:
    """Of the kind "annotation", "detection", "cell", "tile", "tma_core", "root", or another word of the file's, or
    NOT_TOLD."""
    properties = feature.get("properties") or {}
    for told in (properties.get("objectType"), properties.get("object_type")):
        if told:
            return plain_type(str(told))
    return _BY_NAME.get(str(feature.get("id", "")).lower(), NOT_TOLD)


def plain_type(name: str) -> str:
    """The same kinds from the words of a table: "Detection", "TMA core", "Root object", "PathCellObject"."""
    word = name.strip().lower().replace(" ", "_")
    return _BY_NAME.get(word, "root" if word == "root_object" else word)


def class_name(feature: dict[str, Any]) -> str:
    """The object's class with its parents ("Tumor: Positive"); "" without one."""
    told = (feature.get("properties") or {}).get("classification")
    if isinstance(told, dict):
        names = told.get("names")
        told = told.get("name") or (": ".join(str(n) for n in names) if isinstance(names, list) else names)
    return str(told or "")


def measurement(feature: dict[str, Any], name: str) -> Any:
    """The value as it stands in the file; None where there is none."""
    found = (feature.get("properties") or {}).get("measurements")
    if isinstance(found, dict):
        return found.get(name)
    rows = found if isinstance(found, list) else []
    return next((row.get("value") for row in rows if isinstance(row, dict) and row.get("name") == name), None)


def offset_of(
    value: Any, path: Path, corner: tuple[float, float], origin: str, slide: str | None = None
) -> tuple[float, float]:
    """What the coordinates count from, level-0 px: as the file declares, or else as `origin` says.

    `corner`: of the scan. Raises InputError where the file's `offset_px0` is not that of this scan, or where it names
    another slide than `slide` (None: not asked): its coordinates would be of somewhere else.
    """
    head = value if isinstance(value, dict) else {}
    named = head.get("slide")
    if slide is not None and isinstance(named, str) and named and named != slide:
        raise InputError(
            f"{path}: expected a file of the slide {slide!r}. Received: one of the slide {named!r}",
            hint='For a slide that was renamed, set "slide" at the top of the file to its new name.',
        )
    if head.get("origin") in ORIGINS:
        origin = head["origin"]
    offset = corner if origin == "bounds" else (0.0, 0.0)
    declared = head.get("offset_px0")
    if declared is not None and not same_offset(declared, offset, _MAX_OFFSET_ERROR_PX0):
        raise InputError(
            f"{path}: expected coordinates with origin {origin!r}, offset_px0 {list(offset)}. Received: offset_px0 "
            f"{str(declared)[:80]}",
            hint="The file seems to belong to another slide; for this one, it may lack its origin: see "
            "--geojson-origin.",
        )
    return offset


def same_offset(declared: Any, offset: tuple[float, float], within_px0: float) -> bool:
    """Whether what a file declares as `offset_px0` is that offset; False where it is no pair of numbers."""
    try:
        return math.dist([float(v) for v in declared], offset) <= within_px0
    except (TypeError, ValueError):
        return False
