"""What every reader of other programs' GeoJSON asks of it: its features, what kind of QuPath object each one is, its
class and measurements, and which slide its coordinates count from.

QuPath tells the kind of an object in three ways: `objectType` (since 0.4), `object_type` (0.3), and before that only in
the feature's id ("PathAnnotationObject"). A derived class ("Tumor: Positive") is `classification.name` or, since 0.4,
a list `classification.names`; `measurements` was a list of {name, value} before it became an object.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

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


def read_geojson(path: Path) -> Any:
    """The document, with or without a byte order mark. Raises InputError that names `path`."""
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: expected GeoJSON. Received something else: {error}") from None


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
