"""A folder of records as the review sees it: every tile that a verdict can make a record of, with its label.

Only the light columns stay in memory; pixels and cells are read from `work/<pair>/tiles.h5` when asked for. A store
that `build-records` has written anew is noticed by its inode and time, and read again.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from virtual_stain.config.load import with_current_names
from virtual_stain.config.tiling import TilingSettings
from virtual_stain.counting.cells import Cells
from virtual_stain.errors import InputError, VerificationError
from virtual_stain.files import read_json
from virtual_stain.labels.store import TileStore, TileTable
from virtual_stain.markers import CellCounts, parse_marker
from virtual_stain.review.verdicts import Place
from virtual_stain.schema_check import require_schema
from virtual_stain.workflows.pair import TILES, WORK

BUILD_STATE = "build.json"
_STANDARD_ERROR = 0.057
"""Binomial standard error at 50 cells and 20 %: a label that is only just one."""
_ERROR_UM = 30.0
"""Median registration error above which a whole pair has to be reviewed."""
_FLAG = 0.5


@dataclass(frozen=True, slots=True)
class Label:
    """One tile's label, without pixels and cells."""

    place: Place
    index: int
    """In the store of its pair."""
    label_id: str
    box_px0: tuple[float, float, float, float]
    """x, y, width, height on the H&E slide."""
    counts: CellCounts
    weight: float
    flags: tuple[str, ...]
    tissue_fraction: float
    error_median_um: float | None
    error_p95_um: float | None

    @property
    def doubt(self) -> float:
        """≥ 0, larger is more doubtful: a number to order by, never one to report.

        Standard error, registration error and flags, each 1 at its usual limit. The standard error is that of
        (k + 1) / (n + 2), so that 0 of 5 cells is not taken for certain.
        """
        n = self.counts.positive + self.counts.negative + 2
        p = (self.counts.positive + 1) / n
        place = 2.0 if self.error_median_um is None else self.error_median_um / _ERROR_UM
        return round(math.sqrt(p * (1 - p) / n) / _STANDARD_ERROR + place + _FLAG * len(self.flags), 4)


@dataclass(frozen=True, slots=True)
class ReviewPair:
    """One slide pair."""

    name: str
    marker: str
    """As a pathologist writes it: Ki67."""
    patient_id: str
    labels: tuple[Label, ...]
    n_built: int
    """With the tiles that no verdict can make a record of: their registration error is unknown or too large."""
    fingerprint: str


@dataclass(slots=True)
class _Loaded:
    stamp: tuple[int, int, int]
    pair: ReviewPair
    by_place: dict[tuple[int, int], Label] = field(default_factory=dict)


