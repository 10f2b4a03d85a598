"""What tiles of one pair are made from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from virtual_stain.config.counting import CountingSettings
from virtual_stain.config.labels import LabelSettings
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.labels.regions import Regions
from virtual_stain.markers import Marker
from virtual_stain.registration.result import Registration
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.tissue import TissueMap


@dataclass(frozen=True, slots=True, eq=False)
class PairSources:
    """Everything a tile of one pair is made from, open."""

    he: Slide
    ihc: Slide
    he_tissue: TissueMap
    ihc_tissue: TissueMap
    registration: Registration
    transform_sha256: str
    stain: SlideStain
    marker: Marker
    regions: Regions


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSettings:
    """What a tile depends on beside its slides."""

    tile_px: int
    tile_mpp: float
    max_p95_um: float
    """A tile whose own estimated p95 error exceeds this is dropped, µm."""
    labels: LabelSettings
    counting: CountingSettings

    @property
    def fineness(self) -> int:
        """Pixels that are counted on per tile pixel and axis: coarse tiles must not make the counting coarse."""
        return max(1, math.ceil(self.tile_mpp / self.counting.work_mpp - 1e-9))

    @property
    def count_mpp(self) -> float:
        """Pixel size of the image that cells are counted on, µm/px."""
        return self.tile_mpp / self.fineness

    @property
    def count_px(self) -> int:
        """Side of a tile, px of the image that cells are counted on."""
        return self.tile_px * self.fineness

    @property
    def margin_px(self) -> int:
        """Context around the tile that its cells may depend on, px of the counted image."""
        return math.ceil(self.counting.margin_um / self.count_mpp)
