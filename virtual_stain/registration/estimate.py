"""The global affine: many starts, refined by ECC on small images, the survivors on larger ones; the best agreement
wins.

ECC: Evangelidis & Psarakis 2008, "Parametric image alignment using enhanced correlation coefficient maximization"
(`cv2.findTransformECC`). Its image is tissue density plus local structure; its result is never trusted by itself:
`agreement` judges every candidate on the same two quantities, and the second-best distinct candidate is reported
beside the winner.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from virtual_stain.registration.foreground import Foreground
from virtual_stain.registration.raster import Image, Mask, Matrix, from_index, local_norm, pulled, resized, to_index
from virtual_stain.registration.search import Start

_SIGMA = 12.0
_SMALL_PX, _LARGE_PX = 160.0, 320.0  # square root of the tissue area; finer gains nothing on serial sections
_SMALL_ITERATIONS, _LARGE_ITERATIONS = 50, 60
_BLUR = 5
_STRUCTURE_WEIGHT = 2.0
_SAME, _JUMP = 0.05, 0.1  # of the diagonal: one and the same solution; ECC has left its start
_MAX_STRETCH, _MAX_SCALE = 1.35, 1.35


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A refined affine and how well both sides agree under it."""

    matrix: Matrix
    """moving_from_fixed, working px."""
    overlap: float
    """Dice of the tissue masks, 0–1."""
    density: float
    """Cosine of the densities, 0–1."""
    structure: float
    """Correlation of the local structure where both are tissue, −1–1."""
    others: tuple[Matrix, ...] = ()
    """Affine maps of the same place that it was refined from."""

    @property
    def score(self) -> float:
        return self.overlap + self.density + _STRUCTURE_WEIGHT * self.structure


def refine_starts(fixed: Foreground, moving: Foreground, starts: Sequence[Start], keep: int) -> Iterator[Candidate]:
    """ECC from every start at a small size, then at a larger one when it is asked for; best first, distinct, at most
    `keep`."""
    side = float(np.sqrt(fixed.tissue_px))
    first = _refined(make_level(fixed, moving, _SMALL_PX / side), [s.matrix for s in starts], _SMALL_ITERATIONS)
    large = make_level(fixed, moving, _LARGE_PX / side)
    for candidate in _distinct(first, fixed, keep):
        # the small level decides which candidate is right (its structure is the most specific), the large one
        # where it lies
        finer = refine(large, candidate.matrix, _LARGE_ITERATIONS)
        moved = candidate.matrix if finer is None or apart_fraction(finer, candidate.matrix, fixed) > _JUMP else finer
        yield dataclasses.replace(candidate, matrix=moved, others=(candidate.matrix, *candidate.others))


def refine_given(fixed: Foreground, moving: Foreground, matrix: Matrix) -> Candidate:
    """One start that is believed: ECC may move it by a little, or else it stays as it is."""
    side = float(np.sqrt(fixed.tissue_px))
    small, large = (make_level(fixed, moving, px / side) for px in (_SMALL_PX, _LARGE_PX))
    for level, iterations in ((small, _SMALL_ITERATIONS), (large, _LARGE_ITERATIONS)):
        finer = refine(level, matrix, iterations)
        if finer is None or apart_fraction(finer, matrix, fixed) > _JUMP or not _plausible(finer, matrix):
            continue
        if Candidate(finer, *agreement(level, finer)).score > Candidate(matrix, *agreement(level, matrix)).score:
            matrix = finer
    return Candidate(matrix, *agreement(small, matrix))


def _refined(level: Level, matrices: Sequence[Matrix], iterations: int) -> list[Candidate]:
    found = []
    for matrix in matrices:
        better = refine(level, matrix, iterations)
        if better is None or not _plausible(better, matrix):
            continue
        found.append(Candidate(better, *agreement(level, better), others=(matrix,)))
    return sorted(found, key=lambda c: -c.score)


def _plausible(matrix: Matrix, start: Matrix) -> bool:
    """Sections are stretched by some per cent, not by tens: ECC has run away otherwise."""
    large, little = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    before = np.sqrt(abs(np.linalg.det(start[:2, :2])))
    return bool(
        little > 0 and large / little < _MAX_STRETCH and 1 / _MAX_SCALE < np.sqrt(large * little) / before < _MAX_SCALE
    )


