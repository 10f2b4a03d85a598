"""The local displacement, coarse to fine, and the probes that judge it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from virtual_stain.registration.field import FieldSettings, fit_field
from virtual_stain.registration.foreground import Foreground
from virtual_stain.registration.raster import Matrix
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.registration.windows import Matches, WindowPlan, match_windows

PASSES = (
    WindowPlan(factor=0.25, window=48, step=8, radius=16),
    WindowPlan(factor=0.5, window=64, step=14, radius=16),
    WindowPlan(factor=1.0, window=64, step=16, radius=12),
)
_PROBES = WindowPlan(factor=0.5, window=48, step=48, radius=16)
MEASURES = WindowPlan(factor=1.0, window=64, step=64, radius=16)
"""Windows that measure how far off it is (precision.py)."""
_SMALL_PX = 500.0  # square root of the tissue area below which half-size probes would be too few

_NODE_PX = 32.0
_ROBUST_PX = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """`field` None: no window could be matched, the affine stands alone."""

    field: DisplacementField | None
    fit: Matches
    settings: FieldSettings


def probe_plan(fixed: Foreground) -> WindowPlan:
    """Windows that judge: none overlaps another, so that each is evidence of its own."""
    return dataclasses.replace(_PROBES, factor=1.0) if fixed.tissue_px < _SMALL_PX**2 else _PROBES


def refine_locally(fixed: Foreground, moving: Foreground, matrix: Matrix, smoothness: float, max_slope: float) -> Local:
    """Displacement in fixed working px from three passes of window matching, each starting from the one before."""
    field: DisplacementField | None = None
    for plan in PASSES:
        matches = match_windows(fixed, moving, matrix, field, plan)
        settings = FieldSettings(max(_NODE_PX, plan.step / plan.factor), smoothness, _ROBUST_PX, max_slope)
        better = fit_field(fixed.shape, matches, settings)
        field = field if better is None else better
    return Local(field, matches, settings)