class RecordFolder:
    """The tiles under review; safe from several threads."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError when `folder` is none that `build-records` has worked on."""
        self.folder = folder
        state_path = folder / WORK / BUILD_STATE
        if not state_path.is_file():
            raise InputError(
                f"{folder}: expected a folder of records with {WORK}/{BUILD_STATE}. Received a folder without it.",
                hint="vstain build-records PAIRS.csv --out DIR makes one; review the same DIR.",
            )
        self._state_path = state_path
        self._lock = threading.Lock()
        self._loaded: dict[str, _Loaded] = {}
        self.tile_px, self.tile_mpp, self.min_tile_cells, self.max_p95_um = self._settings()

    def pairs(self) -> list[ReviewPair]:
        """Pairs with tiles, by name, as they are on disk now."""
        found = []
        for name, (patient_id, marker) in sorted(self._listed().items()):
            loaded = self._load(name, patient_id, marker)
            if loaded is not None:
                found.append(loaded.pair)
        return found

    def listed_pairs(self) -> list[str]:
        """Names of all pairs that `build-records` knows, with tiles or without."""
        return list(self._listed())

    def label(self, place: Place) -> Label | None:
        """The current label of a tile; None: there is none (any more)."""
        if place.pair not in self._loaded:
            self.pairs()
        known = self._loaded.get(place.pair)
        if known is None:
            return None
        fresh = self._load(place.pair, known.pair.patient_id, known.pair.marker)
        return None if fresh is None else fresh.by_place.get((place.col, place.row))

    def jpeg(self, label: Label, side: str) -> bytes:
        """`side`: "he" or "ihc". Raises InputError when the label has changed meanwhile."""
        with self._store(label) as store:
            return store.jpeg(label.index, side)

    def cells(self, label: Label) -> Cells:
        """The counted cells, tile px. Raises InputError when the label has changed meanwhile."""
        with self._store(label) as store:
            return store.cells(label.index)

    def _store(self, label: Label) -> TileStore:
        store = TileStore(self.path(label.place.pair))
        known = self._loaded.get(label.place.pair)
        if known is None or store.fingerprint != known.pair.fingerprint:
            store.__exit__(None, None, None)
            raise InputError(f"{label.place.pair}: its tiles have been built anew.", hint="Load the page again.")
        return store

    def path(self, pair: str) -> Path:
        return self.folder / WORK / pair / TILES

    def _state(self) -> dict[str, Any]:
        value: dict[str, Any] = read_json(self._state_path, "the state of build-records")
        require_schema(value, "build", str(self._state_path))
        return value

    def _settings(self) -> tuple[int, float, int, float]:
        """(tile_px, µm/px of a tile, tumour cells below which a ratio does not train, registration error above which a
        tile is left out, µm)."""
        try:
            config = with_current_names(self._state()["config"])
            tiling, least_cells = TilingSettings(**config["tiling"]), int(config["labels"]["min_tile_cells"])
            return tiling.tile_px, tiling.tile_mpp, least_cells, float(config["registration"]["tile_p95_um"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self._state_path}: expected the state of build-records. Missing: {error}") from None

    def _listed(self) -> dict[str, tuple[str, str]]:
        try:
            pairs = self._state()["pairs"]
            return {str(name): (str(value[0]), str(value[1])) for name, value in pairs.items()}
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise InputError(f"{self._state_path}: expected the state of build-records. Missing: {error}") from None

    def _load(self, name: str, patient_id: str, marker: str) -> _Loaded | None:
        path = self.path(name)
        try:
            stat = path.stat()
        except OSError:
            with self._lock:
                self._loaded.pop(name, None)
            return None
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        with self._lock:
            known = self._loaded.get(name)
            if known is not None and known.stamp == stamp:
                return known
            try:
                with TileStore(path) as store:
                    table, key = store.table(), store.fingerprint
            except VerificationError:
                return None  # damaged: build-records makes it again
            except KeyError as error:
                raise InputError(
                    f"{path}: its tiles were built by another version of vstain ({error.args[0]}).",
                    hint="vstain build-records PAIRS.csv --out DIR builds them again; the verdicts are kept.",
                ) from None
            label = parse_marker(marker).label if marker.islower() else marker
            labels = tuple(_label(name, table, i) for i, dropped in enumerate(table.dropped) if not dropped)
            pair = ReviewPair(name, label, patient_id, labels, len(table.dropped), key)
            loaded = _Loaded(stamp, pair, {(x.place.col, x.place.row): x for x in pair.labels})
            self._loaded[name] = loaded
            return loaded


def _label(pair: str, table: TileTable, i: int) -> Label:
    positive, negative = int(table["positive"][i]), int(table["negative"][i])
    median, p95 = (_finite(table[name][i]) for name in ("error_median_um", "error_p95_um"))
    x, y, width, height = (float(table[f"{name}_px0"][i]) for name in ("x", "y", "width", "height"))
    return Label(
        place=Place(pair, int(table["col"][i]), int(table["row"][i])),
        index=i,
        label_id=table.label_ids[i],
        box_px0=(x, y, width, height),
        counts=CellCounts(positive, negative),
        weight=float(table["weight"][i]),
        flags=table.flags[i],
        tissue_fraction=float(table["tissue_fraction"][i]),
        error_median_um=median,
        error_p95_um=p95,
    )


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
