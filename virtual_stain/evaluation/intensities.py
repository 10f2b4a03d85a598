"""Intensities read from H&E beside the counted ones: how far the shares are off, how often the score is met."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.evaluation.predict import TileTable
from virtual_stain.evaluation.slide_figures import ReadingRule, used_tiles
from virtual_stain.her2 import HER2_RULE, HER2_SCORES, Her2Reading, her2_fractions

_NO_TILES = "no tile carries a reading"
_NO_LABELS = "no tile has counted intensities"
Shares = npt.NDArray[np.float64]


def intensity_figures(tiles: TileTable, rule: ReadingRule) -> dict[str, Any]:
    """Of one marker with intensities, JSON-able; fractions, None where there is no value.

    A slide is read from its used tiles, weighted by expected tumour cells; counted over the tiles whose number of cells
    is a label, whose stains are clear and whose intensities are known.
    """
    known = tiles.select(tiles.labelled & np.isfinite(tiles.intensities).all(axis=1))
    slides = [_slide(tiles.select(tiles.pair == pair), rule) for pair in sorted(set(tiles.pair.tolist()))]
    both = [(read, true) for _, read, true in slides if read.fractions is not None and true.fractions is not None]
    gaps = np.array([np.array(read.fractions) - np.array(true.fractions) for read, true in both]).reshape(-1, 4)
    table = np.zeros((4, 4), np.int64)
    for read, true in both:
        table[HER2_SCORES.index(str(true.score)), HER2_SCORES.index(str(read.score))] += 1
    return {
        "tiles": {
            "n": len(known),
            "mae": _by_name(np.abs(_all_four(known.intensity_shares) - _true_shares(known))),
        },
        "slides": [
            {
                "pair": pair,
                "read": {k: v for k, v in read.to_dict(_NO_TILES).items() if k != "rule"},
                "counted": {k: v for k, v in counted.to_dict(_NO_LABELS).items() if k != "rule"},
            }
            for pair, read, counted in slides
        ],
        "slide_mae": _by_name(np.abs(gaps)),
        "score_agreement": {
            "n": len(both),
            "equal": int(np.trace(table)),
            "scores": list(HER2_SCORES),
            "counted_by_read": table.tolist(),
        },
        "rule": HER2_RULE,
    }


def _slide(tiles: TileTable, rule: ReadingRule) -> tuple[str, Her2Reading, Her2Reading]:
    """(pair, as read, as counted)."""
    used = tiles.select(used_tiles(tiles, rule) & np.isfinite(tiles.intensity_shares).all(axis=1))
    counted = tiles.select((tiles.usable > 0) & (tiles.clear > 0) & np.isfinite(tiles.intensities).all(axis=1))
    read = her2_fractions(used.intensity_shares, used.expected_cells)
    total = float(counted.cells.sum())
    true = None
    if total > 0:
        one, two, three = (float(v) for v in counted.intensities.sum(axis=0) / total)
        true = (max(0.0, 1 - one - two - three), one, two, three)
    return str(tiles.pair[0]), Her2Reading.of(read), Her2Reading.of(true)


def _true_shares(tiles: TileTable) -> Shares:
    return _all_four(tiles.intensities / tiles.cells[:, None])


def _all_four(shares: Shares) -> Shares:
    """float64[N, 3] of 1+, 2+, 3+ → float64[N, 4] with 0 before them."""
    return np.concatenate([1 - shares.sum(axis=1, keepdims=True), shares], axis=1)


def _by_name(gaps: Shares) -> dict[str, float] | None:
    """Mean of float64[N, 4] by class; None without any."""
    if not len(gaps):
        return None
    return {name: float(v) for name, v in zip(HER2_SCORES, gaps.mean(axis=0), strict=True)}
