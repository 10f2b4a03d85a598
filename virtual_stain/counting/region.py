"""A region of interest: where the tumour is, drawn by a person. QuPath GeoJSON or a mask picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.errors import InputError
from virtual_stain.geojson import NOT_DRAWN, class_name, features_of, object_type, offset_of, read_geojson
from virtual_stain.geometry import Box, Points

_CHUNK = 4_000_000  # point–edge pairs at a time
_ASPECT_FRACTION = 0.02  # a mask may be a rounded-down overview, but not of another slide
_LEFT_OUT = ("ignore", "exclude", "necrosis", "artifact", "artefact", "stroma")
_TUMOUR = re.compile(r"tumou?r(\s*:.*)?$")  # QuPath writes derived classes as "Tumor: Positive"


class Region(Protocol):
    """Where a cell is a tumour cell."""

    def contains(self, points_px0: Points) -> npt.NDArray[np.bool_]:
        """float64[N, 2] level-0 px → bool[N]."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PolygonRegion:
    """The union of polygons, each one ring and its holes, less the union of others."""

    polygons: tuple[tuple[Points, ...], ...]
    excluded: tuple[tuple[Points, ...], ...] = ()

    def contains(self, points_px0: Points) -> npt.NDArray[np.bool_]:
        return _in_any(points_px0, self.polygons) & ~_in_any(points_px0, self.excluded)


def _in_any(points_px0: Points, polygons: tuple[tuple[Points, ...], ...]) -> npt.NDArray[np.bool_]:
    inside = np.zeros(len(points_px0), bool)
    for rings in polygons:
        low, high = rings[0].min(axis=0), rings[0].max(axis=0)
        near = np.flatnonzero(((points_px0 >= low) & (points_px0 <= high)).all(axis=1) & ~inside)
        odd = np.zeros(len(near), bool)
        for ring in rings:
            odd ^= _in_ring(points_px0[near], ring)
        inside[near] |= odd
    return inside


