"""Phantoms for the benchmark of counting: made once in a folder, nuclear and membrane markers, normal and hard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tools.bench.counting_data import Scene, phantom_scenes
from tools.bench.counting_scores import pairs
from virtual_stain.config.counting import CountingSettings
from virtual_stain.config.phantom import PhantomBiology, PhantomSettings
from virtual_stain.counting.cells import Cells
from virtual_stain.counting.count import count_image
from virtual_stain.counting.stain import estimate_stain
from virtual_stain.markers import Marker
from virtual_stain.phantom.cohort import write_cohort, write_slide
from virtual_stain.phantom.pair import make_pair

_REACH_UM = 4.0


def nuclear_scenes(folder: Path, *, hard: bool) -> list[Scene]:
    """Four IHC slides of 1.3 mm."""
    place = folder / ("hard" if hard else "usual")
    write_cohort(place, PhantomSettings(pairs=4, size_mm=1.3, hard=hard))
    return phantom_scenes(place, side_px=1800)


def tumour_accuracy(scene: Scene, cells: Cells) -> float:
    """Balanced accuracy of tumour / other over the nuclei that were found."""
    found, truth = np.array(pairs(cells.xy, scene.xy, 6 / scene.mpp)).T
    known, ours = scene.tumour[truth], cells.tumour[found]
    return float((ours[known].mean() + (~ours[~known]).mean()) / 2)


@dataclass(frozen=True)
class MembraneScore:
    """One phantom of a membrane marker, tumour cells only."""

    same_class: float
    """Share of the cells whose class 0–3 is the true one."""
    per_class: tuple[float, ...]
    """The same of the cells of every true class."""
    stained: float
    """Share of the cells that are rightly stained or not."""
    tps_error: float
    """Share of stained tumour cells, ours − truth, points."""


def membrane_score(marker: Marker, mean_logit: float, seed: int, *, hard: bool) -> MembraneScore:
    """A phantom of 600 µm at 0.25 µm/px."""
    mpp, side = 0.25, 2400
    biology = PhantomBiology(mean_logit=mean_logit)
    settings = PhantomSettings(size_mm=0.9, ihc_mpp=mpp, marker=marker.value, seed=seed, biology=biology, hard=hard)
    pair = make_pair("p001", 0, settings)
    x, y = (pair.ihc.size.width - side) // 2, (pair.ihc.size.height - side) // 2
    rgb = pair.ihc.block(x, y, side, side)
    at = pair.truth.ihc_cells.xy - (x, y)
    inside = ((at >= 0) & (at < side)).all(axis=1)
    truth = pair.truth.ihc_nuclei.select(inside)
    counting = CountingSettings()
    stain = estimate_stain([rgb], counting, mpp, membrane=True)
    counted = count_image(rgb, (mpp, mpp), marker, stain, counting)
    found, known = np.array(pairs(counted.cells.xy, at[inside], _REACH_UM / mpp)).T
    tumour = truth.tumour[known]
    ours: npt.NDArray[np.uint8] = counted.intensity[found][tumour]
    true: npt.NDArray[np.uint8] = truth.intensity[known][tumour]
    ratio = counted.cells.counts().ratio or 0.0
    return MembraneScore(
        same_class=float((ours == true).mean()),
        per_class=tuple(float((ours[true == g] == g).mean()) if (true == g).any() else np.nan for g in range(4)),
        stained=float(((ours > 0) == (true > 0)).mean()),
        tps_error=100 * (ratio - float(truth.positive[truth.tumour].mean())),
    )


def large_slide(folder: Path, size_mm: float) -> Path:
    """An IHC slide of a tissue of `size_mm`, written once."""
    path = folder / f"ihc_{size_mm:g}mm.tiff"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        settings = PhantomSettings(size_mm=size_mm)
        write_slide(path, make_pair("p001", 0, settings).ihc, settings.format, settings.jpeg_quality)
    return path
