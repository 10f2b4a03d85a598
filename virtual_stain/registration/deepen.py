"""A proven registration made finer, level by level, down to the resolution that pays.

Each level reads a bounded number of windows from the slides (detail.py), adds what they agree on to the displacement,
and is kept only if windows that it did not see are then predicted better than before. Serial sections share structures
of some tens of µm and nothing smaller; the same section stained twice shares every nucleus. Which of the two it is, is
seen at once where everything larger than a nucleus is taken out: windows of neighbouring sections then correlate with
0.1 (0.2 at most, where fine structure is shared), those of the same section with 0.9.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from virtual_stain.config.registration import RegistrationSettings
from virtual_stain.registration.align import Alignment, to_pair_transform
from virtual_stain.registration.detail import DetailPlan, match_details
from virtual_stain.registration.field import FieldSettings, fit_field
from virtual_stain.registration.precision import measure_precision
from virtual_stain.registration.quality import HoldOut
from virtual_stain.registration.windows import Matches, find_peaks
from virtual_stain.registration.working import WorkingPair
from virtual_stain.slides.slide import Slide

_FINER = 0.7  # a level within this of the one before shows nothing new
_SIGMAS = 4.0
_MOST_LEVELS = 6
_SMOOTHNESS = 0.3  # windows that do not overlap are independent: each counts for more
_ROBUST_STEPS = 3.0
_LOOK_MPP, _LOOK_WINDOWS = 2.0, 60
_NUCLEUS_PX = 9
_SAME_HEIGHT = 0.35
_SERIAL = DetailPlan(mpp=4.0, window=64, radius=10, count=600, pattern=32)
_SAME = DetailPlan(mpp=1.0, window=96, radius=10, count=400, least_filled=0.25)


def deepen(he: Slide, ihc: Slide, pair: WorkingPair, alignment: Alignment, settings: RegistrationSettings) -> Alignment:
    """The same alignment, finer where that pays. Expects µm: `pair.unit_px` in µm per working px."""
    if not settings.detail_windows or he.mpp is None or ihc.mpp is None:
        return alignment
    finest = max(he.mpp.x, he.mpp.y, ihc.mpp.x, ihc.mpp.y)
    plan = dataclasses.replace(_SERIAL, mpp=max(finest, settings.detail_mpp))
    alignment = _descend(he, ihc, pair, alignment, plan, settings)
    if finest > _LOOK_MPP or not _same_cells(he, ihc, pair, alignment):
        return alignment
    alignment = dataclasses.replace(alignment, same_cells=True)
    plan = dataclasses.replace(_SAME, mpp=max(finest, settings.restain_mpp))
    return _descend(he, ihc, pair, alignment, plan, settings)


def _descend(
    he: Slide, ihc: Slide, pair: WorkingPair, alignment: Alignment, goal: DetailPlan, settings: RegistrationSettings
) -> Alignment:
    """Level after level down to `goal.mpp`, as long as each is better than the one before."""
    for _ in range(_MOST_LEVELS):
        left_open_um = alignment.precision.sigma * pair.unit_px
        # a level may be as fine as its search square still holds what the one before left open
        mpp = max(goal.mpp, _SIGMAS * left_open_um / goal.radius)
        if mpp > _FINER * alignment.finest_px * pair.unit_px:
            return alignment
        finer = _one_level(he, ihc, pair, alignment, dataclasses.replace(goal, mpp=mpp), settings)
        if finer is alignment:
            return alignment
        alignment = finer
    return alignment


def _same_cells(he: Slide, ihc: Slide, pair: WorkingPair, alignment: Alignment) -> bool:
    plan = dataclasses.replace(_SAME, mpp=_LOOK_MPP, count=_LOOK_WINDOWS, pattern=_NUCLEUS_PX)
    seen = match_details(he, ihc, pair, to_pair_transform(pair, alignment), plan)
    return len(seen) > 0 and float(np.median(find_peaks(seen).height)) > _SAME_HEIGHT


def _one_level(
    he: Slide, ihc: Slide, pair: WorkingPair, before: Alignment, plan: DetailPlan, settings: RegistrationSettings
) -> Alignment:
    plan = dataclasses.replace(plan, count=min(plan.count, settings.detail_windows))
    matches = match_details(he, ihc, pair, to_pair_transform(pair, before), plan)
    if len(matches) < settings.min_windows:
        return before
    shape = pair.fixed.shape
    step = max(plan.window * matches.px, math.sqrt(pair.fixed.tissue_px / plan.count))
    how = HoldOut(
        FieldSettings(step, _SMOOTHNESS, _ROBUST_STEPS * matches.px, settings.max_slope_fraction),
        step / 2,
        2,
        before.field,
    )
    field = fit_field(shape, matches, how.settings, how.prior)
    if field is None:
        return before
    precision = measure_precision(shape, matches, matches, field, how)
    if not precision.sigma < _left_open(matches):
        return before
    return dataclasses.replace(before, field=field, precision=precision, finest_px=matches.px)


def _left_open(matches: Matches) -> float:
    """σ of the same windows under the displacement that they were read through."""
    unseen = np.zeros_like(matches.base)
    found = Matches(matches.centres, unseen, matches.surfaces, matches.px)
    nothing = HoldOut(FieldSettings(1.0, 1.0, 1.0, 0.4), 0.0, 1)
    return measure_precision((1, 1), found, found, None, nothing).sigma
