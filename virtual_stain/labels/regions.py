"""Where the tumour is, when a person drew it: on the H&E slide, on the IHC slide, or on both.

Without a region nuclear size and shape decide. With one, a nucleus is a tumour cell if its centre lies inside (inside
both, where both are given): what lies outside is taken for not tumour, so all of the tumour has to be drawn.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.region import Region, read_region
from virtual_stain.geometry import Points
from virtual_stain.registration.transform import PairTransform
from virtual_stain.slides.slide import Slide


@dataclass(frozen=True, slots=True)
class Regions:
    """The drawn regions of a pair; None: not drawn."""

    he: Region | None = None
    ihc: Region | None = None

    def mark(self, cells: Cells, he_points: Points, transform: PairTransform) -> Cells:
        """The same cells, tumour or not by the regions. `he_points`: float64[N, 2], the cells in he_px0."""
        if self.he is None and self.ihc is None:
            return cells
        inside = np.asarray(cells.cell_class != CellClass.OTHER)
        if self.he is not None:
            inside &= self.he.contains(he_points)
        if self.ihc is not None:
            inside &= self.ihc.contains(transform.to_ihc(he_points))
        return dataclasses.replace(cells, tumour=inside)


def read_regions(he: Slide, ihc: Slide, he_roi: Path | None, ihc_roi: Path | None) -> Regions:
    """Reads QuPath GeoJSON (in QuPath's frame: px0 − bounds) or masks. Raises InputError."""
    return Regions(
        he=None if he_roi is None else read_region(he_roi, he.bounds, slide=he.name),
        ihc=None if ihc_roi is None else read_region(ihc_roi, ihc.bounds, slide=ihc.name),
    )
