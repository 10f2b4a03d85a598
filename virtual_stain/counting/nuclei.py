"""Nuclei by their outlines: one rule for pale blue and for dark brown ones.

The signal is the logarithm of the summed nuclear optical density beyond the slide's typical negative nucleus, so that
a dark positive nucleus has edges like its pale neighbours. Points to look around are maxima of the Laplacian of
Gaussian at several radii (Lindeberg, Int. J. Comput. Vis. 30, 1998): far more than there are nuclei. Around each of
them, and once more around the middle of what that finds, the best closed outline is traced (counting/contours.py).
Its score is how much of it is an edge, and how clear that edge is; of outlines that claim the same place the best
stays (counting/select_contours.py), and so touching nuclei part.

No nucleus depends on anything further than 64 µm from its middle: 32 µm for the choice between neighbours, twice the
largest radius for both looks (18 µm), three sigmas of the largest blob (13 µm).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.contours import F32, F64, Contours, Rays, Shapes, on_grid, shapes, trace
from virtual_stain.counting.select_contours import choose

_SEED_RADII_UM = (2.0, 2.8, 4.0, 5.6)  # half an octave apart: every nuclear radius lies near one of them
_SEED_RESPONSE = np.float32(0.05)  # a typical negative nucleus answers with about 0.7
_FINE_UM = 0.5  # smoothing before edges are looked at: below the smallest detail of an outline, above noise
_TRUNCATE = 3.0  # Gaussians end here, in sigmas: a finite reach makes windows exact
_DISC = 2 * math.exp(-1)  # response of the normalised Laplacian to a disc of the matched radius and contrast 1
_FIRST_LOOK_ANGLES, _FIRST_LOOK_STEP_UM = 16, 0.75
_ANGLES, _STEP_UM = 32, 0.5
_CLEAR_EDGE = np.float32(0.3)  # fall of the signal across an edge that is beyond doubt; typical nucleus: 0.7
_SOME_EDGE = np.float32(0.04)  # … and one that is there at all
_FULL_RADIUS_UM = 3.0  # smaller outlines must have the clearer edges: clumps of chromatin have outlines too
_SURROUND_UM = 1.5  # beyond the outline: where the surroundings are measured
_SURROUND_QUANTILE = 0.25  # … on the quarter of it that has no neighbour
_POLYGON_SHIFT = 4


@dataclass(frozen=True, slots=True, eq=False)
class Nuclei:
    """N outlines in the working frame."""

    labels: npt.NDArray[np.int32]
    """int32[h, w]: 0 outside, 1…N inside nucleus i − 1; where two overlap, the one with the better outline."""
    polygon: Sequence[F64]
    """N outlines float64[A, 2] (x, y) in working pixels, pixel centres at + 0.5, open, positive shoelace."""
    centroid: F64
    """float64[N, 2]: of the outline, same frame."""
    shape: Shapes
    contrast_od: F32
    """float32[N]: signal above the surroundings."""
    edge_score: F32
    """float32[N]: how complete and clear the outline is, 0–1."""

    @property
    def count(self) -> int:
        return len(self.contrast_od)


def _blur(image: F32, sigma_px: float) -> F32:
    size = 2 * math.ceil(_TRUNCATE * sigma_px) + 1
    return np.asarray(cv2.GaussianBlur(image, (size, size), sigma_px, borderType=cv2.BORDER_REFLECT_101), np.float32)


def _blob(signal: F32, radius_um: float, mpp: float) -> F32:
    """Normalised Laplacian for discs of one radius; a matched disc answers with its contrast."""
    sigma = radius_um / math.sqrt(2) / mpp
    laplacian = cv2.Laplacian(_blur(signal, sigma), cv2.CV_32F, ksize=1, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(laplacian, np.float32) * np.float32(-sigma * sigma / _DISC)


def seed_points(compressed: F32, mpp: float) -> F64:
    """float64[N, 2]: (x, y), whole pixels: local maxima of the blob response at every seed radius."""
    is_seed = np.zeros(compressed.shape, bool)
    for radius in _SEED_RADII_UM:
        response = _blob(compressed, radius, mpp)
        is_seed |= (response >= cv2.dilate(response, np.ones((3, 3), np.uint8))) & (response > _SEED_RESPONSE)
    row, column = np.nonzero(is_seed)
    return np.stack([column, row], axis=1).astype(np.float64)


def find_nuclei(signal: F32, typical_od: float, mpp: float, settings: CountingSettings) -> Nuclei:
    """Outlines of all nuclei.

    `signal`: float32[h, w], hematoxylin + DAB optical density (summed over the channels), working pixels of `mpp`
    µm; `typical_od`: contrast of this slide's typical negative nucleus.
    """
    compressed = np.log1p(signal / np.float32(typical_od)).astype(np.float32)
    fine = _blur(compressed, _FINE_UM / mpp)
    points = seed_points(compressed, mpp)
    low, high = settings.min_radius_um, settings.max_radius_um
    first = trace(fine, points, mpp, Rays.between(low, high, _FIRST_LOOK_STEP_UM, _FIRST_LOOK_ANGLES))
    points = _middles(first.select(_score(first, mpp)[0] > 0.5 * settings.min_edge_score), mpp, signal.shape)
    found = trace(fine, points, mpp, Rays.between(low, high, _STEP_UM, _ANGLES))
    score, area_px = _score(found, mpp)
    area = area_px * mpp * mpp
    likely = (score >= settings.min_edge_score) & (area >= settings.min_area_um2) & (area <= settings.max_area_um2)
    found, score = found.select(likely), score[likely]
    chosen = choose(found, score, mpp, settings.overlap_share)
    return _measured(signal, found.select(chosen), score[chosen], typical_od, mpp, settings)


def _score(contours: Contours, mpp: float) -> tuple[F32, F64]:
    """float32[N]: clearness × completeness × size of every outline, 0–1; and its area, px²."""
    clear = np.clip(contours.edge / _CLEAR_EDGE, -1, 1).mean(axis=1)
    complete = (contours.edge > _SOME_EDGE).mean(axis=1, dtype=np.float32)
    area = shapes(contours.corners(mpp)).area_px
    size = np.minimum(np.sqrt(area / math.pi) * mpp / _FULL_RADIUS_UM, 1)
    return np.maximum(clear * complete * size, 0).astype(np.float32), area


def _middles(contours: Contours, mpp: float, shape: tuple[int, ...]) -> F64:
    """The middles of outlines, on a grid of half pixels, each once; only those in the image."""
    middle = on_grid(contours.centre + shapes(contours.corners(mpp)).middle, 2)
    middle = np.unique(middle, axis=0).reshape(-1, 2)
    inside = ((middle >= 0) & (middle <= (shape[1] - 1, shape[0] - 1))).all(axis=1)
    return np.asarray(middle[inside], np.float64)


def _measured(
    signal: F32, found: Contours, score: F32, typical_od: float, mpp: float, settings: CountingSettings
) -> Nuclei:
    labels = _paint(found, mpp, signal.shape)
    n = len(found)
    at = np.flatnonzero(labels)
    owner = labels.ravel()[at] - 1
    pixels = np.bincount(owner, minlength=n)
    level = np.bincount(owner, weights=signal.ravel()[at], minlength=n) / np.maximum(pixels, 1)
    contrast = level - _surroundings(signal, found, mpp)
    keep = (contrast >= settings.min_contrast_od + settings.level_contrast * typical_od) & (pixels > 0)
    number = np.concatenate([[0], np.where(keep, np.cumsum(keep), 0)]).astype(np.int32)
    kept = found.select(keep)
    shape = shapes(kept.corners(mpp))
    return Nuclei(
        labels=number[labels],
        polygon=list(kept.polygons(mpp) + 0.5),
        centroid=kept.centre + shape.middle + 0.5,
        shape=shape,
        contrast_od=contrast[keep].astype(np.float32),
        edge_score=score[keep],
    )


def _paint(contours: Contours, mpp: float, shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Pixels of every outline; the first of `contours` lies on top."""
    labels = np.zeros(shape, np.int32)
    # fillPoly also paints what its border touches, half a pixel more: drawn smaller by as much
    inner = Contours(contours.centre, np.maximum(contours.radius_um - np.float32(mpp / 2), 0), contours.edge)
    scale = 2**_POLYGON_SHIFT
    corners = (np.rint(inner.corners(mpp) * scale) + inner.centre[:, None] * scale).astype(np.int32)
    for i in range(len(corners) - 1, -1, -1):
        cv2.fillPoly(labels, [corners[i]], (i + 1,), shift=_POLYGON_SHIFT)
    return labels


def _surroundings(signal: F32, contours: Contours, mpp: float) -> F64:
    """float64[N]: the signal just beyond every outline, where no neighbour is."""
    smooth = _blur(signal, _FINE_UM / mpp)
    wider = Contours(contours.centre, contours.radius_um + np.float32(_SURROUND_UM), contours.edge)
    column, row = np.moveaxis(np.rint(wider.polygons(mpp)).astype(np.intp), 2, 0)
    values = smooth[np.clip(row, 0, signal.shape[0] - 1), np.clip(column, 0, signal.shape[1] - 1)]
    return np.asarray(np.quantile(values, _SURROUND_QUANTILE, axis=1), np.float64)
