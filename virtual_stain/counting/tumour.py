"""Tumour cell or not: a first rule by the size and shape of the nucleus alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.measure import Measured
from virtual_stain.counting.slide_stain import SlideStain

SIZE_AND_SHAPE = "nuclear_size_and_shape"
REGION = "region_of_interest"


def looks_like_tumour(nuclei: Measured, stain: SlideStain, settings: CountingSettings) -> npt.NDArray[np.bool_]:
    """bool[N]: large for this slide and not spindle-shaped.

    Lymphocytes are smaller than the tumour nuclei around them, fibroblasts and endothelium are longer. The limit of
    size is a share of the slide's typical nuclear area, within fixed bounds. On a slide that is mostly lymphoid
    tissue the rule fails; there a region of interest is needed. Architecture and neighbourhood are not looked at.
    """
    wanted = settings.tumour_area_share * stain.typical_area_um2
    smallest = min(max(wanted, settings.tumour_min_area_um2), settings.tumour_max_min_area_um2)
    like = (nuclei.area_um2 >= smallest) & (nuclei.elongation <= settings.tumour_max_elongation)
    return np.asarray(like, np.bool_)
