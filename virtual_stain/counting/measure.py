"""From an image to measured nuclei: working pixels, densities, outlines, one row a nucleus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.nuclei import Nuclei, find_nuclei
from virtual_stain.counting.optical_density import F32, optical_density, separate
from virtual_stain.counting.resample import AreaResampler
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.geometry import Points

# Beyond these it is another dye: pen, ink, a coloured speck. Nuclei of real slides stay below 0.2 and above −0.25.
_OTHER_RESIDUAL = 0.3  # residual / (H + DAB)
_OTHER_NEGATIVE = -0.3  # the lesser of both / the greater: no mixture of the two stains makes this colour


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """An image in working pixels."""

    signal: F32
    """float32[h, w]: hematoxylin + DAB optical density, summed over the channels, ≥ 0."""
    hematoxylin: F32
    """float32[h, w]: amount of hematoxylin, optical density along its unit vector; noise may be negative."""
    dab: F32
    """float32[h, w]: the same of DAB."""
    residual: F32
    """float32[h, w]: what neither explains, signed."""
    mpp: tuple[float, float]
    """µm per working pixel, x and y."""
    factor: tuple[float, float]
    """Image px per working pixel, x and y."""

    @property
    def mean_mpp(self) -> float:
        return float(np.sqrt(self.mpp[0] * self.mpp[1]))


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """N nuclei as columns of equal length."""

    xy: Points
    """float64[N, 2]: centroids, px of the image, pixel centres at + 0.5."""
    area_um2: npt.NDArray[np.float32]
    dab_od: npt.NDArray[np.float32]
    """float32[N]: mean over the nucleus; may be slightly negative."""
    hematoxylin_od: npt.NDArray[np.float32]
    elongation: npt.NDArray[np.float32]
    """float32[N]: long axis / short axis of the ellipse of equal moments, ≥ 1."""
    contrast_od: npt.NDArray[np.float32]
    """float32[N]: signal of the nucleus above its surroundings."""
    other: npt.NDArray[np.bool_]
    """bool[N]: another dye than hematoxylin and DAB."""
    nuclei: Nuclei
    """Outlines in working pixels."""
    factor: tuple[float, float]
    """Image px per working pixel."""

    def __len__(self) -> int:
        return len(self.xy)


def stain_plane(
    rgb: npt.NDArray[np.uint8], mpp: tuple[float, float], stain: SlideStain, settings: CountingSettings
) -> Plane:
    """uint8[H, W, 3] of `mpp` µm/px → densities in working pixels of about `settings.work_mpp`."""
    shrink = AreaResampler.towards(mpp, settings.work_mpp)
    work = shrink(rgb)
    hematoxylin, dab, residual = separate(optical_density(work, stain.background), stain.hematoxylin, stain.dab)
    signal = np.maximum(hematoxylin, 0) * np.float32(sum(stain.hematoxylin))
    signal += np.maximum(dab, 0) * np.float32(sum(stain.dab))
    factor = shrink.factor
    return Plane(
        signal=signal,
        hematoxylin=hematoxylin,
        dab=dab,
        residual=residual,
        mpp=(mpp[0] * factor[0], mpp[1] * factor[1]),
        factor=factor,
    )


def measure(plane: Plane, stain: SlideStain, settings: CountingSettings) -> Measured:
    """Finds and measures the nuclei of a plane."""
    nuclei = find_nuclei(plane.signal, stain.typical_od, plane.mean_mpp, settings)
    n, labels = nuclei.count, nuclei.labels
    at = np.flatnonzero(labels)
    owner = labels.ravel()[at] - 1
    row, column = np.divmod(at, labels.shape[1])
    count = np.bincount(owner, minlength=n).astype(np.float64)

    def mean(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(owner, weights=values, minlength=n), np.float64) / count

    # whole numbers summed exactly: the centroid does not depend on where the window starts
    x, y = mean(column.astype(np.float64)), mean(row.astype(np.float64))
    dx, dy = (column - x[owner]) * plane.mpp[0], (row - y[owner]) * plane.mpp[1]
    dab = mean(plane.dab.ravel()[at])
    hematoxylin = mean(plane.hematoxylin.ravel()[at])
    residual = mean(np.abs(plane.residual.ravel()[at]))
    return Measured(
        xy=np.stack([(x + 0.5) * plane.factor[0], (y + 0.5) * plane.factor[1]], axis=1).reshape(-1, 2),
        area_um2=(count * plane.mpp[0] * plane.mpp[1]).astype(np.float32),
        dab_od=dab.astype(np.float32),
        hematoxylin_od=hematoxylin.astype(np.float32),
        elongation=_elongation(mean(dx * dx), mean(dy * dy), mean(dx * dy)),
        contrast_od=nuclei.contrast_od,
        other=_is_other(hematoxylin, dab, residual),
        nuclei=nuclei,
        factor=plane.factor,
    )


def _is_other(
    hematoxylin: npt.NDArray[np.float64], dab: npt.NDArray[np.float64], residual: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    off_plane = residual > _OTHER_RESIDUAL * np.maximum(hematoxylin + dab, 1e-3)
    beyond = np.minimum(hematoxylin, dab) < _OTHER_NEGATIVE * np.maximum(hematoxylin, dab)
    return np.asarray(off_plane | beyond, np.bool_)


def _elongation(
    xx: npt.NDArray[np.float64], yy: npt.NDArray[np.float64], xy: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Square root of the ratio of the second moments along the two axes; a pixel has 1/12 of its own, here ≈ 0.02."""
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    result: npt.NDArray[np.float32] = np.sqrt((middle + spread + 0.02) / (middle - spread + 0.02)).astype(np.float32)
    return result
