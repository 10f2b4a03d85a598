"""Is an error the model's or the label's? Tile errors by the number of counted cells and by the registration error."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.evaluation.bootstrap import RESAMPLES, bootstrap_over_patients
from virtual_stain.evaluation.predict import TileTable
from virtual_stain.markers import ValueDefinition
from virtual_stain.training.metrics import mean_absolute_error, pearson

CELL_EDGES = (0.0, 50.0, 100.0, 200.0, 400.0, np.inf)
REGISTRATION_EDGES_UM = (0.0, 10.0, 20.0, 30.0, 60.0, np.inf)


def error_by_trust(known: TileTable, definition: ValueDefinition, *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """{"by_cells": […], "by_registration_um": […]} of labelled tiles; bins without tiles are left out.

    `label_error` is the standard error of the counted value (binomial of a fraction, Poisson of a count), mean over the
    bin: what even a perfect reader would be off by in the root mean square.
    """
    return {
        "by_cells": _bins(known, known.cells, CELL_EDGES, definition, resamples),
        "by_registration_um": _bins(known, known.registration_um, REGISTRATION_EDGES_UM, definition, resamples),
    }


def _bins(
    tiles: TileTable,
    value: npt.NDArray[np.float64],
    edges: tuple[float, ...],
    definition: ValueDefinition,
    resamples: int,
) -> list[dict[str, Any]]:
    rows = []
    for low, high in itertools.pairwise(edges):
        part = tiles.select((value >= low) & (value < high))
        if not len(part):
            continue

        def mae(index: npt.NDArray[np.intp], part: TileTable = part) -> dict[str, float | None]:
            return {"mae": mean_absolute_error(part.truth[index], part.value[index])}

        rows.append(
            {
                "from": low,
                "to": None if np.isinf(high) else high,
                "n_tiles": len(part),
                "n_patients": len(set(part.patient.tolist())),
                "mae": mae(np.arange(len(part)))["mae"],
                "mae_interval": bootstrap_over_patients(part.patient, mae, resamples=resamples)["mae"],
                "pearson": pearson(part.truth, part.value),
                "label_error": float(_standard_error(part, definition).mean()),
            }
        )
    return rows


def _standard_error(part: TileTable, definition: ValueDefinition) -> npt.NDArray[np.float64]:
    if definition.is_ratio:
        error: npt.NDArray[np.float64] = np.sqrt(part.truth * (1 - part.truth) / part.whole)
        return error
    # a quarter of a cell: a count of 0 is not certain either (Anscombe 1948)
    error = np.sqrt(part.counted + 0.25) / part.whole
    return error
