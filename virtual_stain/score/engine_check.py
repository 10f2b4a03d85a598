"""Whether a fast engine reads this slide as the reference does, found out on tiles of the slide itself.

How much a number format changes a reading depends on the model and on the tissue. A few tiles go through both; where a
fraction differs by more than 0.005 or the mean by more than 0.002, the reference (float32) reads the slide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from virtual_stain.config import ScoringSettings
from virtual_stain.errors import SlideError
from virtual_stain.score.predictor import Answers, Predictor, predictor_engine
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.window import read_window
from virtual_stain.tiles import TilePlan

MAX_TILE_DIFFERENCE = 0.005
MAX_MEAN_DIFFERENCE = 0.002
MAX_CELLS_DIFFERENCE = 0.05
"""Of the expected tumour cells, relative: they weight the reading and decide which tiles enter it."""


def check_engine(slide: Slide, predictor: Predictor, plan: TilePlan, settings: ScoringSettings) -> dict[str, Any]:
    """Lets the predictor choose its engine on `settings.check_tiles` tiles spread over the slide; what it chose."""
    check = getattr(predictor, "check", None)
    if check is None:
        return predictor_engine(predictor)
    least = predictor.card.min_tissue_fraction
    candidates = [t for t in plan.tiles if t.tissue_fraction >= least] or list(plan.tiles)
    places = np.linspace(0, len(candidates) - 1, min(settings.check_tiles, len(candidates))).round().astype(int)
    tiles = []
    for place in sorted(set(places.tolist())):
        try:
            tiles.append(read_window(slide, candidates[place].box, plan.grid.tile_size))
        except SlideError:
            continue  # the run itself reports what cannot be read
    result: dict[str, Any] = check(np.stack(tiles) if tiles else None)
    return result


def difference(reference: Answers, other: Answers) -> dict[str, float]:
    """The largest differences of two engines' answers on the same tiles; NaN on one side alone is infinite."""
    tile = mean = cells = 0.0
    for name, expected in reference.items():
        a, b = np.asarray(expected, np.float64), np.asarray(other[name], np.float64)
        known = np.isfinite(a)
        if (known != np.isfinite(b)).any():
            return {"tile": float("inf"), "mean": float("inf"), "cells": float("inf")}
        if not known.any():
            continue
        gap = np.abs(a - b)[known]
        if name.endswith("_tumour_cells"):
            cells = max(cells, float((gap / np.maximum(a[known], 1.0)).max()))
        else:
            tile = max(tile, float(gap.max()))
            mean = max(mean, float(abs(a[known].mean() - b[known].mean())))
    return {"tile": tile, "mean": mean, "cells": cells}


def acceptable(found: Mapping[str, float]) -> bool:
    """Whether such differences may stand."""
    return (
        found["tile"] <= MAX_TILE_DIFFERENCE
        and found["mean"] <= MAX_MEAN_DIFFERENCE
        and found["cells"] <= MAX_CELLS_DIFFERENCE
    )
