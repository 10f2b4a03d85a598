"""Nuclei as blobs of the summed nuclear optical density: one rule for pale blue and for dark brown ones.

The signal is clipped at a few times the slide's typical negative nucleus, so that a dark positive nucleus is a blob
like its pale neighbours and its halo does not hide them. Blobs are maxima of the scale-normalised Laplacian of
Gaussian over the radii that nuclei have (Lindeberg, Int. J. Comput. Vis. 30, 1998); every pixel belongs to the
maximum that the steepest ascent from it reaches, so that touching nuclei part at the saddle and no pixel depends on
anything further away than its own nucleus and the filters' reach. The outline is half way between the
surroundings and the nucleus' own level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings

F32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.int32]

_CLIP = 1.0  # typical negative nuclei: from here on the signal grows like its logarithm
_FINE_UM = 0.6  # smoothing before outlines are drawn: below the smallest detail of an outline, above noise
_SURROUND_UM = 7.0  # half the side of the surroundings that contrast is measured against: beyond one nucleus
_HOLE_UM2 = 20.0  # a pale centre of a vesicular nucleus
_TRUNCATE = 3.0  # Gaussians end here, in sigmas: a finite reach makes windows exact
_DISC = 2 * math.exp(-1)  # response of the normalised Laplacian to a disc of the matched radius and contrast 1


@dataclass(frozen=True, slots=True, eq=False)
class Nuclei:
    """Outlines in the working frame."""

    labels: npt.NDArray[np.int32]
    """int32[h, w]: 0 outside, 1…N inside nucleus i − 1."""
    contrast_od: F32
    """float32[N]: signal above the surroundings."""

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


def blob_response(signal: F32, mpp: float, settings: CountingSettings) -> F32:
    """float32[h, w]: contrast of the blob that best fits around each pixel, optical density."""
    low, high = settings.min_radius_um, settings.max_radius_um
    steps = math.ceil(math.log2(high / low) * 2)  # two radii an octave
    radii = [low * (high / low) ** (i / max(steps, 1)) for i in range(steps + 1)]
    best = _blob(signal, radii[0], mpp)
    for radius in radii[1:]:
        np.maximum(best, _blob(signal, radius, mpp), out=best)
    return best


def ascend(field: F32) -> Index:
    """int32[h, w]: flat index of the maximum that the steepest ascent over the 8 neighbours reaches."""
    h, w = field.shape
    padded = np.full((h + 2, w + 2), -np.inf, np.float32)
    padded[1:-1, 1:-1] = field
    best = field.copy()
    step = np.zeros((h, w), np.int32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if dy or dx:
                neighbour = padded[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w]
                higher = neighbour > best
                np.copyto(best, neighbour, where=higher)
                np.copyto(step, np.int32(dy * w + dx), where=higher)
    parent = np.arange(h * w, dtype=np.int32) + step.ravel()
    while True:
        further = parent[parent]
        if np.array_equal(further, parent):
            return parent.reshape(h, w)
        parent = further


def _merge_basins(field: F32, top: Index, threshold: float, saddle_share: float, depth: float) -> Index:
    """Joins basins of one nucleus: neighbours whose saddle reaches `saddle_share` of the lower of their peaks."""
    flat = field.ravel()
    pairs, saddles = [], []
    for first, second in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1, :], np.s_[1:, :]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    ):
        a, b = top[first], top[second]
        saddle = np.minimum(field[first], field[second])
        touch = (a != b) & (saddle > threshold * saddle_share)
        pairs.append(np.stack([np.minimum(a[touch], b[touch]), np.maximum(a[touch], b[touch])], axis=1))
        saddles.append(saddle[touch])
    pair, saddle = np.concatenate(pairs), np.concatenate(saddles)
    lower = np.minimum(flat[pair[:, 0]], flat[pair[:, 1]])
    share = saddle / np.maximum(lower, 1e-6)
    share = np.where(lower - saddle < depth, np.maximum(share, saddle_share), share)
    keep = share >= saddle_share
    root: dict[int, int] = {}
    order = np.argsort(-share[keep], kind="stable")
    for a, b in pair[keep][order].tolist():
        ra, rb = _find(root, a), _find(root, b)
        if ra != rb:
            # the higher peak names the nucleus
            winner, loser = (ra, rb) if (flat[ra], -ra) >= (flat[rb], -rb) else (rb, ra)
            root[loser] = winner
    if not root:
        return top
    merged = np.arange(top.size, dtype=np.int32)
    for peak in root:
        merged[peak] = _find(root, peak)
    return merged[top]


def _find(root: dict[int, int], peak: int) -> int:
    while peak in root:
        peak = root[peak]
    return peak


def find_nuclei(signal: F32, typical_od: float, mpp: float, settings: CountingSettings) -> Nuclei:
    """Outlines of all nuclei.

    `signal`: float32[h, w], hematoxylin + DAB optical density (summed over the channels), working pixels of `mpp`
    µm; `typical_od`: contrast of this slide's typical negative nucleus.
    """
    clip = np.float32(_CLIP * typical_od)
    clipped = clip * np.log1p(signal / clip)
    field = blob_response(clipped, mpp, settings)
    threshold = settings.relative_contrast * typical_od
    top = _merge_basins(field, ascend(field), threshold, settings.merge_saddle, settings.merge_depth * typical_od)
    is_peak = np.zeros(field.size, bool)
    is_peak[top.ravel()] = True
    good = is_peak & (field.ravel() >= threshold)
    basins = np.where(good, np.cumsum(good), 0).astype(np.int32)[top]
    return _outline(signal, clipped, field, basins, typical_od, mpp, settings)


def _outline(
    signal: F32,
    clipped: F32,
    field: F32,
    basins: npt.NDArray[np.int32],
    typical_od: float,
    mpp: float,
    settings: CountingSettings,
) -> Nuclei:
    count = int(basins.max(initial=0))
    clip = np.float32(_CLIP * typical_od)
    fine = _blur(clipped, _FINE_UM / mpp)
    around = _surroundings(fine, mpp)
    level, ground = _means(np.where(field > 0, basins, 0), count, fine, around)
    half, high = ground + 0.5 * (level - ground), level
    cut, sure = (np.concatenate([[np.inf], v]).astype(np.float32) for v in (half, high))
    edge = _blob(clipped, settings.edge_radius_um, mpp)
    mask = (basins > 0) & (fine > cut[basins]) & ((edge > 0) | (fine > sure[basins]))
    labels = _largest_part(np.where(mask, basins, 0), count)
    labels = _fill_holes(labels, _HOLE_UM2 / mpp / mpp)
    # … undoing the logarithm: contrast is told in plain optical density
    level, ground = _means(labels, count, signal, clip * np.expm1(around / clip))
    contrast = level - ground
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:] * mpp * mpp
    keep = (area >= settings.min_area_um2) & (area <= settings.max_area_um2)
    keep &= contrast >= settings.min_contrast_od + settings.level_contrast * typical_od
    number = np.concatenate([[0], np.where(keep, np.cumsum(keep), 0)]).astype(np.int32)
    return Nuclei(number[labels], contrast[keep].astype(np.float32))


def _means(
    labels: npt.NDArray[np.int32], count: int, first: F32, second: F32
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Means over labels 1…count of two images; 0 where a label has no pixel."""
    at = np.flatnonzero(labels)
    owner = labels.ravel()[at] - 1
    n = np.maximum(np.bincount(owner, minlength=count), 1)
    a, b = (np.bincount(owner, weights=image.ravel()[at], minlength=count) / n for image in (first, second))
    return a, b


