"""Verdicts and cells as QuPath GeoJSON, both ways.

A tile is an annotation: its id is the `label_id` written as a UUID, its name the place, its class the verdict. The
cells of a tile are annotations of points (Positive, Negative, Ignored; of HER2 1+, 2+ and 3+) that can be edited in
QuPath: points moved from one to another, added, deleted. Reading it back makes a correction of the difference.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from virtual_stain.counting.cells import Cells
from virtual_stain.errors import InputError
from virtual_stain.geojson import class_name, objects_of
from virtual_stain.geometry import Box
from virtual_stain.review.correction import NAMES, Correction, cell_names
from virtual_stain.review.verdicts import Decision, Place, Verdict

_COLOURS = {
    "Accept": (46, 125, 50),
    "Reject": (198, 40, 40),
    "Skip": (120, 120, 120),
    "Positive": (216, 48, 42),
    "Negative": (76, 110, 219),
    "Ignored": (150, 150, 150),
    "1+": (255, 216, 0),
    "2+": (255, 127, 39),
    "3+": (136, 0, 21),
}
_PLACE = re.compile(r"(?P<pair>.+) (?P<col>\d{1,9}),(?P<row>\d{1,9})(?P<cells> cells)?")
_IMPORTED = Path("GeoJSON")
_CELLS, _WRITTEN = "cells", "written"
"""In a tile's metadata, which QuPath keeps: the file was written with the tile's cells."""
_SAME_PX = 1.0
"""A point nearer than this to a counted cell, tile px, is that cell: 0.3 µm; nuclei are 5 µm and more."""


@dataclass(frozen=True, slots=True)
class TileOut:
    """What is written of one tile."""

    place: Place
    label_id: str
    box: Box
    """Level-0 px of the H&E slide."""
    verdict: Verdict | None
    cells: Cells | None
    """Tile px, corrected where they are; None: left out."""


@dataclass(frozen=True, slots=True)
class TileIn:
    """What was read of one tile, its points in the file's frame."""

    place: Place
    label_id: str
    decision: Decision
    reason: str
    points: Mapping[str, npt.NDArray[np.float64]]
    """class → float64[N, 2]."""
    has_cells: bool
    """Whether its cells were written to the file that came back: then no points mean that all were removed."""


def to_geojson(tiles: Iterable[TileOut], tile_px: int, offset_px0: tuple[float, float]) -> str:
    """A FeatureCollection in QuPath's frame, level-0 px minus `offset_px0`, the corner of the scan."""
    features = [f for tile in tiles for f in _features(tile, tile_px, offset_px0)]
    head = {"type": "FeatureCollection", "origin": "bounds", "offset_px0": list(offset_px0), "features": features}
    return json.dumps(head, ensure_ascii=False, allow_nan=False) + "\n"


def from_geojson(text: str) -> list[TileIn]:
    """The tiles that carry a verdict. Raises ValueError that names the feature."""
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"expected GeoJSON. Received something else: {error}") from None
    try:
        objects = objects_of(value, _IMPORTED)
    except InputError as error:
        raise ValueError(error.message.removeprefix(f"{_IMPORTED}: ")) from None
    tiles: dict[Place, tuple[str, Decision, str, bool]] = {}
    points: dict[Place, dict[str, list[npt.NDArray[np.float64]]]] = {}
    for item in objects:
        try:
            _take(item.feature, tiles, points)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{item.where}: {error}") from None
    return [
        TileIn(
            place,
            *tile[:3],
            points={k: np.concatenate(v) for k, v in points.get(place, {}).items()},
            has_cells=tile[3] or place in points,
        )
        for place, tile in tiles.items()
    ]


def difference(cells: Cells, points: Mapping[str, npt.NDArray[np.float64]]) -> Correction | None:
    """What differs between the counted `cells` and `points` (class → float64[N, 2]), both tile px; None: nothing."""
    names = cell_names(cells)
    kinds = [kind for kind in NAMES for _ in range(len(points.get(kind, ())))]
    found = np.concatenate([points.get(k, np.zeros((0, 2))) for k in NAMES])
    matched = _match(cells.xy, found)
    changed = sorted((c, kinds[p]) for c, p in matched.items() if names[c] != kinds[p])
    removed = [c for c in range(len(cells)) if c not in matched]
    taken = set(matched.values())
    added = [(*found[p].round(2).tolist(), kinds[p]) for p in range(len(found)) if p not in taken]
    correction = Correction.parse({"changed": changed, "removed": removed, "added": added})
    return correction if len(correction) else None


