"""`vstain records show`: one record in words, and its tile as a picture with the cells drawn in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cells import CellClass
from virtual_stain.errors import InputError, VerificationError
from virtual_stain.files import make_folder, write_bytes
from virtual_stain.labels.jpeg import decode_jpeg
from virtual_stain.labels.label import countable
from virtual_stain.labels.store import TileStore
from virtual_stain.records.manifest import PairEntry, ShardEntry, read_manifest
from virtual_stain.records.schema import FEATURES, Record

_POSITIVE, _NEGATIVE = (200, 40, 20), (20, 90, 220)  # RGB
_Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Shown:
    """A record and where its picture lies."""

    lines: tuple[str, ...]
    picture: Path
    has_ihc: bool
    """Whether the picture also shows the IHC side (the work folder is there)."""


def show_record(folder: Path, place: str | int, out: Path | None = None) -> Shown:
    """The record at an index (over all shards, from 0), or named `pair/col_row`.

    Writes the picture to `out`, else to `folder`/shown/<pair>_<col>_<row>.png. Raises InputError when there is no such
    record, VerificationError for a corrupt shard.
    """
    pair, shard, number, record = _find(folder, place)
    name = f"{record['tile/pair']}_{record['tile/col']}_{record['tile/row']}.png"
    picture = folder / "shown" / name if out is None else out
    ihc = _ihc_side(folder, record)
    tile = decode_jpeg(record["image/encoded"])
    panels = [_with_cells(tile, record)] + ([] if ihc is None else [_with_cells(ihc, record)])
    make_folder(picture.parent)
    _, data = cv2.imencode(picture.suffix or ".png", cv2.cvtColor(_beside(panels), cv2.COLOR_RGB2BGR))
    write_bytes(picture, data.tobytes())
    head = f"record {number} of {folder / shard.file} (fold {pair.fold})"
    return Shown((head, *_lines(record)), picture, ihc is not None)


def _find(folder: Path, place: str | int) -> tuple[PairEntry, ShardEntry, int, Record]:
    from virtual_stain.records.read import iterate_shard

    manifest = read_manifest(folder)
    passed = 0
    for pair in manifest.pairs:
        if isinstance(place, str) and not place.startswith(f"{pair.pair}/"):
            continue
        for shard in pair.shards:
            if isinstance(place, int) and place - passed >= shard.records:
                passed += shard.records
                continue
            for number, record in enumerate(iterate_shard(folder / shard.file)):
                if record.get("image/filename") == place or (isinstance(place, int) and number == place - passed):
                    return pair, shard, number, record
            if isinstance(place, int):
                raise VerificationError(f"{folder / shard.file}: expected {shard.records} records. Received fewer.")
    if isinstance(place, int):
        raise InputError(f"{folder}: expected an index from 0 to {manifest.n_records - 1}. Received: {place}")
    known = ", ".join(p.pair for p in manifest.pairs[:10])
    raise InputError(f"{folder}: there is no record {place!r}.", hint=f"Pairs with records: {known}")


def _lines(record: Record) -> list[str]:
    lines = []
    for feature in FEATURES:
        value = record.get(feature.key)
        if value is None:
            text = "–"
        elif isinstance(value, bytes):
            text = f"{len(value)} bytes"
        elif feature.many and len(value) > 8:
            text = f"[{', '.join(_short(v) for v in value[:4])}, … {len(value)} values]"
        elif feature.many:
            text = f"[{', '.join(_short(v) for v in value)}]"
        else:
            text = _short(value)
        lines.append(f"{feature.key:32} {text} {feature.unit}".rstrip())
    return lines


def _short(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _ihc_side(folder: Path, record: Record) -> _Image | None:
    """The IHC tile, where the work folder is still there and holds the same label."""
    path = folder / "work" / record["tile/pair"] / "tiles.h5"
    if not path.is_file():
        return None
    with TileStore(path) as store:
        table = store.table()
        if record["label/id"] not in table.label_ids:
            return None
        index = table.label_ids.index(record["label/id"])
        cells = countable(store.cells(index))
        positive = int(np.count_nonzero(cells.cell_class == CellClass.POSITIVE))
        # the store keeps the cells as they were counted; a correction is in the record alone
        if "cells/corrected" not in record and positive != record["label/positive"]:
            raise VerificationError(f"{path}: holds other cells than the record {record['image/filename']}.")
        return decode_jpeg(store.jpeg(index, "ihc"))


def _with_cells(image: _Image, record: Record) -> _Image:
    """A ring a cell: red positive, blue negative."""
    drawn = np.ascontiguousarray(image.copy())
    radius = max(3, round(3.5 / record["tile/mpp"]))
    for x, y, positive in zip(record["cells/x"], record["cells/y"], record["cells/positive"], strict=True):
        centre = (round((x - 0.5) * 16), round((y - 0.5) * 16))  # cv2: centres at whole numbers, 4 fractional bits
        cv2.circle(drawn, centre, radius * 16, _POSITIVE if positive else _NEGATIVE, 2, cv2.LINE_AA, shift=4)
    return drawn


def _beside(panels: list[_Image]) -> _Image:
    gap = np.full((panels[0].shape[0], 8, 3), 255, np.uint8)
    row = [panels[0]]
    for panel in panels[1:]:
        row += [gap, panel]
    return np.ascontiguousarray(np.concatenate(row, axis=1))
