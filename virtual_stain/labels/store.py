"""`tiles.h5` and its part files: both tiles' JPEG bytes, cells, counts and flags of one pair.

HDF5 has no crash safety while it is written: a file is written as `.tmp`, synced and renamed, so one that is there is
whole. Every file carries the hash of what it was made from (`fingerprint`); a file with another hash is made again.
Every tile carries the hash of all that is kept of it (`sha256`): one that has rotted since is never packed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cells import Cells
from virtual_stain.errors import VerificationError
from virtual_stain.geometry import Box
from virtual_stain.hdf5 import open_hdf5, read_array, replacing_hdf5
from virtual_stain.labels.label import REGISTRATION, TileLabel, Trust

_COLUMNS: dict[str, type] = {
    "col": np.int64,
    "row": np.int64,
    "x_px0": np.float64,
    "y_px0": np.float64,
    "width_px0": np.float64,
    "height_px0": np.float64,
    "tissue_fraction": np.float64,
    "overlap_fraction": np.float64,
    "tissue_overlap_fraction": np.float64,  # NaN: there is none, also below
    "focus_he": np.float64,
    "focus_ihc": np.float64,
    "error_median_um": np.float64,
    "error_p95_um": np.float64,
    "border": np.bool_,
    "saturated_fraction": np.float64,
    "unexplained_fraction": np.float64,
    "weight": np.float64,
    "usable_count": np.bool_,
    "positive": np.int64,
    "negative": np.int64,
}
_TEXTS = ("flags", "label_id")
_SHA256 = "columns/sha256"
"""Files of before have none; their code is another, so they are made again."""
_CELLS: dict[str, type] = {
    "x": np.float32,
    "y": np.float32,
    "cell_class": np.uint8,
    "tumour": np.bool_,
    "dab_od": np.float32,
    "area_um2": np.float32,
}
_INTENSITY = "cells/grade"
"""uint8 intensities, where the marker has them. The file is older than the word: stores of any age are read."""
_RAGGED = ("he_jpeg", "ihc_jpeg", "cells")
_COPY_BYTES = 32_000_000
_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, IndexError, TypeError, MemoryError, UnicodeDecodeError)
"""What h5py raises of a damaged file."""
_AGAIN = "Run the same vstain build-records again: damaged tiles are made anew."


@dataclass(frozen=True, slots=True)
class TileTable:
    """The light columns of a store: numpy arrays of N tiles, and the texts."""

    columns: Mapping[str, npt.NDArray[Any]]
    flags: tuple[tuple[str, ...], ...]
    label_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label_ids)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.columns[name]

    @property
    def dropped(self) -> npt.NDArray[np.bool_]:
        return np.array([REGISTRATION in f for f in self.flags], np.bool_)


class TileStore:
    """An open tiles.h5 or part; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open_hdf5(path)
        except OSError as error:
            raise VerificationError(f"{path}: expected a store of tiles (HDF5). Received: {error}") from error
        # a dataset is looked up once and not at every tile: that is most of the time of reading a small one
        self._dataset = functools.cache(self._file.__getitem__)
        self._has = functools.cache(self._file.__contains__)
        self._starts = functools.cache(lambda group: self._dataset(f"{group}/offsets")[:])

    def __enter__(self) -> TileStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    @property
    def fingerprint(self) -> str:
        """Of what the tiles were made from; files of earlier versions name it `input_key`."""
        attributes = self._file.attrs
        return str(attributes.get("fingerprint") or attributes.get("input_key", ""))

    def __len__(self) -> int:
        return int(self._file["columns/col"].shape[0])

    def table(self) -> TileTable:
        """Everything but pixels and cells."""
        columns = {name: read_array(self._file[f"columns/{name}"]) for name in _COLUMNS}
        texts = {name: tuple(self._file[f"columns/{name}"].asstr()[:]) for name in _TEXTS}
        flags = tuple(tuple(text.split(",")) if text else () for text in texts["flags"])
        return TileTable(columns, flags, texts["label_id"])

    def cells(self, index: int) -> Cells:
        """The nuclei of one tile, tile px."""
        start, stop = self._starts("cells")[index : index + 2]
        part = {name: self._dataset(f"cells/{name}")[start:stop] for name in _CELLS}
        return Cells(
            xy=np.stack([part["x"], part["y"]], axis=1).astype(np.float64),
            cell_class=part["cell_class"],
            tumour=part["tumour"].astype(np.bool_),
            dab_od=part["dab_od"],
            area_um2=part["area_um2"],
            intensity=self._dataset(_INTENSITY)[start:stop] if self._has(_INTENSITY) else None,
        )

    def jpeg(self, index: int, side: str) -> bytes:
        """The JPEG bytes of one tile; `side` is "he" or "ihc"."""
        start, stop = self._starts(f"{side}_jpeg")[index : index + 2]
        data: bytes = self._dataset(f"{side}_jpeg/data")[start:stop].tobytes()
        return data

    def tile(self, index: int, table: TileTable | None = None) -> TileLabel:
        """One tile, whole, as it was labelled; pass `table` when reading many. Raises VerificationError."""
        try:
            tile = self._tile(index, table)
            recorded = self._dataset(_SHA256).asstr()[index] if self._has(_SHA256) else None
        except _UNREADABLE as error:
            raise VerificationError(f"{self.path}: tile {index} cannot be read: {error}", hint=_AGAIN) from error
        if recorded is not None and _sha256(tile) != recorded:
            raise VerificationError(
                f"{self.path}: tile {tile.col},{tile.row} is not the one that was labelled: its bytes have changed.",
                hint=_AGAIN,
            )
        return tile

    def is_sound(self) -> bool:
        """Whether every tile is as it was labelled. Reads all of the file."""
        try:
            table = self.table()
            for index in range(len(table)):
                self.tile(index, table)
            return bool(self._has(_SHA256))
        except (VerificationError, *_UNREADABLE):
            return False

    def _tile(self, index: int, table: TileTable | None) -> TileLabel:
        t = self.table() if table is None else table
        value = {name: t[name][index].item() for name in _COLUMNS}
        return TileLabel(
            col=value["col"],
            row=value["row"],
            box=Box(value["x_px0"], value["y_px0"], value["width_px0"], value["height_px0"]),
            tissue_fraction=value["tissue_fraction"],
            trust=Trust(
                overlap_fraction=value["overlap_fraction"],
                tissue_overlap_fraction=_none_if_nan(value["tissue_overlap_fraction"]),
                focus_he=_none_if_nan(value["focus_he"]),
                focus_ihc=_none_if_nan(value["focus_ihc"]),
                error_median_um=_none_if_nan(value["error_median_um"]),
                error_p95_um=_none_if_nan(value["error_p95_um"]),
                border=value["border"],
                saturated_fraction=_none_if_nan(value["saturated_fraction"]),
                unexplained_fraction=_none_if_nan(value["unexplained_fraction"]),
            ),
            cells=self.cells(index),
            flags=t.flags[index],
            weight=value["weight"],
            usable_count=value["usable_count"],
            label_id=t.label_ids[index],
            he_jpeg=self.jpeg(index, "he"),
            ihc_jpeg=self.jpeg(index, "ihc"),
        )

    def tiles(self) -> Iterator[TileLabel]:
        table = self.table()
        for index in range(len(table)):
            yield self.tile(index, table)


