from __future__ import annotations

import io
import json

import numpy as np

from virtual_stain.counting.cell_files import CellFiles
from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.quality import Quality
from virtual_stain.counting.windows import FoundCells


def one_cell(*, outlined: bool = True) -> FoundCells:
    return FoundCells(
        cells=Cells(
            xy=np.array([[1005.0, 2005.0]]),
            cell_class=np.array([CellClass.POSITIVE], np.uint8),
            tumour=np.array([True]),
            dab_od=np.array([0.5], np.float32),
            area_um2=np.array([40.0], np.float32),
        ),
        intensity=np.array([2], np.uint8),
        columns={"hematoxylin_od": np.array([0.1], np.float32), "elongation": np.array([np.nan], np.float32)},
        rings=(
            np.array([[1000.0, 2000.0], [1010.0, 2000.0], [1010.0, 2010.0], [1000.0, 2010.0]]) if outlined else None,
        ),
        quality=Quality(0, 0, 0.0, 0.0, None),
    )


def written(offset: tuple[float, float], parts: int = 1, *, outlined: bool = True) -> tuple[str, dict[str, object]]:
    csv, geojson = io.StringIO(), io.StringIO()
    with CellFiles(csv, geojson, slide="s", origin="bounds", offset_px0=offset, tumour_source="a region") as files:
        for _ in range(parts):
            files.append(one_cell(outlined=outlined), np.array([True]))
    return csv.getvalue(), json.loads(geojson.getvalue())


def test_geojson_counts_from_the_corner_of_the_scan_and_the_csv_from_level_0() -> None:
    csv, value = written((900.0, 1900.0))
    assert csv.splitlines()[1].startswith("1005.000,2005.000,positive,0.5000,40.00,1,2,")
    assert value["offset_px0"] == [900.0, 1900.0]
    (feature,) = value["features"]  # type: ignore[misc]
    assert feature["geometry"]["coordinates"][0] == [[100, 100], [110, 100], [110, 110], [100, 110], [100, 100]]


def test_the_collection_is_valid_json_with_none_one_and_several_cells() -> None:
    for parts in (0, 1, 3):
        assert len(written((0.0, 0.0), parts)[1]["features"]) == parts  # type: ignore[arg-type]


def test_what_was_not_measured_is_blank_and_left_out_and_a_point_stays_a_point() -> None:
    csv, value = written((900.0, 1900.0), outlined=False)
    header, row = (line.split(",") for line in csv.splitlines())
    assert len(row) == len(header)
    assert dict(zip(header, row, strict=True))["elongation"] == ""
    assert dict(zip(header, row, strict=True))["membrane_completeness"] == ""
    (feature,) = value["features"]  # type: ignore[misc]
    assert feature["geometry"] == {"type": "Point", "coordinates": [105.0, 105.0]}
    assert "Nucleus: Elongation" not in feature["properties"]["measurements"]
