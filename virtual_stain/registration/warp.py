"""`vstain warp`: points and annotations from the H&E slide to the IHC slide or back."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virtual_stain.errors import InputError
from virtual_stain.files import make_folder, write_text
from virtual_stain.geojson import read_geojson
from virtual_stain.geometry import Box, Points
from virtual_stain.registration.bare import BareTissue, nothing_bare
from virtual_stain.registration.result import Registration
from virtual_stain.registration.transform import PairTransform
from virtual_stain.registration.warp_geojson import Mapping, WarpFrame, warp_geojson
from virtual_stain.tables import COMMA_HINT, has_decimal_comma, read_table, require_no_surplus

_FAR_SHARE = 0.1  # of the scan's longer side: an outline may reach a little beyond the scan, another slide's does more


def frame_of(registration: Registration, *, inverse: bool, from_bounds: bool) -> WarpFrame:
    """The frame of files of this pair; `from_bounds`: their GeoJSON counts from the corner of the scanned area
    (QuPath)."""
    source, target = (registration.ihc, registration.he) if inverse else (registration.he, registration.ihc)
    u = registration.transform.displacement
    step = math.inf if u is None else min(u.spacing_px0) / 2
    if inverse and u is not None:
        step *= registration.transform.ihc_from_he.scales[1]
    corners = ((0.0, 0.0), (0.0, 0.0))
    if from_bounds:
        corners = ((source.bounds.x, source.bounds.y), (target.bounds.x, target.bounds.y))
    origin = "bounds" if from_bounds else "slide"
    return WarpFrame(inverse, origin, *corners, step, source.name, target.name, source.bounds)


@dataclass(frozen=True, slots=True)
class Warped:
    """How many points were mapped, and how many of them lie on H&E tissue without IHC tissue under it, and beyond the
    scan."""

    points: int
    bare: int
    outside: int


def warp_file(
    transform: PairTransform, source: Path, target: Path, frame: WarpFrame, bare: BareTissue | None = None
) -> Warped:
    """Maps the CSV or GeoJSON `source` into `target`. Raises InputError, OutputError."""
    suffix = source.suffix.lower()
    if suffix in (".csv", ".tsv"):
        # tables count from the slide's own corner, always
        own = dataclasses.replace(frame, source_offset_px0=(0.0, 0.0), target_offset_px0=(0.0, 0.0))
        mapping = _Mapping(transform, own, bare or nothing_bare(), source)
        text, count = warp_csv(source, mapping)
    elif suffix in (".geojson", ".json"):
        mapping = _Mapping(transform, frame, bare or nothing_bare(), source)
        document, count = warp_geojson(read_geojson(source), mapping, frame, source)
        # QuPath writes measurements that are not a number as NaN, and reads them so; coordinates are checked
        text = json.dumps(document, ensure_ascii=False) + "\n"
    else:
        raise InputError(f"{source}: expected .csv or .tsv with columns x,y, or .geojson. Received: {source.name}")
    make_folder(target.parent)
    write_text(target, text)
    return Warped(count, mapping.bare_points, mapping.outside_points)


class _Mapping:
    """Points of a file to those of the other slide; counts those without a counterpart, and those beyond the scan."""

    def __init__(self, transform: PairTransform, frame: WarpFrame, bare: BareTissue, path: Path) -> None:
        self.transform, self.frame, self.bare, self.path = transform, frame, bare, path
        self.bare_points = self.outside_points = 0

    def __call__(self, points: Points) -> Points:
        shifted = points + self.frame.source_offset_px0
        if self.frame.source_scan_px0 is not None:
            self._check(points, shifted, self.frame.source_scan_px0)
        mapped = self.transform.to_he(shifted) if self.frame.inverse else self.transform.to_ihc(shifted)
        self.bare_points += int(np.count_nonzero(self.bare.at(mapped if self.frame.inverse else shifted)))
        return mapped - self.frame.target_offset_px0

    def _check(self, points: Points, points_px0: Points, scan: Box) -> None:
        beyond = np.maximum([scan.x, scan.y] - points_px0, points_px0 - [scan.x1, scan.y1]).max(axis=1)
        self.outside_points = int(np.count_nonzero(beyond > 0))
        far = np.flatnonzero(beyond > _FAR_SHARE * max(scan.width, scan.height))
        if len(far):
            x, y = points[far[0]]
            rest = f", and {len(far) - 1} more" if len(far) > 1 else ""
            raise InputError(
                f"{self.path}: expected points on the scan of {self.frame.source_name} "
                f"({scan.width:.0f} × {scan.height:.0f} level-0 px). Received: {x:.0f}, {y:.0f}{rest}",
                hint="Is it the right slide, and the right direction (--inverse: from IHC to H&E)? Are they µm?",
            )


def warp_csv(path: Path, mapping: Mapping) -> tuple[str, int]:
    """Rows in the same order with x and y mapped and every other column, and the separator, as they were."""
    table = read_table(path)
    names = table.names
    if "x" not in names or "y" not in names:
        header = table.delimiter.join(table.header) if table.header else "an empty file"
        raise InputError(f"{path}: expected a header with the columns x and y. Received: {header}")
    if names.count("x") > 1 or names.count("y") > 1:
        raise InputError(f"{path}: expected one column x and one y. Received: {table.delimiter.join(table.header)}")
    x_column, y_column = names.index("x"), names.index("y")
    for line, row in table.rows:
        require_no_surplus(table.header, row, f"{path}: row {line}")
    body = [row for _, row in table.rows]
    points = np.array([_point(row, x_column, y_column, path, n) for n, row in table.rows], np.float64)
    mapped = mapping(points.reshape(-1, 2))
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=table.delimiter, lineterminator="\n")
    writer.writerow(table.header)
    for row, (x, y) in zip(body, mapped, strict=True):
        row[x_column], row[y_column] = f"{x:.4f}", f"{y:.4f}"
        writer.writerow(row)
    return stream.getvalue(), len(body)


def _point(row: list[str], x_column: int, y_column: int, path: Path, line: int) -> tuple[float, float]:
    try:
        x, y = float(row[x_column]), float(row[y_column])
    except (ValueError, IndexError):
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        comma = any(has_decimal_comma(text) for text in row)
        raise InputError(
            f"{path}: row {line}: expected numbers in x and y. Received: {','.join(row)}",
            hint=COMMA_HINT if comma else None,
        )
    return x, y
