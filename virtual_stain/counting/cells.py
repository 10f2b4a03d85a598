"""The cells of an image: the value that counting produces and labels, records and truth are made of."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Points
from virtual_stain.markers import CellCounts


class CellClass(enum.IntEnum):
    """Stain of a nucleus, tumour or not; OTHER is no nucleus (pigment, debris)."""

    NEGATIVE = 0
    POSITIVE = 1
    OTHER = 2


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """N cells as columns of equal length."""

    xy: Points
    """float64[N, 2]: centroids (x, y) in px of the image or frame that the caller names, pixel centres at + 0.5."""
    cell_class: npt.NDArray[np.uint8]
    """uint8[N]: CellClass."""
    tumour: npt.NDArray[np.bool_]
    """bool[N]: a tumour cell; only these enter the ratio."""
    dab_od: npt.NDArray[np.float32]
    """float32[N]: mean optical density of the DAB component over the nucleus, ≥ 0."""
    area_um2: npt.NDArray[np.float32]
    """float32[N]: area of the nucleus, µm²."""

    def __post_init__(self) -> None:
        if self.xy.ndim != 2 or self.xy.shape[1] != 2:
            raise ValueError(f"Expected xy of shape [N, 2]. Received: {self.xy.shape}")
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Expected columns of equal length. Received: {lengths}")

    def __len__(self) -> int:
        return len(self.xy)

    @staticmethod
    def empty() -> Cells:
        return Cells(
            xy=np.zeros((0, 2)),
            cell_class=np.zeros(0, np.uint8),
            tumour=np.zeros(0, np.bool_),
            dab_od=np.zeros(0, np.float32),
            area_um2=np.zeros(0, np.float32),
        )

    def select(self, index: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Cells:
        """The cells that a boolean mask or an index array picks."""
        return Cells(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def moved(self, xy: Points) -> Cells:
        """The same cells at other positions: into another frame."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)} | {"xy": np.asarray(xy, np.float64)}
        return Cells(**columns)

    @staticmethod
    def concatenated(parts: list[Cells]) -> Cells:
        if not parts:
            return Cells.empty()
        return Cells(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Cells)})

    def counts(self, *, tumour_only: bool = True) -> CellCounts:
        """Positive and negative cells; by default of the tumour, otherwise of all nuclei."""
        chosen = self.cell_class[self.tumour] if tumour_only else self.cell_class
        return CellCounts(
            positive=int(np.count_nonzero(chosen == CellClass.POSITIVE)),
            negative=int(np.count_nonzero(chosen == CellClass.NEGATIVE)),
        )
