"""The local displacement, coarse to fine, and the windows that judge it.

The affine it starts from may be off by tens of pixels: an affine map of a bent section is a compromise, and which one a
search ends at, luck decides. So the first passes allow for that: large windows, and consensus among neighbours is asked
for only roughly. After each pass whatever is affine in the displacement over the tissue goes into the matrix. The
displacement that is left is small, and the stiffness that holds it acts on the bending alone, wherever the start was.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from virtual_stain.config.registration import RegistrationSettings
from virtual_stain.registration.field import FieldSettings, fit_field
from virtual_stain.registration.foreground import Foreground
from virtual_stain.registration.raster import Matrix
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.registration.windows import Matches, WindowPlan, correlations_at, match_windows


@dataclass(frozen=True, slots=True)
class Pass:
    """Windows, and how far from its neighbours' word a window may lie before it counts for less."""

    plan: WindowPlan
    robust_px: float


_COARSE = WindowPlan(factor=0.25, window=48, step=8, radius=16)
FIRST = Pass(_COARSE, 24.0)
FOLLOWING = (
    Pass(_COARSE, 8.0),
    Pass(WindowPlan(factor=0.5, window=64, step=14, radius=16), 3.0),
    Pass(WindowPlan(factor=1.0, window=64, step=16, radius=12), 3.0),
)
_PROBES = WindowPlan(factor=0.5, window=48, step=24, radius=16)
MEASURES = WindowPlan(factor=1.0, window=64, step=64, radius=16)
"""Windows that measure how far off it is (precision.py)."""
_SMALL_PX = 500.0  # square root of the tissue area below which half-size probes would be too few
_NODE_PX = 32.0
_PLACES = 2000  # of the tissue, at which the affine part is fitted


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """`matrix` maps fixed + u(fixed) to moving. `field` None: no window could be matched, the affine stands alone."""

    matrix: Matrix
    field: DisplacementField | None
    fit: Matches
    settings: FieldSettings
    before: DisplacementField | None
    """What the last pass started from, under the same matrix."""
    agreement: float
    """Mean correlation of the windows where the displacement puts them, −1–1."""


def probe_plan(fixed: Foreground) -> WindowPlan:
    """Windows that judge, on a grid of half their side (quality.py)."""
    return dataclasses.replace(_PROBES, factor=1.0) if fixed.tissue_px < _SMALL_PX**2 else _PROBES


def first_pass(fixed: Foreground, moving: Foreground, matrix: Matrix, settings: RegistrationSettings) -> Local:
    """What the largest windows make of an affine map: enough to choose between several."""
    return _after(fixed, moving, matrix, None, FIRST, settings)


def refine_locally(
    fixed: Foreground,
    moving: Foreground,
    first: Local,
    settings: RegistrationSettings,
) -> Local:
    """Displacement in fixed working px from the first pass on, each pass starting from the one before."""
    local = first
    for following in FOLLOWING:
        matrix, field = local.matrix, local.field
        if field is not None:
            matrix, field = without_affine_part(fixed, matrix, field)
        local = _after(fixed, moving, matrix, field, following, settings)
    return local


def _after(
    fixed: Foreground,
    moving: Foreground,
    matrix: Matrix,
    field: DisplacementField | None,
    step: Pass,
    settings: RegistrationSettings,
) -> Local:
    plan = step.plan
    matches = match_windows(fixed, moving, matrix, field, plan)
    how = FieldSettings(
        max(_NODE_PX, plan.step / plan.factor), settings.smoothness, step.robust_px, settings.max_slope_fraction
    )
    better = fit_field(fixed.shape, matches, how)
    found = field if better is None else better
    return Local(matrix, found, matches, how, field, agreement(matches, found))


def agreement(matches: Matches, field: DisplacementField | None) -> float:
    """Mean correlation of the windows where `field` puts them, −1–1; 0 without windows."""
    if not len(matches):
        return 0.0
    shifts = np.zeros_like(matches.base) if field is None else field.at(matches.centres)
    return float(np.mean(correlations_at(matches, shifts)))


def without_affine_part(
    fixed: Foreground, matrix: Matrix, field: DisplacementField
) -> tuple[Matrix, DisplacementField]:
    """The same map, with what is affine in the displacement over the tissue moved into the matrix."""
    rows, columns = np.nonzero(fixed.mask)
    some = np.linspace(0, len(rows) - 1, min(len(rows), _PLACES)).astype(np.intp)
    places = np.stack([columns[some], rows[some]], axis=1) + 0.5
    solution, *_ = np.linalg.lstsq(np.c_[places, np.ones(len(places))], places + field.at(places), rcond=None)
    part = np.eye(3)
    part[:2] = solution.T
    back = np.linalg.inv(part)
    height, width = field.values_px0.shape[:2]
    x = field.origin_px0[0] + np.arange(width) * field.spacing_px0[0]
    y = field.origin_px0[1] + np.arange(height) * field.spacing_px0[1]
    nodes = np.stack(np.meshgrid(x, y), axis=-1)
    left = (nodes + field.values_px0) @ back[:2, :2].T + back[:2, 2] - nodes
    return matrix @ part, dataclasses.replace(field, values_px0=left.astype(np.float32))
