"""Nuclei by their outlines: one rule for pale blue and for dark brown ones.

The signal is the logarithm of the summed nuclear optical density beyond the slide's typical negative nucleus, so that
a dark positive nucleus has edges like its pale neighbours. Around each of many points (counting/seeds.py) the best
closed outline is looked for (counting/outline_search.py), around pale middles once more as of a vesicular nucleus
(counting/vesicles.py). What an outline encloses must be darker than its surroundings, all but a pale middle: an empty
place beside a dark fibre is no nucleus, but one with a closed wall around it is. How much darker follows from the
slide's typical nucleus, and from the outline: a slide may have dark lymphocytes and pale tumour nuclei, and what is
pale needs the clearer outline. Of outlines that claim the same place the best stays (counting/select_contours.py), wide
and convex ones before narrow and hollow ones: so touching nuclei part, and pieces of a rim lose against the whole. Of
a nucleus that the image's border cuts, only what is in the image counts.

No nucleus depends on anything further than 64 µm from its middle: 32 µm for the choice between neighbours, twice the
largest radius for both looks (18 µm), three sigmas of the largest blob (13 µm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.contours import F32, F64, Contours, Shapes, nearest_pixel, shapes, solidity
from virtual_stain.counting.outline_search import outlines_around, surroundings
from virtual_stain.counting.seeds import FINE_UM, blur, seed_points
from virtual_stain.counting.select_contours import choose
from virtual_stain.counting.vesicles import find_vesicles

_FULL_WIDTH_UM = 6.0  # among rivals, narrower outlines count less: most nuclei are wider, pieces of a rim are not
_HOLLOW, _CONVEX = 0.5, 0.95  # … and so do hollow ones: solidity that is no nucleus', and that is beyond doubt
_SURE_FROM, _SURE = 0.3, 0.5  # scores from which an outline's contrast matters less, and least:
_SURE_NEEDS = 0.5  # then this share of it is enough …
_LARGE_FROM_UM, _LARGE_UM = 8.0, 9.0  # … where the nucleus is wider than lymphocytes: small pale shapes are no nuclei
_RINGS = (0.354, 0.612, 0.791, 0.935)  # radii that halve four rings of equal area
_EVERY = 2  # rays between sampled ones
_WALL = slice(2, None)  # those of them that a wall of chromatin lies in
_FILLED = 0.75  # share of the inside that must be darker than the surroundings …
_FILLED_LEVEL = 0.5  # … by this share of the contrast that a nucleus needs
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


def find_nuclei(signal: F32, typical_od: float, mpp: float, settings: CountingSettings) -> Nuclei:
    """Outlines of all nuclei.

    `signal`: float32[h, w], hematoxylin + DAB optical density (summed over the channels), working pixels of `mpp`
    µm; `typical_od`: contrast of this slide's typical negative nucleus.
    """
    compressed = np.log1p(signal / np.float32(typical_od)).astype(np.float32)
    fine, smooth = blur(compressed, FINE_UM / mpp), blur(signal, FINE_UM / mpp)
    points, faced = seed_points(compressed, fine, mpp)
    found, score = outlines_around(points, fine, mpp, settings)
    need = _needed_contrast(found, score, typical_od, settings)
    filled = _filled(smooth, found, mpp, _FILLED_LEVEL * need) >= _FILLED
    vesicles, vesicle_score = find_vesicles(faced, fine, smooth, typical_od, mpp, settings)
    found = found.select(filled).joined(vesicles)
    score = np.concatenate([score[filled], vesicle_score])
    need = np.concatenate([need[filled], np.full(len(vesicles), -np.inf)])  # their wall had to stand out
    corners = found.corners(mpp)
    shape = shapes(corners)
    chosen = choose(found, _rank(shape, solidity(corners), score, mpp), mpp, settings.overlap_share)
    return _measured(signal, smooth, found.select(chosen), shape.select(chosen), score[chosen], mpp, need[chosen])


def _needed_contrast(found: Contours, score: F32, typical_od: float, settings: CountingSettings) -> F64:
    """float64[N]: that an outline of this score needs; a clear and large one is a nucleus although it is pale."""
    share = settings.level_contrast * typical_od
    need = share + min(share, settings.min_contrast_od)  # on the palest slides all that nuclei have is that little
    width_um = 2 * found.radius_um.mean(axis=1, dtype=np.float64)
    sure = np.clip((score.astype(np.float64) - _SURE_FROM) / (_SURE - _SURE_FROM), 0, 1)
    sure *= np.clip((width_um - _LARGE_FROM_UM) / (_LARGE_UM - _LARGE_FROM_UM), 0, 1)
    return np.asarray(need * (1 - (1 - _SURE_NEEDS) * sure), np.float64)


def _rank(shape: Shapes, solid: F64, score: F32, mpp: float) -> F32:
    """float32[N]: by what rivals are compared: the score, less where the outline is narrow or hollow (`solid`:
    float64[N], its solidity)."""
    width = np.minimum(shape.width_px * mpp / _FULL_WIDTH_UM, 1)
    convex = np.clip((solid - _HOLLOW) / (_CONVEX - _HOLLOW), 0, 1)
    return np.asarray(score * width * convex, np.float32)


def _filled(smooth: F32, contours: Contours, mpp: float, level: F64) -> F64:
    """float64[N]: share of the inside of every outline whose signal is more than `level` above the surroundings.

    1 where these places make a closed wall: what it encloses belongs to it.
    """
    corners = contours.corners(mpp)[:, ::_EVERY]
    weight = np.square(corners).sum(axis=2)  # the area of a sector grows with its radius squared
    at = contours.centre[:, None, None] + corners[:, :, None] * np.array(_RINGS)[:, None]
    column, row = np.moveaxis(nearest_pixel(at), 3, 0)
    inside = smooth[np.clip(row, 0, smooth.shape[0] - 1), np.clip(column, 0, smooth.shape[1] - 1)]
    dark = inside > (surroundings(smooth, contours, mpp) + level)[:, None, None]
    share = (dark.mean(axis=2) * weight).sum(axis=1) / weight.sum(axis=1)
    closed = dark[:, :, _WALL].any(axis=2).all(axis=1)
    return np.asarray(np.where(closed, 1.0, share), np.float64)


def _measured(signal: F32, smooth: F32, found: Contours, shape: Shapes, score: F32, mpp: float, need: F64) -> Nuclei:
    """The outlines whose mean signal is at least `need` above the surroundings."""
    labels = _paint(found, mpp, signal.shape)
    n = len(found)
    at = np.flatnonzero(labels)
    owner = labels.ravel()[at] - 1
    pixels = np.bincount(owner, minlength=n)
    level = np.bincount(owner, weights=signal.ravel()[at], minlength=n) / np.maximum(pixels, 1)
    contrast = level - surroundings(smooth, found, mpp)
    keep = (contrast >= need) & (pixels > 0)
    number = np.concatenate([[0], np.where(keep, np.cumsum(keep), 0)]).astype(np.int32)
    kept = found.select(keep)
    shape = shape.select(keep)
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
