"""From an image to measured nuclei: working pixels, densities, outlines, one row a nucleus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.contours import on_grid
from virtual_stain.counting.nuclei import Nuclei, find_nuclei
from virtual_stain.counting.optical_density import F32, optical_density, separate
from virtual_stain.counting.quality import BLACK_LEVEL
from virtual_stain.counting.resample import AreaResampler
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.geometry import Points

# Beyond these it is another dye: pen, ink, a coloured speck. Nuclei of real slides stay below 0.2 and above −0.25.
_GRID = 1024  # parts of a pixel: a position is the same number in every window
_OTHER_RESIDUAL = 0.3  # residual / (H + DAB)
# Carbon and other black grains absorb every colour alike: as much of either stain, and far more hematoxylin than a
# nucleus has. Positive nuclei have less of it than negative ones. Of 25,000 nuclei on real and drawn slides whose
# stains could be told apart none is beyond all three.
_BLACK_HEMATOXYLIN = 2.2  # × the typical nucleus' contrast
_BLACK_DAB = (0.4, 1.2)  # × hematoxylin
_BLACK_OD = 0.6  # hematoxylin + DAB
_OTHER_NEGATIVE = -0.3  # the lesser of both / the greater: no mixture of the two stains makes this colour


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """An image in working pixels."""

    signal: F32
    """float32[h, w]: what nuclei are looked for in: hematoxylin + DAB (of membrane markers hematoxylin alone), optical
    density summed over the channels, less the slide's haze, ≥ 0."""
    hematoxylin: F32
    """float32[h, w]: amount of hematoxylin, optical density along its unit vector; noise may be negative."""
    dab: F32
    """float32[h, w]: the same of DAB."""
    residual: F32
    """float32[h, w]: what neither explains, signed."""
    saturated: npt.NDArray[np.bool_]
    """bool[h, w]: a channel is at the camera's black."""
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
    area_um2: F32
    dab_od: F32
    """float32[N]: mean over the nucleus; may be slightly negative."""
    max_dab_od: F32
    """float32[N]: of its darkest working pixel."""
    hematoxylin_od: F32
    texture_od: F32
    """float32[N]: standard deviation of the signal inside, optical density: coarse chromatin is large."""
    elongation: F32
    """float32[N]: long axis / short axis of the ellipse of equal moments, ≥ 1."""
    width_um: F32
    """float32[N]: its short axis."""
    circularity: F32
    """float32[N]: 4 π area / perimeter²."""
    edge_score: F32
    """float32[N]: how complete and clear the outline is, 0–1."""
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
    rgb: npt.NDArray[np.uint8],
    mpp: tuple[float, float],
    stain: SlideStain,
    settings: CountingSettings,
    *,
    membrane: bool = False,
) -> Plane:
    """uint8[H, W, 3] of `mpp` µm/px → densities in working pixels of about `settings.work_mpp`.

    `membrane`: DAB is on membranes, so that hematoxylin alone makes the nuclear signal.
    """
    shrink = AreaResampler.towards(mpp, settings.work_mpp)
    work = shrink(rgb)
    hematoxylin, dab, residual = separate(optical_density(work, stain.background), stain.hematoxylin, stain.dab)
    signal = np.maximum(hematoxylin, 0) * np.float32(sum(stain.hematoxylin))
    if not membrane:
        signal += np.maximum(dab, 0) * np.float32(sum(stain.dab))
    signal = np.maximum(signal - np.float32(stain.haze_od), 0)
    factor = shrink.factor
    return Plane(
        signal=signal,
        hematoxylin=hematoxylin,
        dab=dab,
        residual=residual,
        saturated=np.minimum(np.minimum(work[..., 0], work[..., 1]), work[..., 2]) <= BLACK_LEVEL,
        mpp=(mpp[0] * factor[0], mpp[1] * factor[1]),
        factor=factor,
    )


def measure(plane: Plane, stain: SlideStain, settings: CountingSettings, nuclei: Nuclei | None = None) -> Measured:
    """Finds the nuclei of a plane, or takes those that another detector found, and measures them."""
    if nuclei is None:
        nuclei = find_nuclei(plane.signal, stain.typical_od, plane.mean_mpp, settings)
    n, labels = nuclei.count, nuclei.labels
    at = np.flatnonzero(labels)
    owner = labels.ravel()[at] - 1
    count = np.bincount(owner, minlength=n).astype(np.float64)

    def mean(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(owner, weights=values, minlength=n) / np.maximum(count, 1), np.float64)

    dab = mean(plane.dab.ravel()[at])
    hematoxylin = mean(plane.hematoxylin.ravel()[at])
    residual = mean(np.abs(plane.residual.ravel()[at]))
    signal = plane.signal.ravel()[at].astype(np.float64)
    level = mean(signal)
    darkest = np.zeros(n, np.float32)
    np.maximum.at(darkest, owner, plane.dab.ravel()[at])
    um2, um = plane.mpp[0] * plane.mpp[1], plane.mean_mpp
    return Measured(
        xy=on_grid(nuclei.centroid * plane.factor, _GRID),
        area_um2=(nuclei.shape.area_px * um2).astype(np.float32),
        dab_od=dab.astype(np.float32),
        max_dab_od=darkest,
        hematoxylin_od=hematoxylin.astype(np.float32),
        texture_od=np.sqrt(mean(np.square(signal - level[owner]))).astype(np.float32),
        elongation=nuclei.shape.elongation.astype(np.float32),
        width_um=(nuclei.shape.width_px * um).astype(np.float32),
        circularity=nuclei.shape.circularity.astype(np.float32),
        edge_score=nuclei.edge_score,
        contrast_od=nuclei.contrast_od,
        other=_is_other(hematoxylin, dab, residual) | _is_black(hematoxylin, dab, stain),
        nuclei=nuclei,
        factor=plane.factor,
    )


def _is_other(
    hematoxylin: npt.NDArray[np.float64], dab: npt.NDArray[np.float64], residual: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Whether what lies in a nucleus is no mixture of the two stains."""
    off_plane = residual > _OTHER_RESIDUAL * np.maximum(hematoxylin + dab, 1e-3)
    beyond = np.minimum(hematoxylin, dab) < _OTHER_NEGATIVE * np.maximum(hematoxylin, dab)
    return np.asarray(off_plane | beyond, np.bool_)


def _is_black(
    hematoxylin: npt.NDArray[np.float64], dab: npt.NDArray[np.float64], stain: SlideStain
) -> npt.NDArray[np.bool_]:
    usual = stain.typical_od / sum(stain.hematoxylin)  # typical_od is summed over the channels
    grey = (dab > _BLACK_DAB[0] * hematoxylin) & (dab < _BLACK_DAB[1] * hematoxylin)
    dark = (hematoxylin > _BLACK_HEMATOXYLIN * usual) & (hematoxylin + dab > _BLACK_OD)
    return np.asarray(grey & dark, np.bool_)
