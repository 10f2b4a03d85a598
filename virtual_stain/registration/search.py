"""Where to start: every rotation, mirror and translation of the moving foreground over the fixed one, by FFT.

Plain correlation of tissue masks cannot tell a blob from the same blob turned by 180°, and a start from centroids
fails with missing tissue or with a control tissue on the IHC. So the score of a start is the sum of two cosine
similarities, both over all translations at once: of the tissue densities (overlap-aware: what is covered by glass
counts against it) and of the local structure within the tissue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from virtual_stain.registration.foreground import Foreground
from virtual_stain.registration.raster import Image, Matrix, blur, local_norm, pulled, shrink

_STRUCTURE_SIGMA = 5.0
_PEAKS_PER_TURN = 2
_ROUGHER = 0.65


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A candidate: `matrix` maps fixed px to moving px (working resolution, +0.5 convention)."""

    matrix: Matrix
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class _Coarse:
    density: Image
    structure: Image
    factor_xy: tuple[float, float]

    @property
    def centre(self) -> npt.NDArray[np.float64]:
        weights = self.density
        ys, xs = np.nonzero(weights > 0.1)
        if not len(xs):
            return np.array([self.density.shape[1] / 2, self.density.shape[0] / 2])
        return np.array([xs.mean() + 0.5, ys.mean() + 0.5])


def find_starts(
    fixed: Foreground, moving: Foreground, *, coarse_px: int, angle_step_deg: float, scales: Sequence[float], keep: int
) -> list[Start]:
    """The `keep` best distinct starts, best first.

    scales: moving px per fixed px to try (1.0 when both pixel sizes are known).
    """
    several = len(scales) > 1
    # an unknown scale multiplies the tries: each may be rougher, for the best of them are refined anyway
    coarse_px = round(coarse_px * _ROUGHER) if several else coarse_px
    angle_step_deg = angle_step_deg / _ROUGHER if several else angle_step_deg
    factor = min(1.0, coarse_px / math.sqrt(fixed.tissue_px))
    f, m = _coarse(fixed, factor), _coarse(moving, factor)
    starts: list[Start] = []
    for scale in scales:
        canvas = _Canvas(f, m, scale)
        for mirror in (1.0, -1.0):
            for angle in np.arange(0.0, 360.0, angle_step_deg):
                starts += canvas.correlate(float(np.deg2rad(angle)), mirror)
    return _distinct(starts, fixed, keep)


def _coarse(side: Foreground, factor: float) -> _Coarse:
    height, width = side.shape
    inside = side.mask.astype(np.float32)
    density = shrink(side.density * inside, factor)
    mask = shrink(inside, factor) > 0.5
    structure = local_norm(density, _STRUCTURE_SIGMA, mask)
    # presence matters more than how dark it is: stains differ in strength from region to region
    presence = blur(np.float32(0.5) * mask.astype(np.float32) + np.float32(0.5) * np.minimum(density, 1.0), 1.0)
    return _Coarse(presence, blur(structure, 1.0), (density.shape[1] / width, density.shape[0] / height))


class _Canvas:
    """The fixed side's spectra, and the correlation with them of the moving side at one scale, turned in any way."""

    def __init__(self, fixed: _Coarse, moving: _Coarse, scale: float) -> None:
        # half of the fixed plus the whole turned moving image, so that the circular correlation does not wrap around
        reach = math.hypot(*fixed.density.shape) / 2 + math.hypot(*moving.density.shape) / scale
        side = scipy.fft.next_fast_len(int(reach) + 8, real=True)
        self.fixed, self.moving, self.scale, self.side = fixed, moving, scale, side
        self.centre = np.array([side / 2, side / 2])
        self.fixed_shift = self.centre - fixed.centre
        self.spectra = [np.conj(self._spectrum(self._placed(i))) for i in (fixed.density, fixed.structure)]
        self.norms = [max(float(np.linalg.norm(i)), 1e-6) for i in (fixed.density, fixed.structure)]

    def _placed(self, image: Image) -> Image:
        back = np.eye(3)
        back[:2, 2] = -self.fixed_shift
        return pulled(image, back, (self.side, self.side))

    @staticmethod
    def _spectrum(image: Image) -> npt.NDArray[np.complex64]:
        result: npt.NDArray[np.complex64] = scipy.fft.rfft2(image)
        return result

    def correlate(self, angle: float, mirror: float) -> list[Start]:
        """The best translations of the turned, mirrored moving side."""
        c, s = np.cos(angle), np.sin(angle)
        linear = self.scale * np.array([[c, -s], [s, c]]) @ np.diag([mirror, 1.0])
        offset = self.moving.centre - linear @ self.centre
        into = np.eye(3)
        into[:2, :2], into[:2, 2] = linear, offset
        total = np.zeros((self.side, self.side // 2 + 1), np.complex64)
        sides = (self.moving.density, self.moving.structure)
        for image, spectrum, norm in zip(sides, self.spectra, self.norms, strict=True):
            turned = pulled(image, into, (self.side, self.side))
            total += self._spectrum(turned) * spectrum / (norm * max(float(np.linalg.norm(turned)), 1e-6))
        surface = scipy.fft.irfft2(total, s=(self.side, self.side))
        return [self._start(score, x, y, linear, offset) for score, x, y in _peaks(surface)]

    def _start(self, score: float, x: int, y: int, linear: Matrix, offset: npt.NDArray[np.float64]) -> Start:
        half = self.side // 2
        shift = np.array([x if x <= half else x - self.side, y if y <= half else y - self.side], np.float64)
        # fixed coarse → canvas → + shift → moving coarse
        matrix = np.eye(3)
        matrix[:2, :2] = linear
        matrix[:2, 2] = offset + linear @ (self.fixed_shift + shift)
        into = np.diag([*self.fixed.factor_xy, 1.0])
        out = np.diag([1 / self.moving.factor_xy[0], 1 / self.moving.factor_xy[1], 1.0])
        return Start(out @ matrix @ into, score)


def _peaks(surface: npt.NDArray[np.float32]) -> list[tuple[float, int, int]]:
    """(score, x, y) of the highest local maxima of a circular correlation surface."""
    found: list[tuple[float, int, int]] = []
    work = surface.copy()
    height, width = work.shape
    for _ in range(_PEAKS_PER_TURN):
        y, x = np.unravel_index(int(work.argmax()), work.shape)
        found.append((float(work[y, x]), int(x), int(y)))
        ys = np.arange(y - 6, y + 7) % height
        xs = np.arange(x - 6, x + 7) % width
        work[np.ix_(ys, xs)] = -np.inf
    return found


def _distinct(starts: list[Start], fixed: Foreground, keep: int) -> list[Start]:
    """Best first, without those that put the tissue to nearly the same place as a better one."""
    ys, xs = np.nonzero(fixed.mask)
    corners = np.array([[xs.min(), ys.min()], [xs.max(), ys.min()], [xs.max(), ys.max()], [xs.min(), ys.max()]], float)
    near = 0.12 * float(np.hypot(*(corners[2] - corners[0])))
    kept: list[Start] = []
    places: list[npt.NDArray[np.float64]] = []
    for start in sorted(starts, key=lambda s: -s.score):
        place = corners @ start.matrix[:2, :2].T + start.matrix[:2, 2]
        if all(float(np.abs(place - other).max()) > near for other in places):
            kept.append(start)
            places.append(place)
        if len(kept) == keep:
            break
    return kept
