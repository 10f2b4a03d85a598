"""From a person's landmarks to an alignment, for the pair that the search does not find.

Landmarks are a start: the refinement and its evidence follow as for any other, and where held-out windows confirm it,
the verdict rests on them. Where they do not, the search runs all the same: landmarks that agree with one another can
still all be wrong (another slide's, mirrored, columns swapped, µm instead of px), and where windows prove another
place, the pair is rejected. Where nothing is proven anywhere, six landmarks or more tell how well one affine map fits
them, each predicted by the others: that is no error of the registration, and such a pair is never more than "review".
Fewer tell nothing: rejected.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from virtual_stain.config.registration import RegistrationSettings
from virtual_stain.geometry import Affine2D, Points
from virtual_stain.registration.align import Alignment, Start, align, align_from, to_pair_transform
from virtual_stain.registration.landmarks import Landmarks
from virtual_stain.registration.precision import no_precision
from virtual_stain.registration.working import WorkingPair

_ENOUGH = 6
_SAME_PLACE_PX = 16.0  # working px, where nothing is known in µm


def align_manually(pair: WorkingPair, landmarks: Landmarks, settings: RegistrationSettings) -> Alignment:
    """Refined from the landmarks where windows confirm that, else the affine map through them."""
    given = landmarks.ihc_from_he()
    alignment = align_from(pair, given, settings)
    shown = alignment.shown_by_windows(settings)
    if shown and alignment.evidence.chance_log10 <= settings.max_chance_log10:
        return alignment  # as sure as the search could be
    found = align(pair, settings)
    if found is not None and found.shown_by_windows(settings):
        if _same_place(pair, found, alignment if shown else None, landmarks, settings):
            return dataclasses.replace(found, start=Start.GIVEN)
        return dataclasses.replace(_unrefined(pair, given, alignment), start=Start.CONTRADICTED)
    if shown:
        return alignment
    residual = _leave_one_out(pair, landmarks) if len(landmarks) >= _ENOUGH else None
    return dataclasses.replace(_unrefined(pair, given, alignment), residual_px=residual)


def _unrefined(pair: WorkingPair, given: Affine2D, alignment: Alignment) -> Alignment:
    """The landmarks' own affine map, for a person to see."""
    fixed, moving = pair.fixed.px0_from_work, pair.moving.px0_from_work
    matrix = (moving.inverse() @ Affine2D(moving.target, fixed.target, given.matrix) @ fixed).matrix
    return dataclasses.replace(alignment, matrix=matrix, field=None, precision=no_precision())


def _same_place(
    pair: WorkingPair, found: Alignment, refined: Alignment | None, landmarks: Landmarks, settings: RegistrationSettings
) -> bool:
    """Whether the search found what the landmarks say, or what windows made of them: most places lie nearer than a tile
    may be off."""
    most = settings.tile_p95_um / pair.unit_px if len(pair.scales) == 1 else _SAME_PLACE_PX
    said = [landmarks.ihc_px0]
    if refined is not None:
        said.append(to_pair_transform(pair, refined).to_ihc(landmarks.he_px0))
    back = to_pair_transform(pair, found)

    def apart(ihc_px0: Points) -> float:
        gaps = pair.fixed.px0_from_work.inverse().apply(back.to_he(ihc_px0)) - _he_work(pair, landmarks)
        return float(np.median(np.linalg.norm(gaps, axis=1)))

    return any(apart(points) <= most for points in said)


def _he_work(pair: WorkingPair, landmarks: Landmarks) -> Points:
    return pair.fixed.px0_from_work.inverse().apply(landmarks.he_px0)


def _leave_one_out(pair: WorkingPair, landmarks: Landmarks) -> float:
    """Each landmark against the affine map through the others: root mean square of the distances, working px of the
    H&E."""
    he = _he_work(pair, landmarks)
    ihc = pair.moving.px0_from_work.inverse().apply(landmarks.ihc_px0)
    distances = np.empty(len(he))
    for i in range(len(he)):
        rest = np.arange(len(he)) != i
        back, *_ = np.linalg.lstsq(np.c_[ihc[rest], np.ones(rest.sum())], he[rest], rcond=None)
        distances[i] = np.linalg.norm(np.r_[ihc[i], 1.0] @ back - he[i])
    return float(np.sqrt((distances**2).mean()))
