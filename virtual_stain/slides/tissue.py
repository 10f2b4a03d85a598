"""Where a slide carries tissue: a mask on an overview, and quick questions about boxes of the slide."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from virtual_stain.config.tissue import TissueSettings
from virtual_stain.errors import NoTissueError, SlideError
from virtual_stain.geometry import Affine2D, Box, Points
from virtual_stain.slides.nuclear_scale import doubt_of_nuclei, is_fine_enough, sampled, spot_widths, windows_in
from virtual_stain.slides.resolution import Mpp
from virtual_stain.slides.slide import Overview, Slide
from virtual_stain.slides.source import Rgb
from virtual_stain.slides.tissue_mask import TissueParts, tissue_mask, tissue_parts
from virtual_stain.slides.unknown import UnknownArea, grown, is_brightfield, tissue_behind
from virtual_stain.slides.virtual_look import looks_virtual
from virtual_stain.slides.virtual_mark import VIRTUAL_SENTENCE

__all__ = ["TissueMap", "doubts_of_nuclei", "examined", "find_tissue", "require_tissue", "tissue_mask"]

_MOST_TISSUE_FRACTION = 0.9  # of a scan; a section leaves more glass around it
_MOST_UNKNOWN_SHARE = 0.5  # of what would be tissue
_DARKEST_EMPTY = 150  # of 255: a picture without anything darker is empty glass
_TOLD_SHARE = 0.01
_FEW_PX, _CLOSER_PX = 10_000, 450  # a crop's overview has too few pixels to tell a predicted picture by
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
    unknown: npt.NDArray[np.bool_] | None = None
    """bool[h, w]: what no camera took, in no way tissue; None: not asked."""
    removed: npt.NDArray[np.bool_] | None = None
    """bool[h, w]: stained pieces that a rule for dust or lines took away; None: not asked."""

    @property
    def px0_per_ov(self) -> tuple[float, float]:
        """Level-0 px per overview px along x and y."""
        return float(self.px0_from_ov.matrix[0, 0]), float(self.px0_from_ov.matrix[1, 1])

    def area_um2(self, mpp: Mpp) -> float:
        scale_x, scale_y = self.px0_per_ov
        return float(np.count_nonzero(self.mask)) * scale_x * mpp.x * scale_y * mpp.y

    def removed_um2(self, mpp: Mpp) -> float:
        """Area of the stained pieces that are not counted as tissue."""
        scale_x, scale_y = self.px0_per_ov
        pixels = 0 if self.removed is None else np.count_nonzero(self.removed)
        return float(pixels) * scale_x * mpp.x * scale_y * mpp.y

    def unknown_area(self, rim_px: int = 1) -> UnknownArea | None:
        """What no camera took, and `rim_px` overview px around it, where it mixes with the picture; None: nothing."""
        if self.unknown is None or not self.unknown.any():
            return None
        return UnknownArea(grown(self.unknown, rim_px) if rim_px else self.unknown, self.px0_from_ov)

    @cached_property
    def blank(self) -> UnknownArea | None:
        """`unknown_area` with its rim, as it is left out wherever pixels are read."""
        return self.unknown_area()

    def unknown_at(self, points_px0: Points) -> npt.NDArray[np.bool_]:
        """float64[N, 2] level-0 px → bool[N]: no camera took this place."""
        area = self.unknown_area(rim_px=0)
        return np.zeros(len(points_px0), np.bool_) if area is None else area.at(points_px0)

    def without_unknown(self, image: Rgb, box: Box) -> Rgb:
        """A picture of `box` (level-0 px), white where no camera took it."""
        return image if self.blank is None else self.blank.blanked(image, box)

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
    is_small = overview.image.shape[0] * overview.image.shape[1] < _FEW_PX
    predicted = looks_virtual(slide.overview(max_px=_CLOSER_PX).image if is_small else overview.image)
    if predicted and not slide.ref.virtual:
        raise SlideError(
            f"{slide.path}: expected a picture that a camera took. Received: one with the colours of a virtual slide, "
            f"{VIRTUAL_SENTENCE}. A prediction never comes back as truth.",
            hint="Give the stained slide. For a look at what the counter sees on it: vstain count … --virtual",
        )
    known = overview.image[~overview.unknown]
    brightfield = is_brightfield(known[None]) if known.size else True
    if brightfield and _is_grey(known):
        raise SlideError(
            f"{slide.path}: expected a colour image. Received: a grey one, stored as three equal channels: no stain "
            "can be told from it.",
            hint="Scan or export the slide in colour.",
        )
    if brightfield:
        parts = tissue_parts(overview.image, mpp_um, settings)
    else:
        nothing = np.zeros(overview.image.shape[:2], np.bool_)
        parts = TissueParts(nothing, nothing)
    mask = parts.mask & ~overview.unknown
    warnings = (*_of_prediction(predicted), *_doubts(slide, mask), *_of_unknown(slide.path, overview, mask))
    return TissueMap(
        mask,
        overview.px0_from_ov,
        overview.image,
        brightfield,
        warnings,
        overview.unknown,
        parts.removed & ~overview.unknown,
    )


def examined(slide: Slide, tissue: TissueMap) -> TissueMap:
    """The same map, with a warning where its nuclei are half as wide as any, which a wrong pixel size makes them.

    Reads three places at full resolution.
    """
    told = doubts_of_nuclei(slide, tissue.mask, tissue.px0_from_ov)
    return replace(tissue, warnings=(*tissue.warnings, *told)) if told else tissue


def doubts_of_nuclei(slide: Slide, mask: npt.NDArray[np.bool_], px0_from_ov: Affine2D) -> tuple[str, ...]:
    """A warning where the nuclei in a tissue mask bool[h, w] are half as wide as any (`nuclear_scale`)."""
    if slide.mpp is None or not is_fine_enough((slide.mpp.x, slide.mpp.y)):
        return ()
    scale_x, scale_y = float(px0_from_ov.matrix[0, 0]), float(px0_from_ov.matrix[1, 1])
    x, y = px0_from_ov.matrix[:2, 2]
    boxes = [
        Box(x + b.x * scale_x, y + b.y * scale_y, b.width * scale_x, b.height * scale_y)
        for b in windows_in(mask, (scale_x * slide.mpp.x, scale_y * slide.mpp.y))
    ]
    return doubt_of_nuclei(spot_widths(sampled(slide, boxes)), str(slide.mpp))


def _is_grey(pixels: Rgb) -> bool:
    """Whether uint8[N, 3] shows something, and no colour anywhere: cameras leave at least noise between channels."""
    if not pixels.size or int(pixels.min()) > _DARKEST_EMPTY:
        return False
    return int((pixels.max(axis=-1) - pixels.min(axis=-1)).max()) <= 1


def _of_prediction(predicted: bool) -> tuple[str, ...]:
    return (f"tissue: these are the colours of a virtual slide, {VIRTUAL_SENTENCE}.",) if predicted else ()


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


def _of_unknown(path: Path, overview: Overview, mask: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    """A warning with its share. Raises SlideError where more than half of what would be tissue is not there."""
    unknown = overview.unknown
    if not unknown.any():
        return ()
    behind, tissue = tissue_behind(unknown, overview.missing, mask), int(np.count_nonzero(mask))
    share = behind / max(1, behind + tissue)
    if share > _MOST_UNKNOWN_SHARE:
        raise SlideError(
            f"{path}: expected the pixels of the tissue. Received: a file in which about {share:.0%} of it was never "
            "written or is damaged (missing tiles, broken tiles, black or filled areas).",
            hint="Export or copy the slide again; vstain info SLIDE --out DIR draws what is missing.",
        )
    if share < _TOLD_SHARE and not (unknown & ~overview.untaken).any():
        return ()  # a scanner that passes over glass leaves it out
    inside = f", about {share:.0%} of the tissue" if share >= _TOLD_SHARE else ""
    return (
        f"pixels: {_per_cent(float(unknown.mean()))} of the scan was taken by no camera (missing tiles, broken "
        f"tiles, black or filled areas{inside}): it counts neither as glass nor as tissue",
    )


def _per_cent(fraction: float) -> str:
    return f"{fraction:.0%}" if fraction >= 0.01 else f"{fraction:.2%}"


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
