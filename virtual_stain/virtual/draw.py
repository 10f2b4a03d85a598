"""Two pictures of what the generator says, under one reference stain.

expected   the densities as they are predicted. They are means: where a third of the cells is positive, every nucleus is
           tinted by a third.
drawn      every tumour nucleus is wholly positive or negative. As many are positive as the generator expects around
           them; which ones is an illustration.

Both are drawn on the nuclei that the H&E shows. Where it shows none, none is drawn, whatever the generator says.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.counting.optical_density import PUBLISHED_DAB, PUBLISHED_HEMATOXYLIN
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.virtual.he_nuclei import HeNuclei
from virtual_stain.virtual.maps import F32, PLACE_PX, Maps, Window

REFERENCE = SlideStain(
    background=(243.0, 243.0, 243.0),
    hematoxylin=PUBLISHED_HEMATOXYLIN,
    dab=PUBLISHED_DAB,
    typical_od=0.5,
    haze_od=0.0,
    positive_od=0.2,
    doubtful_od=(0.2, 0.2),
)
"""The stain that every virtual picture has: no laboratory's."""
_DAB_OD = 0.55  # mean of a positive nucleus under the reference stain: far from the cut-off, so none is doubtful
_GROUND_SHARE = 0.12  # what of the tissue between the nuclei is drawn
_GROUND_SIGMA_UM = 3.0  # … and how smooth, so that it holds nothing that looks like a nucleus
_GROUND_OD = 0.12
_NUCLEUS_RANGE = (0.6, 1.6)  # densities inside a nucleus, of the typical one's: its texture, without losing it
_AROUND_PLACES = 9  # side of what lies around a nucleus: 36 px
_DITHER_UM = 8.0  # about the distance of nuclei: neighbours fall on different steps of the sequence
_DITHER = (0.7548776662466927, 0.5698402909980532)  # 1/ρ, 1/ρ² of ρ³ = ρ + 1: evenly spread in two dimensions


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """The picture of a window."""

    rgb: npt.NDArray[np.uint8]
    """uint8[h, w, 3]."""
    positive: npt.NDArray[np.bool_]
    """bool[N], in the order of the H&E's nuclei: drawn brown; only tumour nuclei are."""


def slide_seed(content_sha256: str) -> float:
    """0–1: where a slide's sequence begins, so that the same slide gives the same picture."""
    return int(hashlib.sha256(f"virtual {content_sha256}".encode()).hexdigest()[:12], 16) / 16**12


def thresholds(xy: npt.NDArray[np.float64], window: Window, mpp: float, seed: float) -> npt.NDArray[np.float64]:
    """float64[N], 0–1: a nucleus is positive where p is larger.

    `xy`: centroids in px of the window. The number depends on the place on the slide and on nothing else, so a nucleus
    is the same in every window. It is spread evenly over neighbours: of the nuclei of a region, the share that lies
    below p is close to p.
    """
    step = np.floor((xy + np.array([window.x, window.y])) * mpp / _DITHER_UM)
    return np.asarray((seed + step @ np.array(_DITHER)) % 1.0, np.float64)


def draw(nuclei: HeNuclei, maps: Maps, window: Window, mpp: float, stain: SlideStain, seed: float) -> Drawn:
    """The drawn picture. `stain`: of the H&E slide; `seed`: `slide_seed`."""
    share = _at(_share_around(maps), nuclei.measured.xy)
    positive = nuclei.tumour & (thresholds(nuclei.measured.xy, window, mpp, seed) < share)
    amount, brown = _nuclear_amount(nuclei, stain), np.concatenate([[False], positive])[nuclei.measured.nuclei.labels]
    shape = (window.height, window.width)
    typical = REFERENCE.typical_od / sum(REFERENCE.hematoxylin)
    ground = _ground(nuclei, mpp, stain) * (amount <= 0)
    hematoxylin = np.where(brown, 0.3, 1.0) * amount * typical + ground
    dab = np.where(brown, amount, 0.0) * _DAB_OD
    return Drawn(render(_sized(hematoxylin, shape), _sized(dab, shape)), positive)


def expected_picture(maps: Maps) -> npt.NDArray[np.uint8]:
    """uint8[h, w, 3]: the predicted densities."""
    h, w = maps.dab.shape
    shape = (h * PLACE_PX, w * PLACE_PX)
    typical = REFERENCE.typical_od / sum(REFERENCE.hematoxylin)
    return render(_smooth(maps.hematoxylin, shape) * typical, _smooth(maps.dab, shape) * REFERENCE.positive_od)


def render(hematoxylin: F32, dab: F32) -> npt.NDArray[np.uint8]:
    """Densities along the reference stain's unit vectors → uint8[h, w, 3]: Beer and Lambert, without any weights."""
    density = hematoxylin[..., None] * np.array(REFERENCE.hematoxylin, np.float32)
    density = density + dab[..., None] * np.array(REFERENCE.dab, np.float32)
    light = np.array(REFERENCE.background, np.float32) * 10.0 ** -density.astype(np.float32)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def _share_around(maps: Maps) -> F32:
    """float32[h/4, w/4]: Σλp / Σλ of the places around. The generator does not put its cells on the very nuclei: p of
    the one place under a nucleus would leave out what it expects beside it."""
    kernel = np.ones(_AROUND_PLACES, np.float32)
    # no running sums: a place must be the same number in every window
    expected, positive = (
        cv2.sepFilter2D(m, cv2.CV_32F, kernel, kernel)
        for m in (maps.tumour_cells, maps.tumour_cells * maps.positive_share)
    )
    share: F32 = (positive / np.maximum(expected, 1e-9)).astype(np.float32)
    return share


def _at(values: F32, xy: npt.NDArray[np.float64]) -> F32:
    """float32[N]: the place that each centroid (px of the window) lies in."""
    column = np.clip((xy[:, 0] // PLACE_PX).astype(np.intp), 0, values.shape[1] - 1)
    row = np.clip((xy[:, 1] // PLACE_PX).astype(np.intp), 0, values.shape[0] - 1)
    found: F32 = values[row, column]
    return found


def _nuclear_amount(nuclei: HeNuclei, stain: SlideStain) -> F32:
    """float32[h, w] working px: haematoxylin inside nuclei, 1 for the slide's typical one; 0 outside."""
    signal = nuclei.plane.signal / np.float32(stain.typical_od)
    inside = nuclei.measured.nuclei.labels > 0
    amount: F32 = np.where(inside, np.clip(signal, *_NUCLEUS_RANGE), 0).astype(np.float32)
    return amount


def _ground(nuclei: HeNuclei, mpp: float, stain: SlideStain) -> F32:
    """float32[h, w] working px: a faint trace of the tissue between the nuclei."""
    tissue = np.maximum(nuclei.plane.hematoxylin, 0) + np.maximum(nuclei.plane.dab, 0)
    sigma = _GROUND_SIGMA_UM / nuclei.plane.mean_mpp
    # a kernel of fixed size: the same sums in every window
    side = 2 * int(np.ceil(3 * sigma)) + 1
    smooth = cv2.GaussianBlur(np.minimum(tissue, 1.0).astype(np.float32), (side, side), sigma)
    ground: F32 = np.minimum(_GROUND_SHARE * smooth, _GROUND_OD).astype(np.float32)
    return ground


def _sized(values: F32, shape: tuple[int, int]) -> F32:
    if values.shape == shape:
        return values.astype(np.float32)
    return np.asarray(cv2.resize(values.astype(np.float32), shape[::-1], interpolation=cv2.INTER_NEAREST), np.float32)


def _smooth(values: F32, shape: tuple[int, int]) -> F32:
    return np.asarray(cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
