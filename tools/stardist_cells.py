"""Runs a StarDist model that you have (a Keras file) over a slide; `vstain count --cells` reads what it writes.

    python tools/stardist_cells.py SLIDE --model stardist.keras --out cells.npz [--mpp 0.25] [--model-mpp 0.25]
    vstain count SLIDE --marker ki67 --cells cells.npz --out count

The model takes float32[1, h, w, 3], percentile-normalized, and gives prob [1, h/g, w/g, 1] and dist [1, h/g, w/g, K],
as StarDist's 2D models do. No model comes with this program.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.star_maps import star_candidates, star_cells
from virtual_stain.counting.contours import Contours
from virtual_stain.errors import VirtualStainError
from virtual_stain.files import output_errors, replacing
from virtual_stain.geometry import Box, Size
from virtual_stain.slides.resolution import require_mpp
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.window import read_window

_CORE_PX, _MARGIN_PX = 1024, 96  # of the model's input; a multiple of every grid
_LOW, _HIGH = 1.0, 99.8  # StarDist's own normalization

Predict = Callable[[np.ndarray[Any, Any]], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def keras_model(path: Path) -> Predict:
    import keras

    model = keras.models.load_model(path, compile=False)

    def predict(image: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        prob, dist = (np.asarray(v) for v in model(image[None], training=False)[:2])
        return prob[0, ..., 0], dist[0]

    return predict


def cells_of(
    slide: Slide, predict: Predict, model_mpp: float, threshold: float, overlap: float
) -> tuple[np.ndarray[Any, Any], ...]:
    """points [N, 2] and coord [N, 2, K] in (y, x) level-0 px with pixel centres at whole numbers, prob [N]."""
    mpp = require_mpp(slide)
    b = slide.bounds
    scale = model_mpp / mpp.x, model_mpp / mpp.y
    width, height = int(b.width / scale[0]), int(b.height / scale[1])
    parts: list[Contours] = []
    for top in range(0, height, _CORE_PX):
        for left in range(0, width, _CORE_PX):
            x, y = left - _MARGIN_PX, top - _MARGIN_PX
            side = _CORE_PX + 2 * _MARGIN_PX
            box = Box(b.x + x * scale[0], b.y + y * scale[1], side * scale[0], side * scale[1])
            image = read_window(slide, box, Size(side, side)).astype(np.float32)
            low, high = np.percentile(image, [_LOW, _HIGH], axis=(0, 1))
            prob, dist = predict((image - low) / np.maximum(high - low, 1e-6))
            grid = side // prob.shape[1], side // prob.shape[0]
            found = star_candidates(
                np.asarray(prob, np.float32), np.asarray(dist, np.float32), grid, threshold, model_mpp
            )
            c = found.centre
            core = ((c >= _MARGIN_PX) & (c < _MARGIN_PX + _CORE_PX)).all(axis=1)
            kept = found.select(core)
            parts.append(Contours(kept.centre + np.array([x, y]), kept.radius_um, kept.edge))
    every = Contours(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("centre", "radius_um", "edge")))
    points, coord, prob = star_cells(every, model_mpp, overlap)
    to_px0 = np.array(scale[::-1])
    corner = np.array([b.y, b.x])
    # model pixel centres lie at whole numbers, as those of level 0 in StarDist's files
    points = (points + 0.5) * to_px0 + corner - 0.5
    return points, (coord + 0.5) * to_px0[:, None] + corner[:, None] - 0.5, prob


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mpp", type=float, help="Pixel size of the slide, µm, where the file has none.")
    parser.add_argument("--model-mpp", type=float, default=0.5, help="Pixel size that the model was trained at, µm.")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--overlap", type=float, default=0.4)
    options = parser.parse_args()
    ref = SlideRef(options.slide, None if options.mpp is None else (options.mpp, options.mpp))
    try:
        with open_slide(ref) as slide:
            found = cells_of(slide, keras_model(options.model), options.model_mpp, options.threshold, options.overlap)
        with output_errors(options.out), replacing(options.out) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, points=found[0], coord=found[1], prob=found[2])
    except VirtualStainError as error:
        print(error, file=sys.stderr)
        return 3
    print(f"{len(found[0])} cells: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
