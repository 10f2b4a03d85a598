"""What scoring asks of a model, wherever it runs. No TensorFlow here."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from virtual_stain.export.card import ModelCard

Tiles = npt.NDArray[np.uint8]  # uint8[B, T, T, 3] RGB
Answers = dict[str, npt.NDArray[np.float32]]  # name of `ModelCard.outputs` → float32[B]

DEFAULT_BATCH = 4


class Predictor(Protocol):
    """A model that is ready: geometry, thresholds and markers come from its card.

    Optional beside these: `in_flight` (calls of `predict` that may run at once, default 1), `batch_size` (tiles a call
    that suit it), `engine` (what runs the network, for the report), `check(tiles)` (compares a fast engine with the
    reference on tiles of the slide and decides which to use) and `cancel()` (ends calls that wait for a server).
    """

    @property
    def card(self) -> ModelCard: ...

    @property
    def sha256(self) -> str:
        """Identifies the model's every byte."""

    def predict(self, tiles: Tiles) -> Answers:
        """Fractions 0–1 and expected tumour cells ≥ 0 of uint8[B, T, T, 3]; NaN: no reading.

        Raises ModelError.
        """


def predictor_batch(predictor: Predictor) -> int:
    """Tiles a call, where the settings leave it to the engine and its device."""
    return int(getattr(predictor, "batch_size", DEFAULT_BATCH))


def predictor_in_flight(predictor: Predictor) -> int:
    return int(getattr(predictor, "in_flight", 1))


def predictor_engine(predictor: Predictor) -> dict[str, Any]:
    return dict(getattr(predictor, "engine", {}))
