"""The pictures that counting is measured on, and what is known about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage

from virtual_stain.geometry import Points

_DEEPLIIF_MPP = 0.25  # "40×"; the set does not say more exactly
_MIN_MASK_PX = 30  # smaller components of the masks are crumbs


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, and its nuclei where they are known."""

    name: str
    rgb: npt.NDArray[np.uint8]
    mpp: float
    xy: Points
    positive: npt.NDArray[np.bool_]
    tumour: npt.NDArray[np.bool_]


def masked_scenes(root: Path) -> tuple[list[Scene], list[Scene]]:
    """DeepLIIF: four breast tiles with manual masks, two co-registered ones with semi-automatic masks."""
    folder = root / "deepliif"
    breast = [
        _masked(name, folder / f"test_cli/{name}.png", folder / f"test_groundtruth/{name}.png")
        for name in ("22_2", "34_3", "6_2", "799_2")
    ]
    others = [
        _masked(name, folder / f"train/{name}_ihc.png", folder / f"train/{name}_gt.png")
        for name in ("Bladder1", "Lung1")
    ]
    return breast, others


def _masked(name: str, picture: Path, mask: Path) -> Scene:
    rgb, truth = (np.ascontiguousarray(cv2.imread(str(p))[:, :, ::-1]) for p in (picture, mask))
    red, green, blue = (truth[..., i] > 150 for i in range(3))
    centres, positive = [], []
    for component, is_positive in ((red & ~green, True), (blue & ~green, False)):
        labels, n = ndimage.label(component)
        area = np.bincount(labels.ravel(), minlength=n + 1)
        chosen = [i for i in range(1, n + 1) if area[i] >= _MIN_MASK_PX]
        centres += [(x + 0.5, y + 0.5) for y, x in ndimage.center_of_mass(component, labels, chosen)]
        positive += [is_positive] * len(chosen)
    flags = np.array(positive, np.bool_)
    return Scene(name, rgb, _DEEPLIIF_MPP, np.array(centres), flags, np.ones_like(flags))


def scanner_scenes(root: Path) -> list[Scene]:
    """One region of a Ki67 slide on two scanners, without truth."""
    folder, nothing = root / "qupath_os1_os2_ometiff", np.zeros(0, np.bool_)
    return [
        Scene(name, tifffile.imread(folder / f"OS-2-{name}.ome.tif"), mpp, np.zeros((0, 2)), nothing, nothing)
        for name, mpp in (("ndpi", 0.227), ("vsi", 0.346))
    ]


def phantom_scenes(folder: Path, side_px: int = 3000) -> list[Scene]:
    """The middle of every IHC slide of a phantom cohort, with its true nuclei."""
    from virtual_stain.geometry import Size
    from virtual_stain.pairs import read_pairs
    from virtual_stain.phantom.truth import read_truth
    from virtual_stain.slides.slide import open_slide

    scenes = []
    for pair in read_pairs(folder / "pairs.csv"):
        truth = read_truth(folder, pair.pair)
        cells = truth.ihc_cells
        with open_slide(pair.ihc) as slide:
            width, height = min(side_px, slide.size.width), min(side_px, slide.size.height)
            x, y = (slide.size.width - width) // 2, (slide.size.height - height) // 2
            rgb = slide.read_level(0, x, y, Size(width, height))
        at = cells.xy - (x, y)
        cells = cells.moved(at).select(((at >= 0) & (at < (width, height))).all(axis=1))
        scenes.append(Scene(pair.pair, rgb, truth.ihc_mpp, cells.xy, cells.cell_class == 1, cells.tumour))
    return scenes
