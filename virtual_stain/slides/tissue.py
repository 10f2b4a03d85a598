"""Where a slide carries tissue: a mask on an overview, and quick questions about boxes of the slide."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from virtual_stain.config.tissue import TissueSettings
from virtual_stain.errors import NoTissueError
from virtual_stain.geometry import Affine2D, Box
from virtual_stain.slides.resolution import Mpp
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.source import Rgb
from virtual_stain.slides.tissue_mask import is_brightfield, tissue_mask

__all__ = ["TissueMap", "find_tissue", "require_tissue", "tissue_mask"]

_MOST_TISSUE_FRACTION = 0.9  # of a scan; a section leaves more glass around it
_FIELD_UM2 = 4e6  # smaller files may be fields cut out of a section, whatever their format


@dataclass(frozen=True, eq=False)
class TissueMap:
    """The tissue of one slide."""

    mask: npt.NDArray[np.bool_]
    """bool[h, w] on the overview."""
    px0_from_ov: Affine2D
    """A scale and a shift per axis."""
    overview: Rgb
    """uint8[h, w, 3]."""
    brightfield: bool
    """False: nearly black, i.e. fluorescence; the mask is empty then."""
    warnings: tuple[str, ...] = ()
    """What makes the mask doubtful."""

    @property
    def px0_per_ov(self) -> tuple[float, float]:
        """Level-0 px per overview px along x and y."""
        return float(self.px0_from_ov.matrix[0, 0]), float(self.px0_from_ov.matrix[1, 1])

    def area_um2(self, mpp: Mpp) -> float:
        scale_x, scale_y = self.px0_per_ov
        return float(np.count_nonzero(self.mask)) * scale_x * mpp.x * scale_y * mpp.y

    def fraction_in(self, box: Box) -> float:
        """The part of `box` (level-0 px) that is tissue, 0–1, exact to parts of overview pixels."""
        edges = [np.array([v]) for v in (box.x, box.y, box.x1, box.y1)]
        return float(self.fractions_in(*edges)[0])

    def any_in(self, box: Box) -> bool:
        """Whether `box` (level-0 px) holds any tissue."""
        return self.fraction_in(box) > 0

    def fractions_in(
        self,
        x: npt.NDArray[np.float64],
        y: npt.NDArray[np.float64],
        x1: npt.NDArray[np.float64],
        y1: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.float64]:
        """`fraction_in` of many boxes: float64[N] edges in level-0 px → float64[N]."""
        ov_from_px0 = self.px0_from_ov.inverse()
        low = ov_from_px0.apply(np.stack([x, y], axis=-1))
        high = ov_from_px0.apply(np.stack([x1, y1], axis=-1))
        whole = (high - low).prod(axis=-1)
        inside = (
            self._area_before(high[:, 0], high[:, 1])
            - self._area_before(low[:, 0], high[:, 1])
            - self._area_before(high[:, 0], low[:, 1])
            + self._area_before(low[:, 0], low[:, 1])
        )
        # differences of sums leave rounding crumbs; less than a millionth of an overview pixel is nothing
        inside[inside < 1e-6] = 0.0
        return np.asarray(np.clip(inside / whole, 0.0, 1.0), np.float64)

    @cached_property
    def _integral(self) -> npt.NDArray[np.float64]:
        """float64[h + 1, w + 1]: tissue pixels above and left of a corner."""
        height, width = self.mask.shape
        sums = np.zeros((height + 1, width + 1), np.float64)
        sums[1:, 1:] = self.mask.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
        return sums

    def _area_before(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Tissue area in [0, x) × [0, y): between its nodes the integral image is bilinear, so this is exact."""
        height, width = self.mask.shape
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        column, row = np.minimum(x.astype(np.intp), width - 1), np.minimum(y.astype(np.intp), height - 1)
        u, v = x - column, y - row
        s = self._integral
        above = s[row, column] * (1 - u) + s[row, column + 1] * u
        below = s[row + 1, column] * (1 - u) + s[row + 1, column + 1] * u
        return np.asarray(above * (1 - v) + below * v, np.float64)


def find_tissue(slide: Slide, settings: TissueSettings) -> TissueMap:
    """The tissue of a slide; without a pixel size its overview is treated as if it had `settings.overview_mpp`.

    Raises SlideError. Empty slides give an empty mask: `require_tissue` refuses them.
    """
    if slide.mpp is None:
        overview = slide.overview(max_px=settings.overview_max_px)
        mpp_um = settings.overview_mpp
    else:
        overview = slide.overview(mpp=settings.overview_mpp)
        mpp_um = float(overview.px0_from_ov.matrix[0, 0]) * slide.mpp.x
    brightfield = is_brightfield(overview.image)
    if brightfield:
        mask = tissue_mask(overview.image, mpp_um, settings)
    else:
        mask = np.zeros(overview.image.shape[:2], np.bool_)
    return TissueMap(mask, overview.px0_from_ov, overview.image, brightfield, _doubts(slide, mask))


def _doubts(slide: Slide, mask: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    """A scan shows glass around its tissue; an image may be a crop of nothing but tissue."""
    fraction = float(mask.mean())
    large = slide.mpp is not None and slide.bounds.area * slide.mpp.um2_per_px > _FIELD_UM2
    if fraction <= _MOST_TISSUE_FRACTION or not large or slide.format.startswith("image/"):
        return ()
    return (
        f"tissue: {fraction:.0%} of the scan is called tissue. Is its glass missing, or too coloured or dirty to be "
        "recognised? Areas and cells per mm² are then wrong: look at the mask (vstain info SLIDE --out DIR).",
    )


def require_tissue(path: Path, tissue: TissueMap) -> TissueMap:
    """The same map, or NoTissueError that says why there is nothing to analyse."""
    if not tissue.brightfield:
        raise NoTissueError(
            f"{path}: no brightfield tissue: the slide is nearly black, so it is probably fluorescence.",
            hint="vstain reads H&E and chromogenic IHC (DAB) slides.",
        )
    if not tissue.mask.any():
        raise NoTissueError(
            f"{path}: no tissue was found on the slide.",
            hint="vstain info SLIDE --out DIR draws the overview and the mask.",
        )
    return tissue
