"""Whether a slide shows the pink of eosin, as H&E does, or the blue and brown of IHC.

Eosin absorbs green far more than red and blue; haematoxylin and DAB do not. So the share of stained pixels that are
pink tells the two kinds apart, on close-ups and thumbnails alike (docs/scoring.md has the figures). Special stains
(PAS, Sirius Red, a red chromogen) are as pink as eosin: the kind H&E is "pink", and no proof.

A violet counterstain and a red chromogen are pink, too. What tells them from H&E is where the pink lies. Eosin colours
all tissue and leaves nuclei bluer. A chromogen colours single places, which are denser and redder than the tissue
around them. That is a doubt (`StainColours.he_doubt`), no proof.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.errors import SlideError
from virtual_stain.geometry import Box, Size
from virtual_stain.slides.glass import glass_color
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.source import Rgb
from virtual_stain.slides.tissue import TissueMap
from virtual_stain.slides.window import read_window

_WINDOWS = 12
_WINDOW_UM = 256.0
_WINDOW_MPP = 1.0
_MOST_PX = 4e6  # of a picture that is looked at whole
_STAINED_OD = 0.2  # summed over the channels; below it hue is noise
_BLACK_OD = 1.3  # in any channel: the camera's black, where hue is lost
_MIN_PIXELS = 1000
# Real H&E has 0.62 to 1.00 pink pixels (0.36 under green pen), real IHC 0.00 to 0.06; drawn IHC with a violet
# counterstain up to 0.38
_PINK_FROM = 0.5
_NO_PINK_BELOW = 0.12
_BROWN_FROM, _BLUE_FROM = 0.01, 0.4  # what must be seen in place of pink …
_COLOURED_FROM = 0.15  # … and both together: the rest is grey, as the edge of a cover slip
# Of a pink slide whose tissue absorbs this share of its density in red, eosin is not plain. Drawn IHC with a violet
# counterstain has 0.29 and more, most real H&E 0.09 to 0.27, eight blueish pictures of it to 0.35
_NO_PLAIN_EOSIN_FROM = 0.27
# … and then dense brown is DAB: 0.015 and more of drawn IHC; of blueish H&E 0.000, in one tile of fat 0.004
_DENSE_BROWN_FROM, _DENSE_OD = 0.008, 0.5
# … and red in the densest places is another chromogen: 0.31 and more of drawn IHC with many positive nuclei, with few
# of them 0.04 to 0.15; of blueish H&E 0.01
_REDDER_PLACES_FROM = 0.05
_REDDER_BY = 0.04  # of the red share, than pale tissue
_PALE, _DENSE = (25, 50), (80, 97)  # percentiles of the summed density; beyond are folds and blood


class StainKind(Enum):
    """What the colours of a slide say about its stain."""

    PINK = "H&E"
    """Pink as H&E is, or a special stain as pink as it."""
    BLUE_BROWN = "IHC"
    """Blue, brown or both, and no pink."""
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class StainColours:
    """Shares of a slide's stained pixels, 0–1."""

    pink: float
    brown: float
    blue: float
    pixels: int
    """How many were stained; the shares are 0 where these are too few."""
    red_absorbed: float = 0.0
    """Median share of the red channel in a pixel's summed density: low in eosin."""
    dense_brown: float = 0.0
    """Share that is brown and dense: not the coloured fringe of an edge."""
    redder_places: float = 0.0
    """Share of the dense pixels that absorb less red than pale tissue does: of nuclei in H&E hardly any."""

    @property
    def shows_brown(self) -> bool:
        return self.brown >= _BROWN_FROM

    @property
    def he_doubt(self) -> str:
        """Why this may not be H&E, although it is not surely IHC; "" where nothing says so."""
        if self.pixels < _MIN_PIXELS or self.kind is StainKind.BLUE_BROWN:
            return ""
        if self.pink < _PINK_FROM:
            return f"less pink than H&E: {self}"
        if self.red_absorbed < _NO_PLAIN_EOSIN_FROM:
            return ""
        if self.dense_brown >= _DENSE_BROWN_FROM:
            return f"brown in violet tissue, as DAB with a violet counterstain: {self}"
        if self.redder_places >= _REDDER_PLACES_FROM:
            return (
                f"dense places that are redder than pale tissue ({self.redder_places:.0%} of them), as a red chromogen "
                f"makes them; nuclei of H&E are bluer: {self}"
            )
        return ""

    @property
    def kind(self) -> StainKind:
        if self.pixels < _MIN_PIXELS:
            return StainKind.UNCLEAR
        if self.pink >= _PINK_FROM and not self.shows_brown:
            return StainKind.PINK
        coloured = self.brown + self.blue >= _COLOURED_FROM
        if self.pink < _NO_PINK_BELOW and coloured and (self.shows_brown or self.blue >= _BLUE_FROM):
            return StainKind.BLUE_BROWN
        return StainKind.UNCLEAR

    def __str__(self) -> str:
        return f"{self.pink:.0%} of the stained pixels are pink, {self.brown:.0%} brown, {self.blue:.0%} blue"


