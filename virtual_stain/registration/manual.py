"""From a person's landmarks to an alignment, for the pair that the search does not find.

Landmarks are a start: the refinement and its evidence follow as for any other, and where held-out windows confirm it,
the verdict rests on them. Where they do not, six landmarks or more can still tell the error of the affine map through
them, each predicted by the others; such a pair is never more than "review". Fewer prove nothing: rejected.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from virtual_stain.config.registration import RegistrationSettings
from virtual_stain.geometry import Affine2D
from virtual_stain.registration.align import Alignment, Start, align_from
from virtual_stain.registration.landmarks import Landmarks
from virtual_stain.registration.precision import Precision
from virtual_stain.registration.working import WorkingPair

_ENOUGH = 6
_GROWTH = 0.02


def align_manually(pair: WorkingPair, landmarks: Landmarks, settings: RegistrationSettings) -> Alignment:
    """Refined from the landmarks where windows confirm that, else the affine map through them."""
    given = landmarks.ihc_from_he()
    alignment = align_from(pair, given, settings)
    if alignment.shown_by_windows(settings):
        return alignment
    fixed, moving = pair.fixed.px0_from_work, pair.moving.px0_from_work
    matrix = (moving.inverse() @ Affine2D(moving.target, fixed.target, given.matrix) @ fixed).matrix
    alone = dataclasses.replace(alignment, matrix=matrix, field=None)
    if len(landmarks) < _ENOUGH:
        return alone
    return dataclasses.replace(alone, precision=_measured(pair, landmarks), start=Start.MEASURED)


def _measured(pair: WorkingPair, landmarks: Landmarks) -> Precision:
    """Each landmark against the affine map through the others; lengths in working px of the H&E."""
    he = pair.fixed.px0_from_work.inverse().apply(landmarks.he_px0)
    ihc = pair.moving.px0_from_work.inverse().apply(landmarks.ihc_px0)
    distances = np.empty(len(he))
    for i in range(len(he)):
        rest = np.arange(len(he)) != i
        back, *_ = np.linalg.lstsq(np.c_[ihc[rest], np.ones(rest.sum())], he[rest], rcond=None)
        distances[i] = np.linalg.norm(np.r_[ihc[i], 1.0] @ back - he[i])
    sigma = float(np.sqrt((distances**2).mean() / 2))
    gaps = np.linalg.norm(he[:, None] - he[None], axis=2) + np.diag(np.full(len(he), np.inf))
    ones, spacing = np.ones(len(he)), float(np.median(gaps.min(axis=1)))
    # people's landmarks have no part that only windows would meet
    return Precision(he, distances, sigma * ones, ones, ones, sigma, sigma, 1.0, spacing, _GROWTH)
