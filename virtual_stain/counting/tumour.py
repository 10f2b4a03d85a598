"""Tumour cell or not: a first rule by the size and shape of the nucleus alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.measure import Measured

SIZE_AND_SHAPE = "nuclear_size_and_shape"
REGION = "region_of_interest"


def looks_like_tumour(nuclei: Measured, settings: CountingSettings) -> npt.NDArray[np.bool_]:
    """bool[N]: large enough and not spindle-shaped; lymphocytes are smaller, fibroblasts and endothelium longer.

    Deliberately generous: what this rule drops is almost never tumour, but some of what it keeps is not.
    Architecture and neighbourhood are not looked at.
    """
    large = nuclei.area_um2 >= settings.tumour_min_area_um2
    round_enough = nuclei.elongation <= settings.tumour_max_elongation
    return large & round_enough
