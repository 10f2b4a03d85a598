"""From tiles to a slide: mean of the top N, mean and cell-weighted ratio of all, quantiles, and what to beware of.

Top-N mean: CN 114387243 A [0162-0169] (sort from large to small, mean of the first 30). It is a hot-spot
statistic: it grows with the number of tiles and noise biases it upward. The global readings are what IKWG, ASCO
and ESMO favour for Ki67; `global_ratio` is the one to compare with Σ positive / Σ cells of a whole slide, or, where the
value is a count, with Σ cells / Σ tissue of its tiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.markers import ValueDefinition

_WILSON_Z = 1.959964  # 95 %
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class SlideReading:
    """One marker's readings of a slide in the unit of its value (fraction 0–1, or cells per mm²); None where no tile
    carries a reading (never 0)."""

    top_mean: float | None
    top_n: int
    """Tiles in `top_mean`: the configured number, or all where there are fewer."""
    global_mean: float | None
    global_ratio: float | None
    """Weighted by what the value is a share of: expected tumour cells; of a count, tissue."""
    quantiles: dict[str, float] | None
    """"p05" … "p95" over the tiles, linear between order statistics."""
    n_tiles: int
    """Tiles that carry a reading."""
    expected_tumour_cells: float | None
    flags: tuple[str, ...]


def per_tissue(
    values: npt.NDArray[np.float64], tissue_fraction: npt.ArrayLike, definition: ValueDefinition
) -> npt.NDArray[np.float64]:
    """The network's answers for tiles as readings: a count per mm² of tile becomes one per mm² of tissue, as `vstain
    count` gives it, so that a narrow biopsy does not read less than the same tissue in a block. NaN without tissue."""
    if definition.is_ratio:
        return values
    tissue = np.asarray(tissue_fraction, np.float64)
    result: npt.NDArray[np.float64] = values / np.where(tissue > 0, tissue, np.nan)
    return result


def aggregate(
    values: npt.ArrayLike,
    tumour_cells: npt.ArrayLike,
    *,
    top_n: int,
    few_cells: int = 0,
    definition: ValueDefinition = ValueDefinition.POSITIVE_RATIO,
    tissue_fraction: npt.ArrayLike | None = None,
) -> SlideReading:
    """Readings over the used tiles of one slide.

    `values`: float[N] in 0–1, or ≥ 0 where `definition` is a count, which needs the `tissue_fraction` of the (equally
    large) tiles, float[N] > 0; `tumour_cells`: float[N] ≥ 0; all finite; N may be 0. `top_n` ≥ 1. Fewer expected cells
    than `few_cells` are flagged. Sums are exact (math.fsum), so the order of the tiles does not matter. Raises
    ValueError for values outside their ranges.
    """
    values = np.asarray(values, np.float64)
    cells = np.asarray(tumour_cells, np.float64)
    if values.ndim != 1 or values.shape != cells.shape:
        raise ValueError(f"Expected two arrays of one length. Received: {values.shape}, {cells.shape}")
    most = 1.0 if definition.is_ratio else np.finfo(np.float64).max
    if not (np.isfinite(cells).all() and (cells >= 0).all() and ((values >= 0) & (values <= most)).all()):
        raise ValueError("Expected fractions from 0 to 1 (counts: finite, ≥ 0) and finite cell numbers ≥ 0.")
    if top_n < 1:
        raise ValueError(f"Expected top_n ≥ 1. Received: {top_n}")
    n = len(values)
    if n == 0:
        return SlideReading(None, 0, None, None, None, 0, None, ("no_valid_tiles",))
    top = np.sort(values)[::-1][:top_n]
    total = math.fsum(cells)
    mean = math.fsum(values) / n
    weights = cells if definition.is_ratio else np.asarray(tissue_fraction, np.float64)
    if weights.shape != values.shape:
        raise ValueError(f"Expected the tissue fraction of {n} tiles. Received: {weights.shape}")
    whole = math.fsum(weights)
    points = np.quantile(values, QUANTILES)
    flags = [f"fewer_than_{top_n}_tiles"] if n < top_n else []
    if n > top_n:
        flags.append("top_mean_biased")  # chosen for being large: noise counts as signal
    if total < few_cells:
        flags.append(f"fewer_than_{few_cells}_tumour_cells")
    return SlideReading(
        top_mean=math.fsum(top) / len(top),
        top_n=len(top),
        global_mean=mean,
        global_ratio=math.fsum(values * weights) / whole if whole > 0 else None,
        quantiles={f"p{round(q * 100):02d}": float(v) for q, v in zip(QUANTILES, points, strict=True)},
        n_tiles=n,
        expected_tumour_cells=total,
        flags=tuple(flags),
    )


def wilson(k: int, n: int) -> tuple[float, float]:
    """Score interval of a proportion k of n > 0 at 95 % (Wilson, J. Am. Stat. Assoc. 1927; 22: 209–212)."""
    z2 = _WILSON_Z**2
    centre = (k + z2 / 2) / (n + z2)
    half = _WILSON_Z / (n + z2) * math.sqrt(k * (n - k) / n + z2 / 4)
    # at k = 0 and k = n the ends are 0 and 1 exactly, and rounding would miss them
    return (0.0 if k == 0 else max(0.0, centre - half), 1.0 if k == n else min(1.0, centre + half))
