"""What counting has to beat: two short scripts that anybody would write first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.segmentation import watershed

from tools.bench.counting_data import Scene
from virtual_stain.counting.cells import Cells


def fixed_vectors(scene: Scene) -> Cells:
    """Fixed stain vectors, Otsu on either stain, watershed on the distance, DAB above Otsu."""
    hed = rgb2hed(scene.rgb)
    blue, brown = (gaussian(hed[..., i], 0.5 / scene.mpp) for i in (0, 2))
    mask = (blue > threshold_otsu(blue)) | (brown > threshold_otsu(brown))
    distance = ndimage.distance_transform_edt(mask)
    peaks = peak_local_max(gaussian(distance, 1), min_distance=round(2.5 / scene.mpp), labels=mask.astype(int))
    markers = np.zeros(mask.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-distance, markers, mask=mask)
    area = np.bincount(labels.ravel(), minlength=len(peaks) + 1)[1:] * scene.mpp**2
    index = np.flatnonzero(area >= 10) + 1
    if not len(index):
        return Cells.empty()
    dab = np.asarray(ndimage.mean(hed[..., 2], labels, index))
    centres = np.array(ndimage.center_of_mass(mask, labels, index))[:, ::-1] + 0.5
    return _cells(centres, dab > threshold_otsu(hed[..., 2]), dab, area[index - 1])


def local_density(scene: Scene) -> Cells:
    """Peaks of the optical density above its surroundings; positive where blue is absorbed more than red."""
    light = np.percentile(scene.rgb.reshape(-1, 3), 99, axis=0)
    density = (-np.log10((scene.rgb.astype(np.float64) + 1) / (light + 1))).clip(0)
    total = gaussian(np.log1p(3 * density.sum(axis=2).clip(0)), 1.2 / scene.mpp)
    above = total - gaussian(total, 20 / scene.mpp)
    peaks = peak_local_max(above, min_distance=round(3 / scene.mpp), threshold_abs=0.02, exclude_border=False)
    if not len(peaks):
        return Cells.empty()
    around = np.stack([gaussian(density[..., i], 1.5 / scene.mpp) for i in range(3)], axis=2)
    colour = around[tuple(peaks.T)]
    return _cells(peaks[:, ::-1] + 0.5, colour[:, 2] > colour[:, 0], colour[:, 2], np.full(len(peaks), 50.0))


def _cells(
    xy: npt.NDArray[np.float64],
    positive: npt.NDArray[np.bool_],
    dab: npt.NDArray[np.float64],
    area: npt.NDArray[np.float64],
) -> Cells:
    everywhere = np.ones(len(xy), np.bool_)
    columns = np.maximum(dab, 0).astype(np.float32), area.astype(np.float32)
    return Cells(np.asarray(xy, np.float64), positive.astype(np.uint8), everywhere, *columns)
