"""The same tissue under two patients, found by what the tiles look like: a leak that no hash of a file can see.

A slide that was scanned or exported twice, re-compressed, mirrored or turned, and entered under two names. Tiles are
compared by a perceptual hash: the signs of the lowest 8 × 8 frequencies against their median (Zauner, Implementation
and Benchmarking of Perceptual Image Hash Functions, 2010), the same for all eight mirrorings and quarter turns. Tissue
that was cut along another grid is not found: the tiles' corners must agree within a tenth of a tile or so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.errors import InputError
from virtual_stain.files import read_json, write_json
from virtual_stain.remote import Location

DUPLICATES = "duplicates.json"
_SIDE_PX = 32
_BITS = 63
MAX_DISTANCE = 6
"""Bits that two pictures of the same tissue may differ in; of different tissue about half of 63 differ."""
MIN_TILES = 3
MIN_SHARE = 0.1
"""One or two alike tiles of many are chance or empty stroma: at least so many, and this share of the smaller slide."""
MIN_TISSUE_FRACTION = 0.9
"""Edges of tissue look alike everywhere; only tiles that are full of it are compared."""
_ONES = np.array([bin(i).count("1") for i in range(256)], np.uint8)
Codes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two pairs of different patients that show the same tissue."""

    pair: str
    other: str
    n_tiles: int
    """Tiles of `pair` that have a twin on `other`."""


def picture_codes(jpeg: bytes) -> Codes | None:
    """uint64[8]: the hashes of a tile and of its seven mirrorings and turns; None for a tile without structure."""
    grey = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_4)
    if grey is None:
        return None
    small = cv2.resize(grey, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    if small.std() < 2.0:
        return None
    low = cv2.dct(small)[:8, :8].astype(np.float64)
    # a mirror changes the sign of every odd frequency, a transposition swaps the axes: no need to decode again
    odd = (-1.0) ** np.arange(8)
    turned = []
    for base in (low, low.T):
        for x in (np.ones(8), odd):
            turned += [base * y[:, None] * x[None, :] for y in (np.ones(8), odd)]
    return np.array([_code(t) for t in turned], np.uint64)


def _code(frequencies: npt.NDArray[np.float64]) -> int:
    values = frequencies.ravel()[1:]  # without the mean
    bits = values > np.median(values)
    return int("".join("1" if b else "0" for b in bits), 2)


class TissueIndex:
    """Collects the codes of all tiles, then says who shares tissue."""

    def __init__(self) -> None:
        self._codes: list[Codes] = []
        self._owners: list[int] = []
        self._names: dict[tuple[str, str], int] = {}
        self._sizes: Counter[int] = Counter()

    def add(self, pair: str, patient_id: str, tissue_fraction: float, jpeg: bytes) -> None:
        """One tile."""
        codes = picture_codes(jpeg) if tissue_fraction >= MIN_TISSUE_FRACTION else None
        if codes is None:
            return
        owner = self._names.setdefault((pair, patient_id), len(self._names))
        self._codes.append(codes)
        self._owners.append(owner)
        self._sizes[owner] += 1

    def duplicates(self) -> list[Duplicate]:
        """Pairs of different patients with at least 3 alike tiles, most first."""
        if not self._codes:
            return []
        codes, owners = np.stack(self._codes), np.array(self._owners)
        names = list(self._names)
        twins: dict[tuple[int, int], set[int]] = {}
        # one tile in its own position against all others in all eight
        for tile, other in _alike(codes[:, 0], codes):
            a, b = int(owners[tile]), int(owners[other])
            if names[a][1] != names[b][1]:
                twins.setdefault((a, b), set()).add(tile)
        found = [
            Duplicate(names[a][0], names[b][0], len(tiles))
            for (a, b), tiles in twins.items()
            if a < b and len(tiles) >= max(MIN_TILES, MIN_SHARE * min(self._sizes[a], self._sizes[b]))
        ]
        return sorted(found, key=lambda d: (-d.n_tiles, d.pair, d.other))


def _alike(own: Codes, all_positions: Codes) -> Iterable[tuple[int, int]]:
    """(tile, other tile), each once, within MAX_DISTANCE; candidates agree in one of seven groups of 9 bits."""
    seen: set[tuple[int, int]] = set()
    flat = all_positions.ravel()
    flat_tile = np.repeat(np.arange(len(own)), all_positions.shape[1])
    for group in range(7):  # 7 groups, 6 bits that may differ: one group at least agrees
        shift, mask = np.uint64(9 * group), np.uint64(0x1FF)
        keys = (flat >> shift) & mask
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(513))
        for tile, code in enumerate(own):
            key = int((code >> shift) & mask)
            candidates = order[starts[key] : starts[key + 1]]
            differing = _ONES[(flat[candidates] ^ code)[:, None].view(np.uint8)].sum(axis=1)
            close = candidates[differing <= MAX_DISTANCE]
            for other in set(flat_tile[close].tolist()) - {tile}:
                if (tile, other) not in seen:
                    seen.add((tile, other))
                    yield tile, other


def write_duplicates(folder: Path, manifest_sha256: str, found: Sequence[Duplicate]) -> None:
    """Writes `folder`/duplicates.json, which fit and evaluate read. Raises OutputError."""
    listed = [{"pair": d.pair, "other": d.other, "n_tiles": d.n_tiles} for d in found]
    write_json(folder / DUPLICATES, {"manifest_sha256": manifest_sha256, "duplicates": listed})


def known_duplicates(folder: Location, manifest_sha256: str) -> list[dict[str, Any]] | None:
    """What `vstain records verify` found in exactly these records; None: not looked for."""
    path = folder / DUPLICATES
    if not path.is_file():
        return None
    value = read_json(path, "the duplicates of a folder of records")
    try:
        return list(value["duplicates"]) if value["manifest_sha256"] == manifest_sha256 else None
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: expected what `vstain records verify` writes. Received: {error!r}") from None
