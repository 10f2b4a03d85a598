"""`vstain warp`: points and annotations from the H&E slide to the IHC slide or back."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virtual_stain.errors import InputError
from virtual_stain.files import read_json, write_text
from virtual_stain.geometry import Points
from virtual_stain.registration.bare import BareTissue, nothing_bare
from virtual_stain.registration.result import Registration
from virtual_stain.registration.transform import PairTransform
from virtual_stain.registration.warp_geojson import Mapping, WarpFrame, warp_geojson


def frame_of(registration: Registration, *, inverse: bool, from_bounds: bool) -> WarpFrame:
    """The frame of files of this pair; `from_bounds`: their GeoJSON counts from the corner of the scanned area
    (QuPath)."""
    source, target = (registration.ihc, registration.he) if inverse else (registration.he, registration.ihc)
    u = registration.transform.displacement
    step = math.inf if u is None else min(u.spacing_px0) / 2
    if inverse and u is not None:
        step *= registration.transform.ihc_from_he.scales[1]
    if not from_bounds:
        return WarpFrame(inverse, "slide", step_px0=step, target_name=target.name)
    corners = ((source.bounds.x, source.bounds.y), (target.bounds.x, target.bounds.y))
    return WarpFrame(inverse, "bounds", *corners, step, target.name)


@dataclass(frozen=True, slots=True)
class Warped:
    """How many points were mapped, and how many of them lie on H&E tissue without IHC tissue under it."""

    points: int
    bare: int


def warp_file(
    transform: PairTransform, source: Path, target: Path, frame: WarpFrame, bare: BareTissue | None = None
) -> Warped:
    """Maps the CSV or GeoJSON `source` into `target`. Raises InputError, OutputError."""
    suffix = source.suffix.lower()
    if suffix == ".csv":
        # tables count from the slide's own corner, always
        mapping = _Mapping(transform, WarpFrame(frame.inverse), bare or nothing_bare())
        text, count = warp_csv(_read_text(source), mapping, source)
    elif suffix in (".geojson", ".json"):
        mapping = _Mapping(transform, frame, bare or nothing_bare())
        document, count = warp_geojson(read_json(source, "GeoJSON"), mapping, frame, source)
        text = json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"
    else:
        raise InputError(f"{source}: expected .csv with columns x,y, or .geojson. Received: {source.name}")
    write_text(target, text)
    return Warped(count, mapping.bare_points)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected UTF-8 text. Received another encoding.") from None


class _Mapping:
    """Points of a file to those of the other slide; counts those without a counterpart."""

    def __init__(self, transform: PairTransform, frame: WarpFrame, bare: BareTissue) -> None:
        self.transform, self.frame, self.bare = transform, frame, bare
        self.bare_points = 0

    def __call__(self, points: Points) -> Points:
        shifted = points + self.frame.source_offset_px0
        mapped = self.transform.to_he(shifted) if self.frame.inverse else self.transform.to_ihc(shifted)
        self.bare_points += int(np.count_nonzero(self.bare.at(mapped if self.frame.inverse else shifted)))
        return mapped - self.frame.target_offset_px0


def warp_csv(text: str, mapping: Mapping, path: Path) -> tuple[str, int]:
    """Rows in the same order with x and y mapped and every other column as it was."""
    rows = list(csv.reader(io.StringIO(text)))
    if not rows or "x" not in rows[0] or "y" not in rows[0]:
        header = ",".join(rows[0]) if rows else "an empty file"
        raise InputError(f"{path}: expected a header with the columns x and y. Received: {header}")
    x_column, y_column = rows[0].index("x"), rows[0].index("y")
    body = [row for row in rows[1:] if row]
    points = np.array([_point(row, x_column, y_column, path, n) for n, row in enumerate(body, 2)], np.float64)
    mapped = mapping(points.reshape(-1, 2))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(rows[0])
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
        raise InputError(f"{path}: row {line}: expected numbers in x and y. Received: {','.join(row)}")
    return x, y
