"""Points to look for a nucleus around: far more than there are nuclei.

Two kinds, because nuclei look in two ways. Solid ones are maxima of the Laplacian of Gaussian at four radii (Lindeberg,
Int. J. Comput. Vis. 30, 1998). Vesicular ones, a rim of chromatin around a pale middle, answer to that on their rim
only; but their border faces its middle from all sides, so that every edge votes for the points that lie a nuclear
radius away in the direction it faces (fast radial symmetry, Loy & Zelinsky, IEEE PAMI 25, 2003).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.counting.contours import F32, F64

FINE_UM = 0.5
"""Smoothing before edges are looked at: below the smallest detail of an outline, above noise."""

_SEED_RADII_UM = (2.0, 2.8, 4.0, 5.6)  # half an octave apart: every nuclear radius lies near one of them
_SEED_RESPONSE = np.float32(0.05)  # a typical negative nucleus answers with about 0.7
_TRUNCATE = 3.0  # Gaussians end here, in sigmas: a finite reach makes windows exact
_DISC = 2 * math.exp(-1)  # response of the normalised Laplacian to a disc of the matched radius and contrast 1
_VOTE_RADII_UM = (4.0, 6.0)  # nuclei large enough to show a pale middle
_VOTE_FROM = np.float32(0.04)  # rise of the signal per µm that is an edge; a typical nucleus in focus: 0.3
_VOTE_FULL = np.float32(0.15)  # … from which it has a full vote: a dark nucleus is not more of a circle
_VOTE_SMOOTH_UM = 1.0
_VOTES = np.float32(0.3)  # votes per radius that make a seed: about a third of a circle's
_VOTE_APART_UM = 1.5


def blur(image: F32, sigma_px: float) -> F32:
    """Gaussian of finite reach."""
    size = 2 * math.ceil(_TRUNCATE * sigma_px) + 1
    return np.asarray(cv2.GaussianBlur(image, (size, size), sigma_px, borderType=cv2.BORDER_REFLECT_101), np.float32)


def seed_points(compressed: F32, fine: F32, mpp: float) -> tuple[F64, F64]:
    """float64[N, 2]: all points (x, y), whole pixels; float64[M, 2]: those that edges face, the middles of vesicular
    nuclei among them. `compressed`: float32[h, w], logarithmic signal; `fine`: it, smooth."""
    is_seed = np.zeros(compressed.shape, bool)
    for radius in _SEED_RADII_UM:
        response = _blob(compressed, radius, mpp)
        is_seed |= _peaks(response, 1) & (response > _SEED_RESPONSE)
    votes = _votes(fine, mpp)
    faced = _peaks(votes, round(_VOTE_APART_UM / mpp)) & (votes > _VOTES)
    return _points(is_seed | faced), _points(faced)


def _points(where: npt.NDArray[np.bool_]) -> F64:
    row, column = np.nonzero(where)
    return np.stack([column, row], axis=1).astype(np.float64)


def _peaks(image: F32, reach: int) -> npt.NDArray[np.bool_]:
    return np.asarray(image >= cv2.dilate(image, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)), np.bool_)


def _blob(signal: F32, radius_um: float, mpp: float) -> F32:
    """Normalised Laplacian for discs of one radius; a matched disc answers with its contrast."""
    sigma = radius_um / math.sqrt(2) / mpp
    laplacian = cv2.Laplacian(blur(signal, sigma), cv2.CV_32F, ksize=1, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(laplacian, np.float32) * np.float32(-sigma * sigma / _DISC)


def _votes(fine: F32, mpp: float) -> F32:
    """float32[h, w]: how many edges face a point from a nuclear radius away, per µm of the circle and radius."""
    across, down = (
        cv2.Sobel(fine, cv2.CV_32F, dx, 1 - dx, ksize=3, scale=1 / 8 / mpp, borderType=cv2.BORDER_REFLECT_101)
        for dx in (1, 0)
    )
    steepness = np.sqrt(across * across + down * down)
    votes_here = steepness > _VOTE_FROM
    steep = steepness[votes_here]
    weight = np.minimum(steep / _VOTE_FULL, np.float32(1)).astype(np.float64)
    unit_x, unit_y = across[votes_here] / steep, down[votes_here] / steep
    reach = math.ceil(max(_VOTE_RADII_UM) / mpp)  # room for the votes that fall outside
    padded = np.pad(votes_here, reach)
    voter, width = np.flatnonzero(padded), padded.shape[1]
    votes = np.zeros(padded.size)
    for radius in _VOTE_RADII_UM:
        # whole steps from the voter, so that a vote falls on the same place in every window
        x, y = (np.rint(unit * np.float32(radius / mpp)).astype(np.intp) for unit in (unit_x, unit_y))
        votes += np.bincount(voter + y * width + x, weight / radius, padded.size)
    inner = votes.reshape(padded.shape)[reach:-reach, reach:-reach]
    return blur(inner.astype(np.float32), _VOTE_SMOOTH_UM / mpp)
