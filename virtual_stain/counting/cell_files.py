"""cells.csv and cells.geojson, written row by row while the slide is counted."""

from __future__ import annotations

import json
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cells import CellClass
from virtual_stain.counting.windows import FoundCells
from virtual_stain.geometry import Points

CSV_COLUMNS = ("x", "y", "class", "dab_od", "area_um2", "tumour", "intensity", "hematoxylin_od", "elongation")
"""x, y in level-0 px; class positive/negative/other; densities are means over the nucleus; intensity 0–3."""
CLASS_NAMES = {CellClass.NEGATIVE: "negative", CellClass.POSITIVE: "positive", CellClass.OTHER: "other"}
COLOURS = {CellClass.NEGATIVE: (76, 110, 219), CellClass.POSITIVE: (216, 48, 42), CellClass.OTHER: (150, 150, 150)}
"""QuPath's display colour (R, G, B) of each class; the overlay picture uses the same."""


class CellFiles:
    """Appends cells to an open CSV and an open GeoJSON; a context manager that closes the collection properly."""

    def __init__(
        self, csv: IO[str], geojson: IO[str], *, slide: str, origin: str, offset_px0: tuple[float, float]
    ) -> None:
        self._csv, self._geojson, self._offset = csv, geojson, offset_px0
        self._first = True
        self._head = {"type": "FeatureCollection", "origin": origin, "offset_px0": list(offset_px0), "slide": slide}

    def __enter__(self) -> CellFiles:
        self._csv.write(",".join(CSV_COLUMNS) + "\n")
        head = json.dumps(self._head, ensure_ascii=False, allow_nan=False)
        self._geojson.write(head[:-1] + ', "features": [\n')
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self._geojson.write("\n]}\n")

    def append(self, found: FoundCells, tumour: npt.NDArray[np.bool_], intensity: npt.NDArray[np.uint8]) -> None:
        """`tumour`: bool[N], `intensity`: uint8[N], of the cells in `found`."""
        c = found.cells
        for i in range(len(c)):
            kind = CellClass(int(c.cell_class[i]))
            x, y = c.xy[i]
            measured = (float(c.dab_od[i]), float(c.area_um2[i]), float(found.hematoxylin_od[i]))
            self._csv.write(
                f"{x:.3f},{y:.3f},{CLASS_NAMES[kind]},{measured[0]:.4f},{measured[1]:.2f},{int(tumour[i])},"
                f"{int(intensity[i])},{measured[2]:.4f},{float(found.elongation[i]):.3f}\n"
            )
            feature = {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [self._ring(found.rings[i])]},
                "properties": {
                    "objectType": "detection",
                    "classification": {"name": CLASS_NAMES[kind].capitalize(), "color": list(COLOURS[kind])},
                    "measurements": _measurements(found, i, bool(tumour[i]), int(intensity[i])),
                },
            }
            self._geojson.write(("" if self._first else ",\n") + json.dumps(feature, allow_nan=False))
            self._first = False

    def _ring(self, ring: Points) -> list[list[float]]:
        points = [[round(x, 2), round(y, 2)] for x, y in (ring - self._offset).tolist()]
        return [*points, points[0]]


def _measurements(found: FoundCells, i: int, tumour: bool, intensity: int) -> dict[str, Any]:
    return {
        "Nucleus: DAB OD mean": round(float(found.cells.dab_od[i]), 4),
        "Nucleus: Hematoxylin OD mean": round(float(found.hematoxylin_od[i]), 4),
        "Nucleus: Area µm^2": round(float(found.cells.area_um2[i]), 2),
        "Nucleus: Elongation": round(float(found.elongation[i]), 3),
        "Tumour": float(tumour),
        "Intensity class": float(intensity),
    }
