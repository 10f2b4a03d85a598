"""cells.csv and cells.geojson, written row by row while the slide is counted."""

from __future__ import annotations

import json
import math
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cells import CellClass
from virtual_stain.counting.windows import FoundCells
from virtual_stain.geometry import Points

CSV_COLUMNS = (
    "x",
    "y",
    "class",
    "dab_od",
    "area_um2",
    "tumour",
    "intensity",
    "hematoxylin_od",
    "max_dab_od",
    "elongation",
    "circularity",
    "edge_score",
    "membrane_completeness",
    "tumour_source",
)
"""x, y in level-0 px; class positive/negative/other; `dab_od` of the compartment that the marker stains; intensity 0–3.
`tumour_source`: what decided about `tumour`, in every row the same. Blank: not measured (a membrane on a nuclear
marker, an area of a cell that came as a point)."""
CLASS_NAMES = {CellClass.NEGATIVE: "negative", CellClass.POSITIVE: "positive", CellClass.OTHER: "other"}
COLOURS = {CellClass.NEGATIVE: (76, 110, 219), CellClass.POSITIVE: (216, 48, 42), CellClass.OTHER: (150, 150, 150)}
"""QuPath's display colour (R, G, B) of each class; the overlay picture uses the same."""


class CellFiles:
    """Appends cells to an open CSV and an open GeoJSON; a context manager that closes the collection properly."""

    def __init__(
        self,
        csv: IO[str],
        geojson: IO[str],
        *,
        slide: str,
        origin: str,
        offset_px0: tuple[float, float],
        tumour_source: str,
    ) -> None:
        self._csv, self._geojson, self._offset = csv, geojson, offset_px0
        self._first = True
        self._encode = json.JSONEncoder(allow_nan=False).encode  # one for all cells: making it costs as much as a cell
        self._head = {
            "type": "FeatureCollection",
            "origin": origin,
            "offset_px0": list(offset_px0),
            "slide": slide,
            "tumour_source": tumour_source,
        }
        self._source = _quoted(tumour_source)

    def __enter__(self) -> CellFiles:
        self._csv.write(",".join(CSV_COLUMNS) + "\n")
        head = json.dumps(self._head, ensure_ascii=False, allow_nan=False)
        self._geojson.write(head[:-1] + ', "features": [\n')
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self._geojson.write("\n]}\n")

    def append(self, found: FoundCells, tumour: npt.NDArray[np.bool_]) -> None:
        """`tumour`: bool[N] of the cells in `found`."""
        c = found.cells
        for i in range(len(c)):
            kind = CellClass(int(c.cell_class[i]))
            x, y = c.xy[i]
            row = [f"{x:.3f}", f"{y:.3f}", CLASS_NAMES[kind], f"{float(c.dab_od[i]):.4f}"]
            row += [_number(float(c.area_um2[i]), 2), str(int(tumour[i])), str(int(found.intensity[i]))]
            for name in CSV_COLUMNS[len(row) : -1]:
                values = found.columns.get(name)
                row.append("" if values is None else _number(float(values[i]), 4))
            self._csv.write(",".join([*row, self._source]) + "\n")
            feature = {
                "type": "Feature",
                "geometry": self._geometry(found.rings[i], (float(x), float(y))),
                "properties": {
                    "objectType": "detection",
                    "classification": {"name": CLASS_NAMES[kind].capitalize(), "color": list(COLOURS[kind])},
                    "measurements": _measurements(found, i, bool(tumour[i])),
                },
            }
            self._geojson.write(("" if self._first else ",\n") + self._encode(feature))
            self._first = False

    def _geometry(self, ring: Points | None, centre: tuple[float, float]) -> dict[str, Any]:
        if ring is None:
            x, y = centre
            return {"type": "Point", "coordinates": [round(x - self._offset[0], 2), round(y - self._offset[1], 2)]}
        points = np.round(ring - self._offset, 2).tolist()
        return {"type": "Polygon", "coordinates": [[*points, points[0]]]}


_MEASUREMENTS = {
    "hematoxylin_od": "Nucleus: Hematoxylin OD mean",
    "max_dab_od": "Nucleus: DAB OD max",
    "elongation": "Nucleus: Elongation",
    "circularity": "Nucleus: Circularity",
    "edge_score": "Nucleus: Edge score",
    "membrane_completeness": "Membrane: Completeness",
}


def _quoted(text: str) -> str:
    """A field of a CSV: the name of a region model may hold anything."""
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _measurements(found: FoundCells, i: int, tumour: bool) -> dict[str, float]:
    """As QuPath names them; what was not measured is left out."""
    where = "Membrane" if "membrane_completeness" in found.columns else "Nucleus"
    values = {f"{where}: DAB OD mean": found.cells.dab_od[i], "Nucleus: Area µm^2": found.cells.area_um2[i]}
    values |= {title: found.columns[name][i] for name, title in _MEASUREMENTS.items() if name in found.columns}
    plain = {title: round(float(value), 4) for title, value in values.items() if not math.isnan(value)}
    return {**plain, "Tumour": float(tumour), "Intensity class": float(found.intensity[i])}