def apart_fraction(a: Matrix, b: Matrix, fixed: Foreground) -> float:
    """Largest distance between two transforms over the fixed image, as a fraction of its diagonal."""
    height, width = fixed.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    gaps = corners @ (a - b)[:2, :2].T + (a - b)[:2, 2]
    scale = np.sqrt(abs(np.linalg.det(b[:2, :2])))
    return float(np.linalg.norm(gaps, axis=1).max() / np.hypot(height, width) / scale)


def _distinct(candidates: Sequence[Candidate], fixed: Foreground, keep: int) -> list[Candidate]:
    kept: list[Candidate] = []
    for candidate in candidates:
        if all(apart_fraction(candidate.matrix, other.matrix, fixed) > _SAME for other in kept):
            kept.append(candidate)
        if len(kept) == keep:
            break
    return kept


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """Both sides shrunk to one size of working pixels."""

    fixed: Image
    moving: Image
    fixed_parts: tuple[Image, Image]
    moving_parts: tuple[Image, Image]
    fixed_mask: Mask
    moving_mask: Mask
    into_fixed: Matrix
    """level px from working px, indices."""
    into_moving: Matrix


def make_level(fixed: Foreground, moving: Foreground, factor: float) -> Level:
    f, f_parts, f_mask, f_into = _reduced(fixed, factor)
    m, m_parts, m_mask, m_into = _reduced(moving, factor)
    return Level(f, m, f_parts, m_parts, f_mask, m_mask, f_into, m_into)


def _reduced(side: Foreground, factor: float) -> tuple[Image, tuple[Image, Image], Mask, Matrix]:
    height, width = side.shape
    factor = min(factor, 1.0)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    density, nuclei = resized(side.density, size), resized(side.nuclei, size)
    mask = resized(side.mask.astype(np.float32), size) > 0.5
    half = np.float32(0.5)
    structure = half * (local_norm(density, _SIGMA, mask) + local_norm(nuclei, _SIGMA, mask))
    presence = np.minimum(density * mask, np.float32(1.5))
    composite = local_norm(half * (density + nuclei), _SIGMA)
    return composite, (presence, structure), mask, np.diag([size[0] / width, size[1] / height, 1.0])


def refine(level: Level, matrix: Matrix, iterations: int) -> Matrix | None:
    """ECC from `matrix` (fixed px → moving px at working resolution); None when it diverges."""
    start = to_index(level.into_moving @ matrix @ np.linalg.inv(level.into_fixed))[:2].astype(np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, iterations, 1e-5)
    everywhere = np.full(level.moving.shape, 255, np.uint8)  # OpenCV asks for the mask of the moving image
    try:
        _, warp = cv2.findTransformECC(level.fixed, level.moving, start, cv2.MOTION_AFFINE, stop, everywhere, _BLUR)
    except cv2.error:  # "the images may be uncorrelated": this start leads nowhere
        return None
    found = np.vstack([np.asarray(warp, np.float64), [0.0, 0.0, 1.0]])
    if not np.isfinite(found).all():
        return None
    result: Matrix = np.linalg.inv(level.into_moving) @ from_index(found) @ level.into_fixed
    return result


def agreement(level: Level, matrix: Matrix) -> tuple[float, float, float]:
    """(overlap, density, structure): Dice of the masks, cosine of the densities, correlation of the structure in
    both."""
    warp = level.into_moving @ matrix @ np.linalg.inv(level.into_fixed)
    size = (level.fixed.shape[1], level.fixed.shape[0])
    mask = pulled(level.moving_mask.astype(np.float32), warp, size) > 0.5
    density, structure = (pulled(i, warp, size) for i in level.moving_parts)
    common = mask & level.fixed_mask
    scale = max(abs(float(np.linalg.det(warp[:2, :2]))), 1e-6)
    total = np.count_nonzero(level.fixed_mask) + np.count_nonzero(level.moving_mask) / scale
    dice = 2.0 * np.count_nonzero(common) / max(total, 1.0)
    norm = float(np.linalg.norm(level.fixed_parts[0]) * np.linalg.norm(level.moving_parts[0])) / np.sqrt(scale)
    cosine = float((level.fixed_parts[0] * density).sum()) / max(norm, 1e-6)
    return dice, cosine, correlation(level.fixed_parts[1][common], structure[common])


def correlation(a: Image, b: Image) -> float:
    """Pearson's correlation of two float32[N]; 0 for fewer than 30 values or flat ones."""
    if len(a) < 30:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-6))