def stain_colours(slide: Slide, tissue: TissueMap) -> StainColours:
    """The colours of windows spread over the tissue, or of the whole picture where it is small; what is damaged is left
    out, and where that is all, the overview is looked at."""
    # where the looks disagree, the slide is not surely IHC
    looks = stain_looks(slide, tissue)
    return next((look for look in looks if look.kind is not StainKind.BLUE_BROWN), looks[0])


def stain_looks(slide: Slide, tissue: TissueMap) -> list[StainColours]:
    """A small picture is looked at twice: whole, and without what is no tissue (pen, edges of the cover slip)."""
    overview_mpp = 8.0 if slide.mpp is None else tissue.px0_per_ov[0] * slide.mpp.x
    glass = glass_color(tissue.overview, overview_mpp)
    return [colours_of(pictures, glass) for pictures in _pictures(slide, tissue)]


def colours_of(pictures: list[Rgb], glass: npt.NDArray[np.float64]) -> StainColours:
    """`pictures`: uint8[H, W, 3] of one slide; `glass`: float64[3], the colour of its glass, 0–255."""
    if not pictures:
        return StainColours(0.0, 0.0, 0.0, 0)
    smooth = np.concatenate([cv2.GaussianBlur(p, (0, 0), 0.8).reshape(-1, 3) for p in pictures]).astype(np.float32)
    density = np.log10(np.maximum(glass, 1).astype(np.float32) / np.maximum(smooth, 1)).clip(0)
    total = density.sum(axis=1)
    stained = (total > _STAINED_OD) & (density.max(axis=1) < _BLACK_OD)
    count = int(np.count_nonzero(stained))
    if count < _MIN_PIXELS:
        return StainColours(0.0, 0.0, 0.0, count)
    r, g, b = (density[stained] / total[stained, None]).T
    pink = (g > b + 0.10) & (g > r + 0.08)
    # paler brown may be the yellow of unstained tissue, and what absorbs hardly any red or green is red or yellow
    brown = (b > r + 0.06) & (b > g - 0.04) & (r > 0.14) & (g > 0.27) & (total[stained] > 0.3)
    blue = r > b + 0.08
    shares = float(pink.mean()), float(brown.mean()), float(blue.mean())
    dense_brown = float((brown & (total[stained] > _DENSE_OD)).mean())
    return StainColours(*shares, count, float(np.median(r)), dense_brown, _redder_places(r, total[stained]))


def _redder_places(red: npt.NDArray[np.float32], total: npt.NDArray[np.float32]) -> float:
    """Both float32[N], of stained pixels: share of the red channel, and summed density."""
    limits = np.percentile(total, [*_PALE, *_DENSE])
    pale, dense = ((total >= low) & (total <= high) for low, high in (limits[:2], limits[2:]))
    return float(np.mean(red[dense] < np.median(red[pale]) - _REDDER_BY))


def _pictures(slide: Slide, tissue: TissueMap) -> list[list[Rgb]]:
    """Ways to look at the slide, each a list of pictures."""
    bounds, mpp = slide.bounds, slide.mpp
    if mpp is None or mpp.mean > _WINDOW_MPP or bounds.area * mpp.um2_per_px < _WINDOWS * _WINDOW_UM**2:
        wanted = 1.0 if mpp is None else _WINDOW_MPP / mpp.mean
        shrink = max(1.0, wanted, (bounds.area / _MOST_PX) ** 0.5)
        out = Size(max(1, round(bounds.width / shrink)), max(1, round(bounds.height / shrink)))
        try:
            picture = tissue.without_unknown(read_window(slide, bounds, out), bounds)
        except SlideError:
            return [[tissue.overview]]
        # a second time without pen and edges of the cover slip, which are as blue or brown as tissue
        size = out.width, out.height
        mask = cv2.resize(tissue.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        return [[picture], [np.where(mask[..., None], picture, np.uint8(255))]]
    rows, columns = np.nonzero(tissue.mask)
    if not len(rows):
        return [[]]
    picked = np.linspace(0, len(rows) - 1, _WINDOWS + 2).astype(np.intp)[1:-1]
    middles = tissue.px0_from_ov.apply(np.stack([columns[picked] + 0.5, rows[picked] + 0.5], axis=-1))
    side = round(_WINDOW_UM / _WINDOW_MPP)
    width, height = _WINDOW_UM / mpp.x, _WINDOW_UM / mpp.y
    boxes = [Box(float(x) - width / 2, float(y) - height / 2, width, height) for x, y in middles]
    pictures: list[Rgb] = []
    for box in boxes:
        with contextlib.suppress(SlideError):  # whoever reads the tiles tells of the damaged ones
            pictures.append(tissue.without_unknown(read_window(slide, box, Size(side, side)), box))
    return [pictures or [tissue.overview]]
