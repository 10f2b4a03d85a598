"""Whether a fast engine reads this slide as the reference does, found out on tiles of the slide itself.

How much a number format changes a reading depends on the model and on the tissue. A few tiles go through both; where a
fraction differs by more than 0.005 or the mean by more than 0.002, the reference (float32) reads the slide. Of values
that are counts it is 2.5 % and 1 %: the same at a ratio of 0.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from virtual_stain.config import ScoringSettings
from virtual_stain.errors import SlideError
from virtual_stain.markers import CELLS, ValueDefinition
from virtual_stain.scoring.predictor import Answers, Predictor
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.window import read_window
from virtual_stain.tiles import TilePlan

MAX_TILE_DIFFERENCE = 0.005
MAX_MEAN_DIFFERENCE = 0.002
MAX_CELLS_DIFFERENCE = 0.05
"""Of the expected tumour cells, relative: they weight the reading and decide which tiles enter it."""
MAX_TILE_COUNT_DIFFERENCE = 0.025
MAX_MEAN_COUNT_DIFFERENCE = 0.01
"""Of values that are counts, relative."""
_TINY = 1e-9  # cells per mm²: a slide without any


def check_engine(slide: Slide, predictor: Predictor, plan: TilePlan, settings: ScoringSettings) -> dict[str, Any]:
    """Lets the predictor choose its engine on `settings.check_tiles` tiles spread over the slide; what it chose."""
    if not predictor.compares_engines:
        return predictor.check(None)
    least = predictor.card.min_tissue_fraction
    candidates = [t for t in plan.tiles if t.tissue_fraction >= least] or list(plan.tiles)
    places = np.linspace(0, len(candidates) - 1, min(settings.check_tiles, len(candidates))).round().astype(int)
    tiles = []
    for place in sorted(set(places.tolist())):
        try:
            tiles.append(read_window(slide, candidates[place].box, plan.grid.tile_size))
        except SlideError:
            continue  # the run itself reports what cannot be read
    return predictor.check(np.stack(tiles) if tiles else None)


def difference(reference: Answers, other: Answers, definition: ValueDefinition) -> dict[str, float]:
    """The largest differences of two engines' answers on the same tiles; NaN on one side alone is infinite.

    tile, mean: of the values, in the unit of their bounds (those of fractions; counts are scaled to them); cells: of
    the expected tumour cells, relative; value: of a tile, as people read it (a fraction, of counts relative).
    """
    tile = mean = cells = value = 0.0
    for name, expected in reference.items():
        a, b = np.asarray(expected, np.float64), np.asarray(other[name], np.float64)
        known = np.isfinite(a)
        if (known != np.isfinite(b)).any():
            return dict.fromkeys(("tile", "mean", "cells", "value"), float("inf"))
        if not known.any():
            continue
        a, b = a[known], b[known]
        gap = np.abs(a - b)
        if name.endswith(CELLS):
            cells = max(cells, float((gap / np.maximum(a, 1.0)).max()))
        elif definition.is_ratio:
            tile, mean = max(tile, float(gap.max())), max(mean, float(abs(a.mean() - b.mean())))
            value = tile
        else:
            # over the mean where there is hardly a cell: what is off there moves no reading
            relative = float((gap / np.maximum(a, a.mean() + _TINY)).max())
            off = float(abs(a.mean() - b.mean()) / (a.mean() + _TINY))
            tile = max(tile, relative * MAX_TILE_DIFFERENCE / MAX_TILE_COUNT_DIFFERENCE)
            mean = max(mean, off * MAX_MEAN_DIFFERENCE / MAX_MEAN_COUNT_DIFFERENCE)
            value = max(value, relative)
    return {"tile": tile, "mean": mean, "cells": cells, "value": value}


def acceptable(found: Mapping[str, float]) -> bool:
    """Whether such differences may stand."""
    return (
        found["tile"] <= MAX_TILE_DIFFERENCE
        and found["mean"] <= MAX_MEAN_DIFFERENCE
        and found["cells"] <= MAX_CELLS_DIFFERENCE
    )
