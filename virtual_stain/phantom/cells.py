"""The nuclei of one section: what is drawn and what the truth says are one table."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.geometry import Points

Column = npt.NDArray[np.float32]


N_SHAPES = 24
"""Outlines that nuclei are drawn with."""


class Kind(enum.IntEnum):
    """What a nucleus belongs to."""

    TUMOUR = 0
    FIBROBLAST = 1
    LYMPHOCYTE = 2
    ENDOTHELIUM = 3
    ADIPOCYTE = 4


@dataclass(frozen=True, slots=True, eq=False)
class Nuclei:
    """N nuclei as columns of equal length; positions in the world frame (µm from the H&E slide's origin)."""

    world_um: Points
    """float64[N, 2]: centres."""
    kind: npt.NDArray[np.uint8]
    """uint8[N]: Kind."""
    radius_um: Column
    """Radius of the circle of the same area."""
    elongation: Column
    """Long axis / short axis, ≥ 1."""
    angle: Column
    """Direction of the long axis in the world frame, radians."""
    shape: npt.NDArray[np.uint8]
    """Which of the drawn outlines."""
    chromatin: Column
    """0 (fine, even, dark) to 1 (coarse, vesicular, nucleoli); 2: a thin rim around a clear middle."""
    mitosis: npt.NDArray[np.bool_]
    positive: npt.NDArray[np.bool_]
    """Positive for the marker; on a serial H&E section: would be, had this section been stained."""
    dab_od: Column
    """Mean optical density of DAB over the nucleus."""
    hematoxylin_od: Column
    """Mean optical density of hematoxylin over the nucleus, before the slide's strength."""
    field: Column
    """Probability of being positive at this place: the noise-free field."""
    membrane_od: Column
    """Optical density of the stained membrane at its middle; 0 on nuclear markers."""
    membrane_fraction: Column
    """Stained share of the membrane, 0–1."""
    intensity: npt.NDArray[np.uint8]
    """uint8[N]: 0, 1, 2, 3 for 0, 1+, 2+, 3+."""

    def __post_init__(self) -> None:
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Expected columns of equal length. Received: {lengths}")

    def __len__(self) -> int:
        return len(self.world_um)

    @property
    def tumour(self) -> npt.NDArray[np.bool_]:
        """bool[N]: tumour cells; only these enter ratios."""
        result: npt.NDArray[np.bool_] = self.kind == Kind.TUMOUR
        return result

    @property
    def area_um2(self) -> Column:
        """Area of each nucleus, µm²."""
        result: Column = (np.pi * self.radius_um.astype(np.float64) ** 2).astype(np.float32)
        return result

    def select(self, index: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Nuclei:
        """The nuclei that a boolean mask or an index array picks."""
        return Nuclei(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @staticmethod
    def concatenated(parts: list[Nuclei]) -> Nuclei:
        return Nuclei(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Nuclei)})

    def as_cells(self, xy: Points) -> Cells:
        """The product's own table, at positions `xy` of some frame."""
        return Cells(
            xy=np.asarray(xy, np.float64),
            cell_class=np.where(self.positive, CellClass.POSITIVE, CellClass.NEGATIVE).astype(np.uint8),
            tumour=self.tumour,
            dab_od=self.dab_od,
            area_um2=self.area_um2,
        )
