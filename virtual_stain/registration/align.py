"""One working pair from start to judged transform: starts → affine → displacement → evidence.

A start that looks best need not be right, so evidence decides twice. Several affine maps of one place go through the
first pass of windows, and the one goes on that its windows agree with best. Where held-out windows do not confirm the
end of it, the next places are tried before the pair is given up.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass

import numpy as np

from virtual_stain.config.registration import RegistrationSettings
from virtual_stain.geometry import Affine2D
from virtual_stain.registration.estimate import Candidate, apart_fraction, refine_given, refine_starts
from virtual_stain.registration.flow import add_flow
from virtual_stain.registration.foreground import Foreground
from virtual_stain.registration.precision import Precision, measure_precision, no_precision
from virtual_stain.registration.quality import Evidence, HoldOut, gather_evidence
from virtual_stain.registration.raster import Matrix
from virtual_stain.registration.refine import MEASURES, Local, first_pass, probe_plan, refine_locally
from virtual_stain.registration.search import find_starts
from virtual_stain.registration.transform import DisplacementField, PairTransform
from virtual_stain.registration.windows import match_windows
from virtual_stain.registration.working import WorkingPair

_TRIES = 3
_ANOTHER = 0.01  # of the diagonal: affine maps nearer than this end alike
_FINER_PIXELS = 2.5  # level-0 px per working px: from here on the slides hold more than the working images show
_MEASURE_STRIDE = 3  # of the windows that measure: two held out together leave windows of the fit between them


class Start(enum.Enum):
    """Where an alignment comes from."""

    FOUND = "found"
    GIVEN = "given"
    """By a person's landmarks; refined."""
    CONTRADICTED = "contradicted"
    """By landmarks, and windows prove another place."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """In working px: `matrix` maps fixed + u(fixed) to moving."""

    matrix: Matrix
    field: DisplacementField | None
    evidence: Evidence
    precision: Precision
    overlap_fraction: float
    same_cells: bool = False
    """The very same section on both slides, stained twice."""
    finest_px: float = 1.0
    """Working px per px of the finest images that had a part in it."""
    second: DisplacementField | None = None
    """What another method makes of the same pair, under the same matrix. How far `field` lies from it is part of the
    stated error."""

    start: Start = Start.FOUND
    residual_px: float | None = None
    """Landmarks that windows do not confirm: how well one affine map fits them (root mean square); None: too few."""

    def shown_by_windows(self, settings: RegistrationSettings) -> bool:
        """Whether the held-out windows agree with it far more than those of unrelated slides would."""
        if self.start is Start.CONTRADICTED:
            return False
        # a search tries hundreds of places and keeps the best by chance, too; a person names one
        most = settings.max_chance_log10 if self.start is Start.FOUND else settings.max_manual_chance_log10
        return len(self.evidence) >= settings.min_windows and self.evidence.chance_log10 <= most


def align_from(pair: WorkingPair, ihc_from_he: Affine2D, settings: RegistrationSettings) -> Alignment:
    """From a start that a person gave: refined, unless that leads away from it."""
    fixed, moving = pair.fixed.px0_from_work, pair.moving.px0_from_work
    placed = Affine2D(moving.target, fixed.target, ihc_from_he.matrix)
    candidate = refine_given(pair.fixed, pair.moving, (moving.inverse() @ placed @ fixed).matrix)
    return _judge(pair, candidate, settings, Start.GIVEN)


def align(pair: WorkingPair, settings: RegistrationSettings) -> Alignment | None:
    """The first proven alignment, else the best-looking one; None when no start leads anywhere."""
    starts = find_starts(
        pair.fixed,
        pair.moving,
        coarse_px=settings.coarse_px,
        angle_step_deg=settings.angle_step_deg,
        scales=pair.scales,
        keep=settings.starts if len(pair.scales) == 1 else 2 * settings.starts,
    )
    first: Alignment | None = None
    for candidate in refine_starts(pair.fixed, pair.moving, starts, keep=_TRIES):
        alignment = _judge(pair, candidate, settings)
        if alignment.shown_by_windows(settings):
            return alignment
        # among unproven ones the evidence is noise: the one that looks best stands for them, for a person to see
        first = first or alignment
    return first


def _judge(
    pair: WorkingPair, candidate: Candidate, settings: RegistrationSettings, start: Start = Start.FOUND
) -> Alignment:
    local = refine_locally(pair.fixed, pair.moving, _best_first_pass(pair, candidate, settings), settings)
    plan = probe_plan(pair.fixed)
    probes = match_windows(pair.fixed, pair.moving, local.matrix, local.field, plan)
    keep_away = plan.window / plan.factor
    evidence = gather_evidence(pair.fixed.shape, local.fit, probes, local.settings, keep_away)
    alignment = Alignment(
        local.matrix,
        local.field if settings.local else None,
        evidence,
        no_precision(),
        candidate.overlap,
        finest_px=pair.coarsest_px,
        start=start,
    )
    if not alignment.shown_by_windows(settings):
        return alignment
    alignment = dataclasses.replace(alignment, precision=measure(pair, alignment.field, local))
    if not settings.local:
        return alignment
    # after all that judges: flow has seen every pixel, so no window is held out from it. It starts from larger windows
    # than those of the last pass, which only make it inherit their noise.
    flow = add_flow(pair.fixed, pair.moving, local.matrix, local.before, settings.max_slope_fraction)
    if flow is None:
        return alignment
    if min(_px0_per_px(pair.fixed), _px0_per_px(pair.moving)) >= _FINER_PIXELS:
        # `deepen` reads them: windows of finer levels find bends better than flow of this one
        return dataclasses.replace(alignment, second=flow)
    return dataclasses.replace(alignment, field=flow, second=local.field)


def _px0_per_px(side: Foreground) -> float:
    """Level-0 px per working px."""
    return float(np.sqrt(abs(np.linalg.det(side.px0_from_work.matrix[:2, :2]))))


def _best_first_pass(pair: WorkingPair, candidate: Candidate, settings: RegistrationSettings) -> Local:
    """The one of the candidate's affine maps whose windows agree best, after its first pass."""
    tried: list[Matrix] = []
    for matrix in (candidate.matrix, *candidate.others):
        if all(apart_fraction(matrix, other, pair.fixed) > _ANOTHER for other in tried):
            tried.append(matrix)
    passed = [first_pass(pair.fixed, pair.moving, m, settings) for m in tried]
    return max(passed, key=lambda local: local.agreement)


