"""A region of interest: where the tumour is, drawn by a person. QuPath GeoJSON or a mask picture."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import shapely
import shapely.affinity
from shapely.geometry.base import BaseGeometry

from virtual_stain.errors import InputError
from virtual_stain.geojson import NOT_DRAWN, objects_of, offset_of, polygons_of, read_geojson, require_one_plane
from virtual_stain.geometry import Box, Points

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
    """Areas with their holes, level-0 px."""

    shape: BaseGeometry
    notes: tuple[str, ...] = ()
    """Sentences: what in the file was passed over."""

    def contains(self, points_px0: Points) -> npt.NDArray[np.bool_]:
        shapely.prepare(self.shape)
        return np.asarray(shapely.contains_xy(self.shape, points_px0[:, 0], points_px0[:, 1]), np.bool_)


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
    a tumour (Non-tumor, Peritumoral) are refused. Objects within objects (QuPath's nested export) count like all
    others, and go before what they lie in. Detections, cells and tiles are no regions. A mask covers `bounds`
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
    drawn = [item for item in objects_of(value, path) if item.kind not in NOT_DRAWN]
    areas: list[tuple[int, str, BaseGeometry]] = []
    shapeless, planes = [], []
    for item in drawn:
        shape = polygons_of(item, path)
        if shape is None:
            shapeless.append(item.where)
        elif not shape.is_empty:
            areas.append((item.depth, _kind(item.class_name, path), shape))
            planes.append(item)
    require_one_plane(planes, path)
    region = PolygonRegion(shapely.affinity.translate(_joined(areas), *offset), _passed_over(shapeless))
    return _on_scan(_not_empty(region, not region.shape.is_empty, path), bounds, path)


def _passed_over(shapeless: list[str]) -> tuple[str, ...]:
    n = len(shapeless)
    if not n:
        return ()
    listed = ", ".join(shapeless[:5]) + (" …" if n > 5 else "")
    return (f"region: {n} object{'s have' if n > 1 else ' has'} no shape, passed over: {listed}",)


def _joined(areas: list[tuple[int, str, BaseGeometry]]) -> BaseGeometry:
    """Of (depth, kind, shape): what is tumour, or other areas where nothing is, less what is excluded. What lies in an
    object goes before the object."""
    named = any(kind == "tumour" for _, kind, _ in areas)
    wanted = "tumour" if named else "other"
    result: BaseGeometry = shapely.Polygon()
    for depth in sorted({d for d, _, _ in areas}):
        taken, left_out = (
            shapely.union_all([s for d, k, s in areas if d == depth and k == kind]) for kind in (wanted, "excluded")
        )
        result = shapely.difference(shapely.union(result, taken), left_out)
    return result


def _on_scan(region: PolygonRegion, bounds: Box, path: Path) -> PolygonRegion:
    """Raises InputError where no area touches the scan: no cell would be tumour, and nothing would say why."""
    if not shapely.intersects(region.shape, shapely.box(bounds.x, bounds.y, bounds.x1, bounds.y1)):
        x, y, x1, y1 = region.shape.bounds
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
