"""The cells of an image: the value that counting produces and labels, records and truth are made of."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Points
from virtual_stain.markers import CellCounts


class CellClass(enum.IntEnum):
    """Stain of a nucleus, tumour or not; OTHER is no nucleus (pigment, debris)."""

    NEGATIVE = 0
    POSITIVE = 1
    OTHER = 2


UNKNOWN_INTENSITY = 255
"""Of a cell that a person called stained without saying how strongly."""


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
    intensity: npt.NDArray[np.uint8] | None = None
    """uint8[N]: intensity 0–3 (3 for 3+), or UNKNOWN_INTENSITY; None: the marker has none."""

    def __post_init__(self) -> None:
        if self.xy.ndim != 2 or self.xy.shape[1] != 2:
            raise ValueError(f"Expected xy of shape [N, 2]. Received: {self.xy.shape}")
        lengths = {name: len(values) for name, values in self._columns().items()}
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
        return Cells(**{name: values[index] for name, values in self._columns().items()})

    def moved(self, xy: Points) -> Cells:
        """The same cells at other positions: into another frame."""
        return Cells(**self._columns() | {"xy": np.asarray(xy, np.float64)})

    @staticmethod
    def concatenated(parts: list[Cells]) -> Cells:
        if not parts:
            return Cells.empty()
        columns = [p._columns() for p in parts]
        if len({tuple(c) for c in columns}) != 1:
            raise ValueError("Expected cells with intensities, or without. Received: both")
        return Cells(**{name: np.concatenate([c[name] for c in columns]) for name in columns[0]})

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns that there are."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def counts(self, *, tumour_only: bool = True) -> CellCounts:
        """Positive and negative cells; by default of the tumour, otherwise of all nuclei."""
        chosen = self.cell_class[self.tumour] if tumour_only else self.cell_class
        return CellCounts(
            positive=int(np.count_nonzero(chosen == CellClass.POSITIVE)),
            negative=int(np.count_nonzero(chosen == CellClass.NEGATIVE)),
        )