def measure(pair: WorkingPair, field: DisplacementField | None, local: Local) -> Precision:
    """How far off the local map is (`field` None: its affine alone), at working resolution."""
    windows = match_windows(pair.fixed, pair.moving, local.matrix, field, MEASURES)
    how = HoldOut(local.settings, MEASURES.window / MEASURES.factor, _MEASURE_STRIDE)
    return measure_precision(pair.fixed.shape, local.fit, windows, field, how)


def to_pair_transform(pair: WorkingPair, alignment: Alignment) -> PairTransform:
    """The alignment in level-0 px of both slides."""
    he_from_fixed = pair.fixed.px0_from_work
    ihc_from_moving = pair.moving.px0_from_work
    moving_from_fixed = Affine2D(ihc_from_moving.source, he_from_fixed.source, alignment.matrix)
    matrix = (ihc_from_moving @ moving_from_fixed @ he_from_fixed.inverse()).matrix
    return PairTransform(Affine2D("ihc_px0", "he_px0", matrix), field_in_px0(alignment.field, he_from_fixed))


def field_in_px0(field: DisplacementField | None, he_from_fixed: Affine2D) -> DisplacementField | None:
    """A displacement of working px as one of H&E level-0 px (working px are scaled and shifted only)."""
    if field is None:
        return None
    scale = np.diag(he_from_fixed.matrix)[:2]
    origin = he_from_fixed.apply([field.origin_px0])[0]
    spacing = scale * field.spacing_px0
    return DisplacementField(
        (float(origin[0]), float(origin[1])),
        (float(spacing[0]), float(spacing[1])),
        (field.values_px0 * scale).astype(np.float32),
    )
