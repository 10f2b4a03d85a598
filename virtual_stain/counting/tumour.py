"""Tumour cell or not, where nobody drew a region: the nucleus itself and the company it keeps.

Tumour nuclei are large for their tissue, and stand among others that are. Lymphocytes are small and stand in groups of
small ones; fibroblasts and endothelium are long; debris of necrosis is small among small. The rule adds up three terms
on one scale, the logarithm of an area ratio:

    log(area / limit)  +  half its mean over the neighbourhood  −  what the nucleus is too long

and calls the nucleus tumour where the sum is ≥ 0. So a small nucleus inside a nest counts and a large one of the
stroma does not. The limit is a share of this slide's typical nucleus, within fixed bounds.

A trained region model takes this rule's place (counting/region_model.py).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.measure import Measured
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.geometry import Points

NUCLEAR_FEATURES = "nuclear_features_and_neighbourhood"
REGION = "region_of_interest"
IMPORTED = "imported_cells"
MODEL = "region_model:"
"""Followed by the model's name."""

NEIGHBOURHOOD_UM = 24.0  # two nuclei further: no further, since every window needs as much more context
_NEIGHBOUR_WEIGHT = 0.5


def looks_like_tumour(
    nuclei: Measured, mpp: tuple[float, float], stain: SlideStain, settings: CountingSettings
) -> npt.NDArray[np.bool_]:
    """bool[N] by the rule above. `mpp`: µm/px of the image that `nuclei.xy` counts in."""
    return np.asarray(tumour_evidence(nuclei, mpp, stain, settings) >= 0, np.bool_)


def tumour_evidence(
    nuclei: Measured, mpp: tuple[float, float], stain: SlideStain, settings: CountingSettings
) -> npt.NDArray[np.float64]:
    """float64[N]: ≥ 0 for a tumour cell; about 0.7 more for twice the area."""
    wanted = settings.tumour_area_share * stain.typical_area_um2
    limit = min(max(wanted, settings.tumour_min_area_um2), settings.tumour_max_min_area_um2)
    own = np.log(np.maximum(nuclei.area_um2.astype(np.float64), 1) / limit)
    too_long = np.maximum(nuclei.elongation.astype(np.float64) - settings.tumour_free_elongation, 0)
    own -= settings.tumour_elongation_price * too_long
    company = _company(nuclei.xy * mpp, own, nuclei.area_um2.astype(np.float64))
    return np.asarray(own + _NEIGHBOUR_WEIGHT * company, np.float64)


def _company(xy_um: Points, value: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64[N]: mean of `value` over the neighbourhood, the cell itself included; near and large ones weigh more."""
    if len(xy_um) < 2:
        return value
    pair = cKDTree(xy_um).query_pairs(NEIGHBOURHOOD_UM, output_type="ndarray")
    both = np.concatenate([pair, pair[:, ::-1]])
    # summed in the order of the cells, which is the same in every window: so the sums are the same to the last bit
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    distance2 = np.square(xy_um[both[:, 0]] - xy_um[both[:, 1]]).sum(axis=1)
    near = weight[both[:, 1]] * np.exp(-2 * distance2 / NEIGHBOURHOOD_UM**2)
    n = len(value)
    total = weight * value + np.bincount(both[:, 0], near * value[both[:, 1]], n)
    return np.asarray(total / (weight + np.bincount(both[:, 0], near, n)), np.float64)