def _surroundings(fine: F32, mpp: float) -> F32:
    """The level between nuclei: the least of a square larger than a nucleus, smoothed."""
    size = 2 * round(_SURROUND_UM / mpp) + 1
    lowest = cv2.erode(fine, np.ones((size, size), np.uint8), borderType=cv2.BORDER_REFLECT_101)
    return _blur(np.asarray(lowest, np.float32), _SURROUND_UM / 2 / mpp)


def _largest_part(labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int32]:
    """Keeps the largest connected part of every label 1…count."""
    # parts of different labels that touch must not join: cut along label borders first
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= (labels[:, 1:] != labels[:, :-1]) & (labels[:, :-1] > 0)
    border[1:, :] |= (labels[1:, :] != labels[:-1, :]) & (labels[:-1, :] > 0)
    n, parts = cv2.connectedComponents(((labels > 0) & ~border).astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    size = np.bincount(parts.ravel(), minlength=n)
    owner = np.zeros(n, np.int64)
    owner[parts.ravel()] = labels.ravel()
    owner[0] = 0
    largest = np.zeros(count + 1, np.int64)
    order = np.lexsort((-np.arange(n), size))  # the last to be written is the largest, of equal ones the first
    largest[owner[order]] = order
    kept = np.where((largest[labels] == parts) & (labels > 0) & ~border, labels, 0)
    # the cut itself goes back to the part that it was cut from
    for to, source in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:, :], np.s_[:-1, :])):
        give = border[to] & (kept[source] == labels[to]) & (kept[to] == 0)
        kept[to][give] = labels[to][give]
    return kept.astype(np.int32)


def _fill_holes(labels: npt.NDArray[np.int32], limit_px: float) -> npt.NDArray[np.int32]:
    """Gives holes of at most `limit_px` pixels to the one nucleus around them; gaps between nuclei stay open."""
    n, parts, stats, _ = cv2.connectedComponentsWithStats((labels == 0).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] <= limit_px
    at = np.flatnonzero(small[parts] & (labels == 0))
    if len(at) == 0:
        return labels
    kernel = np.ones((3, 3), np.uint8)
    number = labels.astype(np.float32)  # whole numbers below 2²⁴
    highest = np.asarray(cv2.dilate(number, kernel), np.float32)
    lowest = np.asarray(cv2.erode(np.where(number > 0, number, np.float32(2**24)), kernel), np.float32)
    part, low, high = parts.ravel()[at], lowest.ravel()[at], highest.ravel()[at]
    around_low, around_high = np.full(n, 2.0**24), np.zeros(n)
    np.minimum.at(around_low, part, low)
    np.maximum.at(around_high, part, high)
    one = around_low == around_high
    filled = labels.copy()
    filled.ravel()[at] = np.where(one[part], around_high[part], 0).astype(np.int32)
    return filled
