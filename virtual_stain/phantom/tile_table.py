"""The truth per tile of the product's grid: ratios of the IHC cells, the field, and the H&E nuclei's statistics."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from virtual_stain.errors import InputError
from virtual_stain.files import write_text
from virtual_stain.geometry import Points, Size
from virtual_stain.phantom.atlas import ATLAS_UM, Atlas
from virtual_stain.phantom.cells import Nuclei

WINDOW_UM = 307.2
MIN_TUMOUR_CELLS = 50
MIN_TISSUE_FRACTION = 0.5

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TileTable:
    """T tiles, row by row from the top left; NaN where a tile has no such cells."""

    col: Ints
    row: Ints
    tissue_fraction: Floats
    positive: Ints
    """Positive tumour cells of the IHC section under the tile."""
    negative: Ints
    ratio: Floats
    """positive / (positive + negative)."""
    field_ratio: Floats
    """Noise-free: mean probability of being positive over the H&E section's tumour cells."""
    he_tumour: Ints
    """Tumour nuclei of the H&E section."""
    he_other: Ints
    he_area_mean_um2: Floats
    he_area_sd_um2: Floats
    he_elongation_mean: Floats
    he_chromatin_mean: Floats
    he_chromatin_sd: Floats
    he_mitoses: Ints
    he_nearest_mean_um: Floats
    """Mean distance of a tumour nucleus to its nearest neighbour: crowding."""
    artefact_fraction: Floats
    """Share of the tile that an artefact of either slide covers."""

    def __len__(self) -> int:
        return len(self.col)

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """bool[T]: half tissue, and 50 tumour cells on both sections."""
        enough = np.minimum(self.positive + self.negative, self.he_tumour) >= MIN_TUMOUR_CELLS
        result: npt.NDArray[np.bool_] = enough & (self.tissue_fraction >= MIN_TISSUE_FRACTION)
        return result

    def statistics(self) -> Floats:
        """float64[T, 9]: what H&E could tell: the true nuclear statistics of the tiles."""
        tumour = np.maximum(self.he_tumour, 1)
        return np.stack(
            [
                np.log(tumour),
                self.he_area_mean_um2,
                self.he_area_sd_um2,
                self.he_elongation_mean,
                self.he_chromatin_mean,
                self.he_chromatin_sd,
                np.sqrt(self.he_mitoses),
                self.he_nearest_mean_um,
                self.he_other / (self.he_other + tumour),
            ],
            axis=1,
        )


def make_table(
    size: Size, mpp: float, atlas: Atlas, he: Nuclei, ihc: Nuclei, artefact: npt.NDArray[np.bool_]
) -> TileTable:
    """The table of one pair. `artefact`: bool on the atlas grid. Positions of both sections are the world's."""
    columns = int(np.ceil(size.width * mpp / WINDOW_UM - 1e-9))
    rows = int(np.ceil(size.height * mpp / WINDOW_UM - 1e-9))
    count = columns * rows

    def tile_of(world_um: Points) -> Ints:
        index = np.floor(world_um / WINDOW_UM).astype(np.int64)
        inside = (index >= 0).all(axis=1) & (index[:, 0] < columns) & (index[:, 1] < rows)
        return np.where(inside, index[:, 1] * columns + index[:, 0], count)

    def total(where: Ints, weight: npt.NDArray[np.generic] | None = None) -> Floats:
        values = None if weight is None else weight.astype(np.float64)
        return np.bincount(where, values, minlength=count + 1)[:count].astype(np.float64)

    target = ihc.select(ihc.tumour)
    tile = tile_of(target.world_um)
    n_ihc, positive = total(tile), total(tile, target.positive)
    tumour = he.select(he.tumour)
    tile = tile_of(tumour.world_um)
    n = total(tile)

    def moments(values: npt.NDArray[np.generic]) -> tuple[Floats, Floats]:
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total(tile, values) / n
            square = total(tile, values.astype(np.float64) ** 2) / n
            return mean, np.sqrt(np.maximum(square - mean**2, 0))

    area, area_sd = moments(tumour.area_um2)
    chromatin, chromatin_sd = moments(tumour.chromatin)
    pixels = _pixel_tiles(atlas, columns, rows)
    solid = np.bincount(pixels, (atlas.tissue > 0).ravel(), minlength=count + 1)[:count]
    spoiled = np.bincount(pixels, artefact.ravel(), minlength=count + 1)[:count]
    per_tile = (WINDOW_UM / ATLAS_UM) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = positive / n_ihc
    return TileTable(
        col=np.tile(np.arange(columns), rows),
        row=np.repeat(np.arange(rows), columns),
        tissue_fraction=np.minimum(solid / per_tile, 1.0),
        positive=positive.astype(np.int64),
        negative=(n_ihc - positive).astype(np.int64),
        ratio=ratio,
        field_ratio=moments(tumour.field)[0],
        he_tumour=n.astype(np.int64),
        he_other=total(tile_of(he.world_um[~he.tumour])).astype(np.int64),
        he_area_mean_um2=area,
        he_area_sd_um2=area_sd,
        he_elongation_mean=moments(tumour.elongation)[0],
        he_chromatin_mean=chromatin,
        he_chromatin_sd=chromatin_sd,
        he_mitoses=total(tile, tumour.mitosis).astype(np.int64),
        he_nearest_mean_um=moments(_nearest(tumour.world_um))[0],
        artefact_fraction=np.minimum(spoiled / per_tile, 1.0),
    )


def _pixel_tiles(atlas: Atlas, columns: int, rows: int) -> Ints:
    """Tile number of every atlas pixel, flat; columns · rows for those outside the grid."""
    column, row = (((np.arange(n) + 0.5) * ATLAS_UM / WINDOW_UM).astype(np.int64) for n in atlas.shape[::-1])
    number = row[:, None] * columns + column[None, :]
    outside = (row[:, None] >= rows) | (column[None, :] >= columns)
    return np.where(outside, columns * rows, number).ravel()


def _nearest(points: Points) -> Floats:
    if len(points) < 2:
        return np.full(len(points), np.nan)
    result: Floats = cKDTree(points).query(points, k=2)[0][:, 1]
    return result


def write_table(path: Path, table: TileTable) -> None:
    """Writes the table as CSV with 9 significant digits; an empty field is "no such cells". Raises OutputError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f.name for f in fields(TileTable)]
    writer.writerow(names)
    for values in zip(*(getattr(table, name) for name in names), strict=True):
        writer.writerow(["" if np.isnan(v) else (int(v) if isinstance(v, np.integer) else f"{v:.9g}") for v in values])
    write_text(path, text.getvalue())


def read_table(path: Path) -> TileTable:
    """Reads what `write_table` wrote. Raises InputError."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        columns: dict[str, Ints | Floats] = {}
        for f in fields(TileTable):
            values = [row[f.name] for row in rows]
            if f.type == "Ints":
                columns[f.name] = np.array([int(v) for v in values], np.int64)
            else:
                columns[f.name] = np.array([float(v) if v else np.nan for v in values], np.float64)
    except OSError as error:
        raise InputError(f"{path}: the phantom's tile table cannot be read: {error.strerror}") from None
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: expected the phantom's tile table. Received something else: {error!r}") from None
    return TileTable(**columns)  # type: ignore[arg-type]
