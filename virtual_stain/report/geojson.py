"""Tiles as GeoJSON that QuPath opens at the right place: closed rings, class colours, measurements.

QuPath shows a slide cropped to its bounds and counts from their corner; OpenSlide's level 0 is uncropped. The default
frame is therefore px0 − bounds; `offset_px0` at the top says what was subtracted.
"""

from __future__ import annotations

import json
import math
import uuid
from typing import Any

from virtual_stain.config.check import require_one_of
from virtual_stain.report.colours import FAILED_RGB, UNUSED_RGB, ColourScale
from virtual_stain.report.report import SlideReport

ORIGINS = ("bounds", "slide")


def tiles_geojson(report: SlideReport, origin: str = "bounds") -> str:
    """The text of `<stem>.geojson`: a FeatureCollection with one polygon for every tissue tile.

    Coordinates are level-0 px, minus the corner of the slide's bounds (`origin` = "bounds", QuPath's frame) or not
    ("slide"). A tile that reaches beyond the scan is cut to it. The class is that of the first marker.
    Raises ValueError for another origin.
    """
    require_one_of("origin", origin, ORIGINS)
    bounds = report.slide.bounds
    offset = (bounds.x, bounds.y) if origin == "bounds" else (0.0, 0.0)
    marker, scores = next(iter(report.score.markers.items()))
    scale = ColourScale(report.shown)
    features = []
    for index, tile in enumerate(report.score.tiles):
        box = tile.box.intersection(bounds)
        if box is None:  # only rounding of the last column can do this: there is nothing to draw
            continue
        ring = [[round(x - offset[0], 3), round(y - offset[1], 3)] for x, y in box.corners().tolist()]
        if index in report.score.failed:
            name, rgb = "not read", FAILED_RGB
        elif not scores.used[index]:
            name, rgb = f"{report.shown.name(marker)} not used", UNUSED_RGB
        else:
            text, rgb = scale.class_of(float(scores.value[index]))
            name = f"{report.shown.name(marker)} {text}"
        features.append(
            {
                "type": "Feature",
                "id": _stable_id(report, tile.col, tile.row),
                # corners() runs clockwise on the screen: positive shoelace area in (x, y) with y down
                "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
                "properties": {
                    "objectType": "tile",
                    "name": f"{tile.col},{tile.row}",
                    "classification": {"name": name, "color": list(rgb)},
                    "measurements": _measurements(report, index),
                },
            }
        )
    value = {
        "type": "FeatureCollection",
        "origin": origin,
        "offset_px0": list(offset),
        "slide": report.slide.name,
        "value_definition": report.shown.definition.value,
        "unit": report.shown.definition.unit,
        "features": features,
    }
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _measurements(report: SlideReport, index: int) -> dict[str, float]:
    """Numbers only: QuPath refuses null, so what does not exist is left out."""
    values: dict[str, Any] = {}
    for marker, scores in report.score.markers.items():
        values[report.shown.column(marker)] = float(scores.value[index])
        values[marker.cells_output] = float(scores.tumour_cells[index])
        if scores.intensities is not None:
            values |= dict(zip(marker.intensity_outputs, scores.intensities[index].tolist(), strict=True))
    values["tissue_fraction"] = report.score.tiles[index].tissue_fraction
    values["used"] = float(any(s.used[index] for s in report.score.markers.values()))
    if len(report.score.markers) > 1:
        values |= {f"used_{m.value}": float(s.used[index]) for m, s in report.score.markers.items()}
    return {name: round(v, 6) for name, v in values.items() if math.isfinite(v)}


def _stable_id(report: SlideReport, col: int, row: int) -> str:
    """The same tile of the same slide and model keeps its id, so that a second import is recognised."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{report.slide.content_sha256} {report.model_sha256} {col} {row}"))
