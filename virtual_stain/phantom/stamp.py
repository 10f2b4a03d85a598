"""Stamps nuclei into a block's stain layers: any size, angle and sub-pixel position."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Points
from virtual_stain.phantom.cells import Kind, Nuclei
from virtual_stain.phantom.noise import Image
from virtual_stain.phantom.sprites import REACH, SpriteBank


@dataclass(frozen=True, slots=True, eq=False)
class PlacedNuclei:
    """The nuclei of a section in the pixels of its slide."""

    nuclei: Nuclei
    px0: Points
    """float64[N, 2]: centres on the slide, level-0 px."""
    angle: npt.NDArray[np.float64]
    """float64[N]: direction of the long axis on the slide."""
    mirrored: bool
    mpp: float

    def within(self, x0: float, y0: float, x1: float, y1: float, margin_um: float = 14.0) -> PlacedNuclei:
        """Those that can touch the box [x0, x1) × [y0, y1) of level-0 px."""
        m = margin_um / self.mpp
        x, y = self.px0[:, 0], self.px0[:, 1]
        index = np.flatnonzero((x > x0 - m) & (x < x1 + m) & (y > y0 - m) & (y < y1 + m))
        return PlacedNuclei(self.nuclei.select(index), self.px0[index], self.angle[index], self.mirrored, self.mpp)


def stamp(layers: Image, placed: PlacedNuclei, bank: SpriteBank, origin_px0: tuple[int, int], *, ihc: bool) -> None:
    """Draws every nucleus over what is in float32[h, w, 3] `layers`, in the order of the table."""
    n = placed.nuclei
    height, width = layers.shape[:2]
    radius = n.radius_um / placed.mpp
    long_px = radius * np.sqrt(n.elongation)
    short_px = radius / np.sqrt(n.elongation)
    cos, sin = np.cos(placed.angle), np.sin(placed.angle)
    centre = placed.px0 - np.asarray(origin_px0, np.float64)
    reach = np.ceil(long_px * REACH).astype(int) + 1
    hematoxylin, dab, second = _amounts(n, ihc)
    scale = bank.side / (2 * REACH)
    flip = -1.0 if placed.mirrored else 1.0
    middle = bank.side / 2 - 0.5
    matrix = np.empty((2, 3), np.float64)
    for i in range(len(n)):
        cx, cy = centre[i]
        x0, y0 = max(0, int(cx) - reach[i]), max(0, int(cy) - reach[i])
        x1, y1 = min(width, int(cx) + reach[i] + 1), min(height, int(cy) + reach[i] + 1)
        if x1 <= x0 or y1 <= y0:
            continue
        # patch pixel → sprite pixel, both counted by OpenCV from the centre of the first
        a, b = scale / long_px[i], scale / short_px[i] * flip
        dx, dy = x0 + 0.5 - cx, y0 + 0.5 - cy
        c, s = cos[i], sin[i]
        matrix[0] = (a * c, a * s, a * (c * dx + s * dy) + middle)
        matrix[1] = (-b * s, b * c, b * (-s * dx + c * dy) + middle)
        patch = cv2.warpAffine(
            _sprite(bank, n, i), matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        alpha, density = patch[..., 0], patch[..., 1]
        window = layers[y0:y1, x0:x1]
        window *= (1 - alpha)[..., None]
        window[..., 0] += density * hematoxylin[i]
        window[..., 1] += alpha * second[i]
        if ihc:
            window[..., 2] += (alpha * np.float32(0.55) + density * np.float32(0.45)) * dab[i]


def _sprite(bank: SpriteBank, n: Nuclei, i: int) -> Image:
    kind, shape = int(n.kind[i]), int(n.shape[i])
    if kind == Kind.TUMOUR:
        if n.mitosis[i]:
            return bank.mitoses[shape]
        if n.chromatin[i] > 1:
            return bank.vesicles[shape]
        return bank.round_nuclei[bank.chromatin_bin(float(n.chromatin[i]))][shape]
    return bank.lymphocytes[shape] if kind == Kind.LYMPHOCYTE else bank.spindles[shape]


def _amounts(n: Nuclei, ihc: bool) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Hematoxylin, DAB and the second stain per nucleus."""
    if not ihc:
        return n.hematoxylin_od, n.dab_od, np.full(len(n), 0.24, np.float32)
    # the counterstain is lighter, and DAB takes its place
    counter = n.hematoxylin_od * np.float32(0.62) + np.float32(0.06)
    counter = counter * (1 - np.float32(0.45) * np.clip(n.dab_od / 0.6, 0, 1)).astype(np.float32)
    return counter.astype(np.float32), n.dab_od, np.full(len(n), 0.05, np.float32)
