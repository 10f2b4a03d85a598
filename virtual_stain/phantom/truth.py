"""Everything that is known about a phantom pair, written beside the slides and read back by tests and the demo."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virtual_stain.counting.cells import Cells
from virtual_stain.errors import InputError
from virtual_stain.files import make_folder, read_json, write_json
from virtual_stain.geometry import Affine2D, Box, Points
from virtual_stain.hdf5 import replacing_hdf5
from virtual_stain.markers import CellCounts
from virtual_stain.phantom.cells import Nuclei
from virtual_stain.phantom.tile_table import TileTable, read_table, write_table
from virtual_stain.registration.transform import DisplacementField, PairTransform

SCHEMA_VERSION = 1
_ON_DISK = {"intensity": "membrane_class"}
"""Columns of truth.h5 that are named otherwise than in the code: the file is older than the word."""


@dataclass(frozen=True, slots=True, eq=False)
class PairTruth:
    """The truth of one pair."""

    pair: str
    he_mpp: float
    ihc_mpp: float
    transform: PairTransform
    landmarks_he: Points
    """float64[N, 2], H&E level-0 px."""
    landmarks_ihc: Points
    """float64[N, 2], the same places in IHC level-0 px."""
    he_nuclei: Nuclei
    """All nuclei of the H&E section; `world_um` = H&E level-0 px × he_mpp."""
    ihc_nuclei: Nuclei
    """All nuclei of the IHC section, at the places of the H&E slide that they belong to."""
    tiles: TileTable
    summary: dict[str, Any]
    """Ratios of the pair as in truth.json: global_ratio, mean_tile_ratio, top30_ratio, top30_field_ratio …"""

    @property
    def he_cells(self) -> Cells:
        """Nuclei of the H&E section in H&E level-0 px; class = would be positive, had it been stained."""
        return self.he_nuclei.as_cells(self.he_nuclei.world_um / self.he_mpp)

    @property
    def ihc_cells(self) -> Cells:
        """Nuclei of the IHC section in IHC level-0 px, as a perfect count of the slide would list them."""
        return self.ihc_nuclei.as_cells(self.transform.to_ihc(self.ihc_he_px0))

    @property
    def ihc_he_px0(self) -> Points:
        """float64[N, 2]: the IHC section's nuclei in H&E level-0 px."""
        return self.ihc_nuclei.world_um / self.he_mpp

    def counts_in(self, box: Box) -> CellCounts:
        """Tumour cells of the IHC section that lie under a box of H&E level-0 px."""
        x, y = self.ihc_he_px0.T
        inside = (x >= box.x) & (x < box.x1) & (y >= box.y) & (y < box.y1) & self.ihc_nuclei.tumour
        positive = int(np.count_nonzero(self.ihc_nuclei.positive[inside]))
        return CellCounts(positive, int(np.count_nonzero(inside)) - positive)


def summarize(ihc: Nuclei, tiles: TileTable, top_n: int = 30) -> dict[str, Any]:
    """The readings of a pair. Tile means run over the usable tiles; None where there is none."""
    tumour = ihc.tumour
    usable = tiles.usable
    positive = int(np.count_nonzero(ihc.positive & tumour))
    total = int(np.count_nonzero(tumour))

    def mean(values: np.ndarray[Any, np.dtype[np.float64]], n: int | None = None) -> float | None:
        chosen = np.sort(values[usable])[::-1][:n]
        return float(chosen.mean()) if len(chosen) else None

    return {
        "tumour_cells": total,
        "positive": positive,
        "global_ratio": positive / total if total else None,
        "usable_tiles": int(np.count_nonzero(usable)),
        "mean_tile_ratio": mean(tiles.ratio),
        "mean_tile_field_ratio": mean(tiles.field_ratio),
        "top_n": min(top_n, int(np.count_nonzero(usable))),
        "top30_ratio": mean(tiles.ratio, top_n),
        "top30_field_ratio": mean(tiles.field_ratio, top_n),
    }


def write_truth(folder: Path, truth: PairTruth, extra: dict[str, Any]) -> None:
    """Writes truth.h5 and tiles.csv, then truth.json, whose presence says that all is there. Raises OutputError."""
    make_folder(folder)
    with replacing_hdf5(folder / "truth.h5", track_order=True) as file:
        for name, nuclei in (("he_nuclei", truth.he_nuclei), ("ihc_nuclei", truth.ihc_nuclei)):
            group = file.create_group(name)
            for column in fields(Nuclei):
                group.create_dataset(
                    _ON_DISK.get(column.name, column.name),
                    data=getattr(nuclei, column.name),
                    compression="gzip",
                    shuffle=True,
                )
        file["landmarks_he_px0"] = truth.landmarks_he
        file["landmarks_ihc_px0"] = truth.landmarks_ihc
        if truth.transform.displacement is not None:
            file["displacement_px0"] = truth.transform.displacement.values_px0
            file["displacement_px0"].attrs["origin_px0"] = truth.transform.displacement.origin_px0
            file["displacement_px0"].attrs["spacing_px0"] = truth.transform.displacement.spacing_px0
    write_table(folder / "tiles.csv", truth.tiles)
    value = {
        "schema_version": SCHEMA_VERSION,
        "pair": truth.pair,
        "he_mpp": truth.he_mpp,
        "ihc_mpp": truth.ihc_mpp,
        "ihc_from_he": truth.transform.ihc_from_he.matrix.tolist(),
        "elastic": truth.transform.displacement is not None,
        "readings": truth.summary,
        **extra,
    }
    write_json(folder / "truth.json", value)


def read_truth(folder: Path, pair: str) -> PairTruth:
    """Reads the truth of `pair` from `folder`, the one that `vstain phantom --out` wrote. Raises InputError."""
    place = folder / "truth" / pair
    value = read_json(place / "truth.json", "the truth of a phantom pair")
    if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{place / 'truth.json'}: expected the truth of a phantom, version {SCHEMA_VERSION}.")
    try:
        with h5py.File(place / "truth.h5", "r") as file:
            sections = [
                Nuclei(**{c.name: file[name][_ON_DISK.get(c.name, c.name)][...] for c in fields(Nuclei)})
                for name in ("he_nuclei", "ihc_nuclei")
            ]
            displacement = None
            if value["elastic"]:
                stored = file["displacement_px0"]
                displacement = DisplacementField(
                    tuple(float(v) for v in stored.attrs["origin_px0"]),  # type: ignore[arg-type]
                    tuple(float(v) for v in stored.attrs["spacing_px0"]),  # type: ignore[arg-type]
                    stored[...],
                )
            landmarks = file["landmarks_he_px0"][...], file["landmarks_ihc_px0"][...]
        matrix = Affine2D("ihc_px0", "he_px0", np.array(value["ihc_from_he"], np.float64))
        return PairTruth(
            pair=str(value["pair"]),
            he_mpp=float(value["he_mpp"]),
            ihc_mpp=float(value["ihc_mpp"]),
            transform=PairTransform(matrix, displacement),
            landmarks_he=landmarks[0],
            landmarks_ihc=landmarks[1],
            he_nuclei=sections[0],
            ihc_nuclei=sections[1],
            tiles=read_table(place / "tiles.csv"),
            summary=value["readings"],
        )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{place}: the truth of this phantom is not whole: {error}") from None
