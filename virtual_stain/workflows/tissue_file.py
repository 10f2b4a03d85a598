"""tissue.h5: the tissue masks of a pair, so that no worker looks for tissue again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from virtual_stain.geometry import Affine2D
from virtual_stain.hdf5 import open_hdf5, read_array, replacing_hdf5
from virtual_stain.slides.tissue import TissueMap

TISSUE_NAME = "tissue.h5"


def write_tissue(folder: Path, maps: Mapping[str, TissueMap]) -> None:
    """Writes the masks of the sides ("he", "ihc") whole. Raises OutputError."""
    with replacing_hdf5(folder / TISSUE_NAME) as file:
        for side, tissue in maps.items():
            file.create_dataset(f"{side}/mask", data=tissue.mask, compression="gzip", compression_opts=1)
            unknown = np.zeros_like(tissue.mask) if tissue.unknown is None else tissue.unknown
            file.create_dataset(f"{side}/unknown", data=unknown, compression="gzip", compression_opts=1)
            file[f"{side}/px0_from_ov"] = tissue.px0_from_ov.matrix


def read_tissue(folder: Path, side: str) -> TissueMap:
    """The tissue mask of one side and what no camera took of it, without its picture."""
    with open_hdf5(folder / TISSUE_NAME) as file:
        mask = np.asarray(read_array(file[f"{side}/mask"]), np.bool_)
        # records of earlier versions are reviewed and hold none
        unknown = np.asarray(read_array(file[f"{side}/unknown"]), np.bool_) if f"{side}/unknown" in file else None
        matrix = np.asarray(file[f"{side}/px0_from_ov"][:], np.float64)
    blank = np.zeros((0, 0, 3), np.uint8)
    return TissueMap(mask, Affine2D("px0", "ov", matrix), blank, brightfield=True, unknown=unknown)
