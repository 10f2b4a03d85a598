"""When the loss is no longer a number: which step it was, and which tiles were in its batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.errors import ModelError
from virtual_stain.files import write_json

NAN_BATCH = "nan_batch.json"
_SHOWN = 4


@dataclasses.dataclass(frozen=True, slots=True)
class BatchNames:
    """What tells a batch again; small enough to keep for every step since the last look."""

    tile: Any
    """string[B]: <pair>/<col>_<row>."""
    origin: Any
    """int32[B, 2]: left and top of the crop, tile px."""
    cells: Any
    positive: Any


def require_numbers(
    folder: Path,
    losses: npt.NDArray[np.float32],
    batches: list[BatchNames],
    first_step: int,
    learning_rate: float,
) -> None:
    """Raises ModelError that names the first batch whose loss or gradient is not finite, listed in nan_batch.json.

    `losses`: float32[N, 3] (ratio, cells, norm of the gradient) of the steps from `first_step` (counted from 1) on.
    """
    bad = np.flatnonzero(~np.isfinite(losses).all(axis=1))
    if not len(bad):
        return
    index = int(bad[0])
    step, batch = first_step + index, batches[index]
    tiles = [t.decode() for t in np.asarray(batch.tile)]
    what = "loss" if not np.isfinite(losses[index, :2]).all() else "gradient"
    write_json(
        folder / NAN_BATCH,
        {
            "step": step,
            "not_a_number": what,
            "learning_rate": learning_rate,
            "crops": [
                {"tile": tile, "x": int(x), "y": int(y), "tumour_cells": cells.tolist(), "positive": positive.tolist()}
                for tile, (x, y), cells, positive in zip(
                    tiles,
                    np.asarray(batch.origin),
                    np.asarray(batch.cells),
                    np.asarray(batch.positive),
                    strict=True,
                )
            ],
        },
    )
    more = f" and {len(tiles) - _SHOWN} more" if len(tiles) > _SHOWN else ""
    raise ModelError(
        f"{folder}: the {what} is no longer a number at step {step} (learning rate {learning_rate:.3g}). Its batch: "
        f"{', '.join(tiles[:_SHOWN])}{more}, listed in {NAN_BATCH}. Training has stopped; the weights of the best "
        "validation are kept.",
        hint="Look at these tiles (vstain records show). If they are sound, start again with a lower "
        "training.learning_rate, or training.clip_norm = 1.0.",
    )