def stored_fingerprint(path: Path) -> str | None:
    """The fingerprint of a store that is there and undamaged; None otherwise: then it has to be made (again)."""
    if not path.is_file():
        return None
    try:
        with TileStore(path) as store:
            return store.fingerprint if store.is_sound() else None
    except VerificationError:
        return None


def write_tiles(path: Path, tiles: Sequence[TileLabel], fingerprint: str) -> None:
    """Writes a store whole. Raises OutputError."""
    cells = [tile.cells for tile in tiles]
    joined = Cells.concatenated(cells)
    with replacing_hdf5(path) as file:
        file.attrs["fingerprint"] = fingerprint
        for name, dtype in _COLUMNS.items():
            file[f"columns/{name}"] = np.array([_column(tile, name) for tile in tiles], dtype)
        for name in _TEXTS:
            texts = [",".join(t.flags) if name == "flags" else t.label_id for t in tiles]
            file.create_dataset(f"columns/{name}", data=np.array(texts, object), dtype=h5py.string_dtype())
        digests = np.array([_sha256(tile) for tile in tiles], object)
        file.create_dataset(_SHA256, data=digests, dtype=h5py.string_dtype())
        for side in ("he_jpeg", "ihc_jpeg"):
            blobs: list[bytes] = [getattr(tile, side) for tile in tiles]
            file[f"{side}/offsets"] = _offsets([len(b) for b in blobs])
            file[f"{side}/data"] = np.frombuffer(b"".join(blobs), np.uint8)
        file["cells/offsets"] = _offsets([len(c) for c in cells])
        values = {"x": joined.xy[:, 0], "y": joined.xy[:, 1]}
        for name, dtype in _CELLS.items():
            file[f"cells/{name}"] = np.asarray(values[name] if name in values else getattr(joined, name), dtype)
        if joined.intensity is not None:
            file[_INTENSITY] = joined.intensity.astype(np.uint8)