def _in_ring(points: Points, ring: Points) -> npt.NDArray[np.bool_]:
    """Even–odd rule; half-open in y, so that a point on a vertex is counted once."""
    start, end = ring, np.roll(ring, -1, axis=0)
    result = np.zeros(len(points), bool)
    step = max(1, _CHUNK // len(ring))
    for i in range(0, len(points), step):
        x, y = points[i : i + step, :1], points[i : i + step, 1:]
        crosses = (start[:, 1] <= y) != (end[:, 1] <= y)
        rise = np.where(start[:, 1] == end[:, 1], 1.0, end[:, 1] - start[:, 1])
        at = start[:, 0] + (y - start[:, 1]) / rise * (end[:, 0] - start[:, 0])
        result[i : i + step] = np.count_nonzero(crosses & (x < at), axis=1) % 2 == 1
    return result


@dataclass(frozen=True, slots=True, eq=False)
class MaskRegion:
    """A picture of the scan, non-zero where the region is."""

    mask: npt.NDArray[np.bool_]
    extent: Box
    """What the picture covers, level-0 px."""

    def contains(self, points_px0: Points) -> npt.NDArray[np.bool_]:
        height, width = self.mask.shape
        column = np.floor((points_px0[:, 0] - self.extent.x) / self.extent.width * width).astype(np.intp)
        row = np.floor((points_px0[:, 1] - self.extent.y) / self.extent.height * height).astype(np.intp)
        valid = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        inside = np.zeros(len(points_px0), bool)
        inside[valid] = self.mask[row[valid], column[valid]]
        return inside


R = TypeVar("R", bound=Region)


def read_region(path: Path, bounds: Box, origin: str = "bounds", slide: str | None = None) -> Region:
    """`path`: GeoJSON (.geojson, .json) or a mask picture (PNG, TIFF); `bounds`: the scan in level-0 px.

    GeoJSON counts from the corner of `bounds` (QuPath's frame) or, with `origin` "slide", from the corner of level 0;
    an `origin` that the file itself declares goes before, and its `offset_px0` has to be that of the scan.
    Areas of the class Tumor (or one that begins with this word) are the region, or all areas where there are none;
    those classed Ignore*, Exclude*, Necrosis*, Artifact* or Stroma* are taken out of it. Other classes that speak of
    a tumour (Non-tumor, Peritumoral) are refused. Detections, cells and tiles are no regions. A mask covers `bounds`
    and is non-zero inside. `slide`: name of the slide; a file that names another one is refused.
    Raises InputError that says what was wrong with the file, or that the region lies outside the scan.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a region of interest (QuPath GeoJSON or mask PNG). Received: no such file")
    if path.suffix.lower() in (".geojson", ".json"):
        return _polygons(path, bounds, origin, slide)
    return _mask(path, bounds)


def _mask(path: Path, bounds: Box) -> MaskRegion:
    data = np.fromfile(path, np.uint8)
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    except (cv2.error, MemoryError):
        raise InputError(
            f"{path}: expected a mask picture of less than 2^30 pixels. Received: one that is too large to be read",
            hint="Export it smaller in proportion (QuPath: downsample 4 or more), or the annotation as GeoJSON.",
        ) from None
    if picture is None:
        raise InputError(f"{path}: expected QuPath GeoJSON or a mask picture. Received: a file of another kind")
    mask = picture if picture.ndim == 2 else picture[..., :3].max(axis=-1)
    apart = (mask.shape[1] / mask.shape[0]) / (bounds.width / bounds.height)
    slack = _ASPECT_FRACTION + 1 / min(mask.shape)
    if not 1 - slack <= apart <= 1 + slack:
        raise InputError(
            f"{path}: expected a mask of the whole scan ({bounds.width:g} × {bounds.height:g} px, or smaller in "
            f"proportion). Received: {mask.shape[1]} × {mask.shape[0]} px"
        )
    return _not_empty(MaskRegion(mask > 0, bounds), bool((mask > 0).any()), path)


def _polygons(path: Path, bounds: Box, origin: str, slide: str | None) -> PolygonRegion:
    value = read_geojson(path)
    offset = offset_of(value, path, (bounds.x, bounds.y), origin, slide)
    areas: dict[str, list[tuple[Points, ...]]] = {"tumour": [], "excluded": [], "other": []}
    for feature in features_of(value, path):
        for name, polygon in _areas(feature, path):
            areas[_kind(name, path)].append(tuple(ring + offset for ring in polygon))
    region = PolygonRegion(tuple(areas["tumour"] or areas["other"]), tuple(areas["excluded"]))
    return _on_scan(_not_empty(region, bool(region.polygons), path), bounds, path)


def _on_scan(region: PolygonRegion, bounds: Box, path: Path) -> PolygonRegion:
    """Raises InputError where no area touches the scan: no cell would be tumour, and nothing would say why."""
    low = np.array([rings[0].min(axis=0) for rings in region.polygons])
    high = np.array([rings[0].max(axis=0) for rings in region.polygons])
    touches = (low < (bounds.x1, bounds.y1)) & (high > (bounds.x, bounds.y))
    if not touches.all(axis=1).any():
        (x, y), (x1, y1) = low.min(axis=0), high.max(axis=0)
        raise InputError(
            f"{path}: expected a region on the scan, level-0 px {bounds.x:g} to {bounds.x1:g} across and {bounds.y:g} "
            f"to {bounds.y1:g} down. Received: one outside it, {x:g} to {x1:g} across and {y:g} to {y1:g} down",
            hint="Does it belong to this slide? Is it in µm, or does it count from another corner (--geojson-origin)?",
        )
    return region


def _kind(name: str, path: Path) -> str:
    """Of a class: "tumour", "excluded" or "other"."""
    plain = name.strip().lower()
    if plain.startswith(_LEFT_OUT):
        return "excluded"
    if _TUMOUR.match(plain):
        return "tumour"
    if "tumor" in plain or "tumour" in plain:
        raise InputError(
            f"{path}: expected the class Tumor, or one that does not speak of a tumour. Received: {name!r}",
            hint='Rename the class in QuPath: "Tumor" for what counts, "Ignore*" for what does not.',
        )
    return "other"


def _not_empty(region: R, has_area: bool, path: Path) -> R:
    if not has_area:
        raise InputError(
            f"{path}: expected at least one area. Received: none",
            hint="Draw an annotation with an area in QuPath and export it, or leave --roi out.",
        )
    return region


def _areas(feature: dict[str, Any], path: Path) -> Iterator[tuple[str, tuple[Points, ...]]]:
    if not isinstance(feature.get("geometry"), dict):
        raise InputError(f"{path}: expected features with a geometry. Received: {str(feature)[:80]}")
    if object_type(feature) in NOT_DRAWN:
        return
    name = class_name(feature)
    for rings in _rings_of(feature["geometry"]):
        try:
            arrays = tuple(np.asarray(ring, np.float64)[:, :2] for ring in rings)
        except (ValueError, IndexError, TypeError):
            arrays = ()
        if not arrays or any(a.shape[1:] != (2,) or len(a) < 3 or not np.isfinite(a).all() for a in arrays):
            raise InputError(f"{path}: expected rings of at least three points (x, y). Received: {str(rings)[:80]}")
        yield name, arrays


def _rings_of(geometry: dict[str, Any]) -> list[Any]:
    """Polygons of a geometry; points and lines have no area and are passed over."""
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "Polygon":
        return [coordinates]
    if kind == "MultiPolygon":
        return list(coordinates or [])
    if kind == "GeometryCollection":
        return [rings for part in geometry.get("geometries", []) for rings in _rings_of(part)]
    return []
