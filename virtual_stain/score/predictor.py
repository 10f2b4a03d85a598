"""What scoring asks of a model, wherever it runs. No TensorFlow here."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from virtual_stain.export.card import ModelCard

Tiles = npt.NDArray[np.uint8]  # uint8[B, T, T, 3] RGB
Answers = dict[str, npt.NDArray[np.float32]]  # "<marker>" and "<marker>_tumour_cells" → float32[B]


class Predictor(Protocol):
    """A model that is ready: geometry, thresholds and markers come from its card."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def sha256(self) -> str:
        """Identifies the model's every byte."""

    def predict(self, tiles: Tiles) -> Answers:
        """Fractions 0–1 and expected tumour cells ≥ 0 of uint8[B, T, T, 3]; NaN: no reading.

        Raises ModelError.
        """
