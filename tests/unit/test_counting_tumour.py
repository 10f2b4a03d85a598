"""Tumour or not by the nucleus and its neighbours: what is small for its slide, in places where few proliferate."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from tests.fixtures.counting import matches
from virtual_stain.config.counting import CountingSettings
from virtual_stain.config.phantom import PhantomBiology, PhantomSettings
from virtual_stain.counting.cells import Cells
from virtual_stain.counting.count import count_cells
from virtual_stain.counting.stain import estimate_stain
from virtual_stain.geometry import Points
from virtual_stain.markers import Marker
from virtual_stain.phantom.cells import Nuclei
from virtual_stain.phantom.pair import make_pair

MPP = 0.46
SETTINGS = CountingSettings()


@functools.cache
def phantom() -> tuple[Points, Nuclei, Cells]:
    """True positions (px), true nuclei and the count of a slide whose nuclei are small where few proliferate."""
    biology = PhantomBiology(mean_logit=-1.6, nucleus_slope_um=1.3)
    pair = make_pair("p001", 0, PhantomSettings(size_mm=0.6, he_mpp=MPP, ihc_mpp=MPP, seed=11, biology=biology))
    rgb = pair.ihc.block(0, 0, pair.ihc.size.width, pair.ihc.size.height)
    cells = count_cells(rgb, MPP, Marker.KI67, estimate_stain([rgb], SETTINGS, MPP), SETTINGS)
    return pair.truth.ihc_cells.xy, pair.truth.ihc_nuclei, cells


def _called(true: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Of the true nuclei in `true` that were found: whether they are called tumour."""
    xy, _, cells = phantom()
    found, known = np.array(matches(cells.xy, xy, 6 / MPP)).T
    called: npt.NDArray[np.bool_] = cells.tumour[found[true[known]]]
    return called


def test_small_tumour_nuclei_count_where_few_proliferate() -> None:
    """0.64 of them were called tumour: a whole nest of small nuclei lay below the limit of area."""
    _, nuclei, _ = phantom()
    cold = _called(nuclei.tumour & (nuclei.field < 0.08))
    assert len(cold) > 250
    assert cold.mean() > 0.88


def test_small_negative_nuclei_do_not_raise_the_ratio_of_a_slide() -> None:
    """It was 1.3 points too high without them."""
    _, nuclei, cells = phantom()
    ratio = cells.counts().ratio
    assert ratio is not None
    assert abs(ratio - nuclei.positive[nuclei.tumour].mean()) < 0.005


def test_lymphocytes_and_stroma_stay_out() -> None:
    _, nuclei, _ = phantom()
    others = _called(~nuclei.tumour)
    assert len(others) > 50
    assert others.mean() < 0.08
