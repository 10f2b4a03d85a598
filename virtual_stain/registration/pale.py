"""The tissue of both sides, where one of them is so pale that the usual thresholds miss most of it.

A weak counterstain with few positive cells absorbs little more than glass does. The thresholds of the tissue mask then
hang by how much glass the picture shows. The other section of the block says how much tissue there is: where one side
holds far less of it, its thresholds are lowered until it holds about as much. Where that does not happen the usual mask
stands, for tissue may as well be missing, and there may be several sections.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from virtual_stain.config.tissue import TissueSettings
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.tissue import TissueMap, find_tissue, require_tissue

_UNLIKE = 1.5  # ratio of the two areas: more than what is lost between neighbouring sections
_GROWN = 1.25  # times the usual mask: less is a wider outline, and a wrong pixel size would pass for pale tissue
_LOWER = (1 / 2, 1 / 3)  # times the usual thresholds
_LEAST_OD = 0.005


def tissue_of_both(slides: Sequence[Slide], settings: TissueSettings) -> list[tuple[TissueMap, TissueSettings]]:
    """The tissue of each slide, and the settings that found it.

    Without a pixel size on either side areas cannot be compared, and the usual settings serve. Raises NoTissueError.
    """
    found = [(find_tissue(s, settings), settings) for s in slides]
    areas = [t.area_um2(s.mpp) for s, (t, _) in zip(slides, found, strict=True) if s.mpp is not None]
    if len(areas) == len(slides) and not _alike(areas):
        paler = areas.index(min(areas))
        mpp = slides[paler].mpp
        assert mpp is not None
        for factor in _LOWER:
            lower = _lowered(settings, factor)
            tissue = find_tissue(slides[paler], lower)
            area = tissue.area_um2(mpp)
            if area >= _GROWN * areas[paler] and _alike((area, areas[1 - paler])):
                told = f"tissue: pale, found with {factor:.2g} times the usual thresholds; look at its outline"
                found[paler] = dataclasses.replace(tissue, warnings=(*tissue.warnings, told)), lower
                break
    return [(require_tissue(s.path, tissue), used) for s, (tissue, used) in zip(slides, found, strict=True)]


def _alike(areas: Sequence[float]) -> bool:
    return max(areas) <= _UNLIKE * min(areas)


def _lowered(settings: TissueSettings, factor: float) -> TissueSettings:
    return dataclasses.replace(
        settings,
        min_color_od=max(_LEAST_OD, settings.min_color_od * factor),
        min_density_od=max(_LEAST_OD, settings.min_density_od * factor),
    )