def join_parts(path: Path, parts: Sequence[Path], fingerprint: str, order: Sequence[int] | None = None) -> None:
    """Joins part files into one store; memory stays at one slice. Raises OutputError.

    `order`: which tile comes first, second …, counted through all parts; None: as they come.
    """
    with replacing_hdf5(path) as target, contextlib.ExitStack() as opened:
        target.attrs["fingerprint"] = fingerprint
        files = [opened.enter_context(open_hdf5(p)) for p in parts]
        starts = np.concatenate([[0], np.cumsum([f["columns/col"].shape[0] for f in files])])
        tiles = np.arange(starts[-1]) if order is None else np.asarray(order, np.intp)
        if len(tiles) != starts[-1] or (np.sort(tiles) != np.arange(starts[-1])).any():
            raise ValueError(f"Expected every one of {starts[-1]} tiles once. Received: {len(tiles)} places")
        file_of = np.searchsorted(starts, tiles, side="right") - 1
        places = [(int(f), int(t - starts[f])) for f, t in zip(file_of, tiles, strict=True)]
        for name in [f"columns/{n}" for n in (*_COLUMNS, *_TEXTS, "sha256")]:
            if files:
                joined = np.concatenate([f[name][:] for f in files])[tiles]
                target.create_dataset(name, data=joined, dtype=files[0][name].dtype)
        for group in _RAGGED:
            offsets = [f[f"{group}/offsets"][:] for f in files]
            lengths = np.concatenate([np.zeros(0, np.int64), *(np.diff(o) for o in offsets)])
            target[f"{group}/offsets"] = _offsets(lengths[tiles])
            slices = [(f, slice(int(offsets[f][i]), int(offsets[f][i + 1]))) for f, i in places]
            for name in _CELLS if group == "cells" else ("data",):
                _gather(target, files, f"{group}/{name}", slices)
            if group == "cells" and files and _INTENSITY in files[0]:
                _gather(target, files, _INTENSITY, slices)


def _gather(target: h5py.File, files: Sequence[h5py.File], name: str, slices: Sequence[tuple[int, slice]]) -> None:
    """Writes these slices (file, items) of a dataset one after the other."""
    sources = [file[name] for file in files]
    total = sum(s.stop - s.start for _, s in slices)
    joined = target.create_dataset(name, (total,), sources[0].dtype if sources else np.uint8)
    most = max(1, _COPY_BYTES // joined.dtype.itemsize)
    waiting: list[npt.NDArray[Any]] = []
    written = held = 0
    for i, (file, items) in enumerate(slices):
        waiting.append(sources[file][items])
        held += items.stop - items.start
        if i + 1 == len(slices) or held > most:
            joined[written : written + held] = np.concatenate(waiting)
            written, held = written + held, 0
            waiting = []


def _sha256(tile: TileLabel) -> str:
    """Of everything that is kept of a tile, as it is kept."""
    digest = hashlib.sha256(b"vstain tile 1")
    for name, dtype in _COLUMNS.items():
        digest.update(np.asarray(_column(tile, name), dtype).tobytes())
    xy = tile.cells.xy
    values = {"x": xy[:, 0], "y": xy[:, 1]}
    blobs = [",".join(tile.flags).encode(), tile.label_id.encode(), tile.he_jpeg, tile.ihc_jpeg]
    blobs += [np.asarray(values.get(n, getattr(tile.cells, n, None)), t).tobytes() for n, t in _CELLS.items()]
    if tile.cells.intensity is not None:
        blobs.append(tile.cells.intensity.astype(np.uint8).tobytes())
    for blob in blobs:
        digest.update(len(blob).to_bytes(8, "little") + blob)
    return digest.hexdigest()


def _column(tile: TileLabel, name: str) -> Any:
    if name in ("positive", "negative"):
        return getattr(tile.counts, name)
    if name.endswith("_px0"):
        return getattr(tile.box, name.removesuffix("_px0"))
    owner = tile if hasattr(tile, name) else tile.trust
    value = getattr(owner, name)
    return np.nan if value is None else value


def _offsets(lengths: Any) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value