def _match(cells: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> dict[int, int]:
    """cell → point, nearest first, each once."""
    if not len(cells) or not len(found):
        return {}
    near = cKDTree(cells).sparse_distance_matrix(cKDTree(found), _SAME_PX, output_type="coo_matrix")
    matched: dict[int, int] = {}
    taken: set[int] = set()
    # a distance of exactly 0 is kept by the matrix in COO form
    for _, cell, point in sorted(zip(near.data.tolist(), near.row.tolist(), near.col.tolist(), strict=True)):
        if cell not in matched and point not in taken:
            matched[cell] = point
            taken.add(point)
    return matched


def _features(tile: TileOut, tile_px: int, offset: tuple[float, float]) -> list[dict[str, Any]]:
    place, box = tile.place, tile.box
    name = f"{place.pair} {place.col},{place.row}"
    ring = [[round(x - offset[0], 3), round(y - offset[1], 3)] for x, y in box.corners().tolist()]
    properties: dict[str, Any] = {"objectType": "annotation", "name": name, "isLocked": True}
    if tile.verdict is not None:
        properties["classification"] = _classification(tile.verdict.decision.value.capitalize())
        properties["metadata"] = {"reviewer": tile.verdict.reviewer, "reason": tile.verdict.reason}
    if tile.cells is not None:
        properties.setdefault("metadata", {})[_CELLS] = _WRITTEN
    geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    result = [_feature(str(uuid.UUID(tile.label_id)), geometry, properties)]
    if tile.cells is None or not len(tile.cells):
        return result
    scale = np.array([box.width, box.height]) / tile_px
    xy = tile.cells.xy * scale + (box.x - offset[0], box.y - offset[1])
    kinds = np.array(cell_names(tile.cells))
    for kind in NAMES:
        mine = xy[kinds == kind]
        if len(mine):
            what = {
                "objectType": "annotation",
                "name": f"{name} cells",
                "classification": _classification(kind.capitalize()),
            }
            points = {"type": "MultiPoint", "coordinates": mine.round(3).tolist()}
            result.append(_feature(str(uuid.uuid5(uuid.UUID(tile.label_id), kind)), points, what))
    return result


def _feature(identity: str, geometry: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "id": identity, "geometry": geometry, "properties": properties}


def _classification(name: str) -> dict[str, Any]:
    return {"name": name, "color": list(_COLOURS[name])}


def _take(
    feature: Any,
    tiles: dict[Place, tuple[str, Decision, str, bool]],
    points: dict[Place, dict[str, list[npt.NDArray[np.float64]]]],
) -> None:
    properties = feature.get("properties") or {}
    found = _PLACE.fullmatch(str(properties.get("name", "")))
    if found is None:
        return  # somebody's own annotation
    place = Place(found["pair"], int(found["col"]), int(found["row"]))
    kind = class_name(feature).lower()
    if found["cells"]:
        if kind not in NAMES:
            raise ValueError(f"class: expected {', '.join(k.capitalize() for k in NAMES)}. Received: {kind!r}")
        points.setdefault(place, {}).setdefault(kind, []).append(_coordinates(feature["geometry"]))
    elif kind:
        metadata = properties.get("metadata") or {}
        reason, written = str(metadata.get("reason") or ""), metadata.get(_CELLS) == _WRITTEN
        tiles[place] = (uuid.UUID(str(feature["id"])).hex, Decision(kind), reason, written)


def _coordinates(geometry: Any) -> npt.NDArray[np.float64]:
    if geometry is None:  # all of its points were deleted
        return np.zeros((0, 2))
    listed = geometry["coordinates"]
    if geometry["type"] == "Point":
        listed = [listed]
    elif geometry["type"] != "MultiPoint":
        raise ValueError(f"geometry: expected points. Received: {geometry['type']!r:.40}")
    values = np.asarray([p[:2] for p in listed], np.float64).reshape(-1, 2)
    if not np.isfinite(values).all():
        raise ValueError("geometry: expected finite positions")
    return values
