"""What H&E can tell at best: ridge regression of a tile's true ratio on its true nuclear statistics.

A model that reads pixels cannot know more than the nuclei hold. Training and evaluation are split by patient, as for
any model (Hoerl & Kennard 1970 for the ridge).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.phantom.tile_table import TileTable

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Correlations on the held-out patients."""

    within_patient_r: float
    """Mean over held-out patients of Pearson's r over their tiles."""
    pooled_r: float
    """Pearson's r over all held-out tiles together."""
    per_patient_r: tuple[float, ...]
    predicted: tuple[Floats, ...]
    """Per held-out patient float64[T]: the ratios of its tiles, as the regression gives them."""
    n_training_tiles: int
    n_held_out_tiles: int


def ridge_ceiling(training: Sequence[TileTable], held_out: Sequence[TileTable], *, penalty: float = 3.0) -> Ceiling:
    """Fits on `training` patients and evaluates on `held_out` ones; one table per patient, usable tiles only.

    The statistics are standardized with the training patients' numbers; `penalty` is the ridge's λ for standardized
    columns. Raises ValueError where a side has fewer than three usable tiles per patient or 12 training tiles in all.
    """
    return fit_ceiling([_columns(t) for t in training], [_columns(t) for t in held_out], penalty=penalty)


def slide_ratio(table: TileTable, predicted: Floats) -> float:
    """Ratio of a slide from those of its usable tiles, weighted by the tumour nuclei of the H&E section; 0–1.

    The regression knows no more of a patient than the nuclei show, so its error on a slide is an offset between
    patients that no reader of the H&E slide can know.
    """
    return float(np.average(np.clip(predicted, 0.0, 1.0), weights=table.he_tumour[table.usable]))


def fit_ceiling(
    training: Sequence[tuple[Floats, Floats]], held_out: Sequence[tuple[Floats, Floats]], *, penalty: float = 3.0
) -> Ceiling:
    """The same for any statistics: per patient (float64[T, K] statistics, float64[T] ratios)."""
    if not training or not held_out or sum(len(y) for _, y in training) < 12 or min(len(y) for _, y in held_out) < 3:
        sizes = [len(y) for _, y in training], [len(y) for _, y in held_out]
        raise ValueError(f"Expected ≥ 12 training tiles and ≥ 3 tiles per held-out patient. Received: {sizes}")
    x = np.concatenate([x for x, _ in training])
    y = np.concatenate([y for _, y in training])
    mean, sd = x.mean(axis=0), x.std(axis=0)
    sd = np.where(sd > 1e-12, sd, 1.0)
    z = (x - mean) / sd
    weights = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y - y.mean()))
    predicted = [((x - mean) / sd) @ weights + y.mean() for x, _ in held_out]
    per_patient = tuple(pearson_r(p, y) for p, (_, y) in zip(predicted, held_out, strict=True))
    return Ceiling(
        within_patient_r=float(np.mean(per_patient)),
        pooled_r=pearson_r(np.concatenate(predicted), np.concatenate([y for _, y in held_out])),
        per_patient_r=per_patient,
        predicted=tuple(predicted),
        n_training_tiles=len(y),
        n_held_out_tiles=sum(len(y) for _, y in held_out),
    )


def pearson_r(a: Floats, b: Floats) -> float:
    """Pearson's correlation; 0 where either side is constant."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / scale) if scale > 1e-12 else 0.0


def _columns(table: TileTable) -> tuple[Floats, Floats]:
    usable = table.usable
    return table.statistics()[usable], table.ratio[usable]
