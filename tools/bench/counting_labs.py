"""Fields of other laboratories for the benchmark of counting: phantoms drawn and photographed as in phantom/labs.py."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from tools.bench.counting_data import Scene
from virtual_stain.config.phantom import LABS, PhantomBiology, PhantomSettings
from virtual_stain.phantom.pair import make_pair

_MPP, _SIDE_UM, _JPEG_QUALITY = 0.4, 400.0, 88
_LOG_ODDS = (-3.0, -1.3, 0.3, 2.0)
"""Mean log-odds of a positive tumour cell: 5, 21, 57 and 88 %; one field each."""


def lab_scenes(work: Path, *, seed: int = 0) -> dict[str, list[Scene]]:
    """Four fields of 400 µm of each lab, drawn once and kept in `work`."""
    return {
        lab: [_scene(work, lab, logit, seed + 100 * k + i) for i, logit in enumerate(_LOG_ODDS)]
        for k, lab in enumerate(LABS[1:])
    }


def _scene(work: Path, lab: str, logit: float, seed: int) -> Scene:
    path = work / "labs" / f"{lab}_{logit:+.1f}_{seed}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        biology = PhantomBiology(mean_logit=logit, field_logit_sd=0.7)
        settings = PhantomSettings(size_mm=0.8, ihc_mpp=_MPP, he_mpp=_MPP, seed=seed, biology=biology, lab=lab)
        pair = make_pair("p001", 0, settings)
        side = round(_SIDE_UM / _MPP)
        x, y = (pair.ihc.size.width - side) // 2, (pair.ihc.size.height - side) // 2
        at = pair.truth.ihc_cells.xy - (x, y)
        inside = ((at >= 0) & (at < side)).all(axis=1)
        nuclei = pair.truth.ihc_nuclei.select(inside)
        rgb = _as_jpeg(pair.ihc.block(x, y, side, side))
        columns = {"xy": at[inside], "positive": nuclei.positive, "tumour": nuclei.tumour, "dab_od": nuclei.dab_od}
        np.savez(path, rgb=rgb, **columns)  # type: ignore[arg-type]
    with np.load(path) as saved:
        return Scene(f"{lab} {logit:+.1f}", saved["rgb"], _MPP, saved["xy"], saved["positive"], saved["tumour"])


def _as_jpeg(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    data = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[:, :, ::-1])
