"""Reads detections of other programs: QuPath (GeoJSON, TSV), StarDist (.npz), any CSV."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from virtual_stain.counting.given import GivenCells
from virtual_stain.counting.given_tables import HINT, class_columns, read_table, tumour_told
from virtual_stain.errors import InputError
from virtual_stain.geojson import (
    DETECTED,
    NOT_TOLD,
    class_name,
    measurement,
    objects_of,
    offset_of,
    read_geojson,
    require_one_plane,
)
from virtual_stain.geometry import Box, Points

_OUTSIDE_PX0 = 2.0  # a detection may touch the border of the scan
_MAX_WIDTH_UM = 200.0  # no cell is as wide (megakaryocytes reach 100 µm): a region, or numbers in another unit
_NO_ARCHIVE = (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, NotImplementedError)


def read_given_cells(
    path: Path, bounds: Box, mpp: tuple[float, float], origin: str = "bounds", slide: str | None = None
) -> GivenCells:
    """Detections in level-0 px of the slide whose scan is `bounds` (px0) with `mpp` µm/px.

    GeoJSON and µm count from the corner of `bounds` (QuPath's frame) or, with `origin` "slide", from the corner of
    level 0; pixel columns of tables always count from the corner of level 0, as in this program's own cells.csv.
    Annotations and other objects that no detector made are passed over. `slide`: name of the slide; a file that names
    another one is refused. Raises InputError that names the file and what is wrong: unreadable, no position, several
    images, cells outside, outlines that are no cell's.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected the cells of another detector. Received: no such file", hint=HINT)
    offset = (bounds.x, bounds.y) if origin == "bounds" else (0.0, 0.0)
    suffix = path.suffix.lower()
    if suffix in (".geojson", ".json"):
        cells = _geojson(path, bounds, origin, slide)
    elif suffix in (".csv", ".tsv", ".txt"):
        cells = read_table(path, mpp, offset)
    elif suffix == ".npz":
        cells = _stardist(path)
    else:
        raise InputError(f"{path}: expected .geojson, .csv, .tsv or .npz. Received: {suffix or 'no ending'}", hint=HINT)
    _require_inside(path, cells.xy, bounds)
    _require_cell_size(path, cells.rings, mpp)
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


def _require_cell_size(path: Path, rings: tuple[Points | None, ...], mpp: tuple[float, float]) -> None:
    for i, ring in enumerate(rings):
        width_um = 0.0 if ring is None else float((np.ptp(ring, axis=0) * mpp).max())
        if not width_um <= _MAX_WIDTH_UM:
            raise InputError(
                f"{path}: expected outlines of cells, at most {_MAX_WIDTH_UM:g} µm wide. Received: outline {i} "
                f"{width_um:.4g} µm wide",
                hint="Is it an annotation? Export detections alone. A wrong pixel size is mended by --mpp.",
            )


def _geojson(path: Path, bounds: Box, origin: str, slide: str | None) -> GivenCells:
    value = read_geojson(path)
    offset = offset_of(value, path, (bounds.x, bounds.y), origin, slide)
    objects = objects_of(value, path, HINT)
    found = [o for o in objects if o.kind in (*DETECTED, NOT_TOLD)]
    cells = [o for o in found if not _shapeless(o.feature)]
    if not cells:
        received = ", ".join(f"{n} of type {kind}" for kind, n in sorted(Counter(o.kind for o in objects).items()))
        empty = ", none of them with a shape" if found else ""
        raise InputError(f"{path}: expected detections or cells. Received: {received or 'none'}{empty}", hint=HINT)
    require_one_plane(cells, path)
    rows = [_feature(o.feature, f"{path}: {o.where}") for o in cells]
    shift = np.asarray(offset)
    return GivenCells(
        detector="geojson",
        xy=np.array([r[0] for r in rows]) + shift,
        **class_columns([r[1] for r in rows], [r[2] for r in rows]),
        rings=tuple(None if r[3] is None else r[3] + shift for r in rows),
        notes=_passed_over(len(found) - len(cells), len(found)),
    )


def _shapeless(feature: dict[str, Any]) -> bool:
    """Whether an object has no shape at all: null, or no coordinates."""
    geometry = feature.get("nucleusGeometry") or feature.get("geometry", {})
    return geometry is None or (isinstance(geometry, dict) and geometry.get("coordinates", True) in ([], [[]], None))


def _passed_over(n: int, of: int) -> tuple[str, ...]:
    return (f"cells: {n} of {of} objects have no shape and are passed over",) if n else ()


def _feature(feature: dict[str, Any], where: str) -> tuple[Points, str, bool | None, Points | None]:
    try:
        geometry = feature.get("nucleusGeometry") or feature["geometry"]
        ring = _outer_ring(geometry)
        position = np.asarray(geometry["coordinates"], np.float64)[:2] if ring is None else _middle(ring)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise InputError(f"{where}: expected a Point or a Polygon. Received: {str(feature)[:80]}") from None
    if position.shape != (2,) or not np.isfinite(position).all():
        raise InputError(f"{where}: expected finite coordinates. Received: {position.tolist()}")
    told = measurement(feature, "Tumour")
    return position, class_name(feature), tumour_told("" if told is None else str(told), where), ring


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
    """With the sign of the direction."""
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


_MOST_UNPACKED = 2_000_000_000  # bytes: millions of outlines; a few bytes of an archive can claim any number


def _stardist(path: Path) -> GivenCells:
    """StarDist's `details` as numpy.savez(path, **details) writes them: points [N, 2] and coord [N, 2, K], (y, x)."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if sum(part.file_size for part in file.zip.infolist()) > _MOST_UNPACKED:
                raise ValueError(f"more than {_MOST_UNPACKED / 1e9:.0f} GB of numbers")
            points = np.asarray(file["points"], np.float64)
            coord = np.asarray(file["coord"], np.float64)
    except (*_NO_ARCHIVE, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise InputError(f"{path}: expected StarDist's details with points and coord. Received: {error}") from None
    n = len(points)
    if points.shape != (n, 2) or coord.ndim != 3 or coord.shape[:2] != (n, 2) or not np.isfinite(coord).all():
        raise InputError(f"{path}: expected points [N, 2], coord [N, 2, K]. Received: {points.shape}, {coord.shape}")
    # their pixel centres lie at whole numbers
    return GivenCells(
        detector="stardist",
        xy=points[:, ::-1] + 0.5,
        **class_columns([""] * n, [None] * n),
        rings=tuple(ring.T[:, ::-1] + 0.5 for ring in coord),
    )
