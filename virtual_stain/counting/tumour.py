"""Tumour cell or not, where nobody drew a region: the nucleus itself and the company it keeps.

Tumour nuclei are large for their tissue, and stand among others that are. Lymphocytes are small and stand in groups of
small ones; fibroblasts and endothelium are long; debris of necrosis is small among small. The rule adds up three terms
on one scale, the logarithm of an area ratio:

    log(area / limit)  +  half its mean over the neighbourhood  −  what the nucleus is too long

and calls the nucleus tumour where the sum is ≥ 0. So a small nucleus inside a nest counts and a large one of the
stroma does not. The limit is a share of this slide's typical nucleus, within fixed bounds.

Tumour nuclei are smaller where few proliferate, and there a whole nest may be near the limit. So a nucleus with a
round, whole outline is measured against a lower limit, which still lies above lymphocytes. Heaps of debris are not
round. Round lymphocytes lie inside nests of large nuclei, too. So a nucleus has either the lower limit or the support
of large neighbours, whichever is more. Small neighbours count against it as before.

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
_ROUND = (0.8, 0.9)
"""Circularity from which an outline begins to be round, and from which it is."""
_ROUND_SHARE = 0.75
"""Limit of a round nucleus, as a share of the usual one …"""
_ROUND_LEAST_UM2 = 30.0
"""… but not below this: lymphocytes are found with up to about 30 µm²."""


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
    company = _NEIGHBOUR_WEIGHT * _company(nuclei.xy * mpp, own, nuclei.area_um2.astype(np.float64))
    support = np.maximum(np.maximum(company, 0), _round_allowance(nuclei.circularity, limit))
    return np.asarray(own + np.minimum(company, 0) + support, np.float64)


def _round_allowance(circularity: npt.NDArray[np.float32], limit_um2: float) -> npt.NDArray[np.float64]:
    """float64[N], ≥ 0: by how much the limit is lower for a round outline, in logarithms."""
    lowest = min(limit_um2, max(_ROUND_SHARE * limit_um2, _ROUND_LEAST_UM2))
    start, full = _ROUND
    roundness = np.clip((circularity.astype(np.float64) - start) / (full - start), 0, 1)
    return np.asarray(roundness * np.log(limit_um2 / lowest), np.float64)


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
