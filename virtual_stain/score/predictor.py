"""What scoring asks of a model, wherever it runs. No TensorFlow here."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from virtual_stain.errors import ConfigError
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


def open_predictor(model: str) -> Predictor:
    """Verifies and loads `model`: a bundle folder, MODEL or MODEL/<version>.

    Raises ConfigError for a server's address (not built in this version), ModelError, VerificationError.
    """
    if "://" in model:
        raise ConfigError(
            f"{model}: scoring through a model server is not built in this version.",
            hint="Give the bundle folder instead: --model MODEL (the folder that vstain export wrote).",
        )
    from virtual_stain.score.local import LocalPredictor  # TensorFlow: seconds and 440 MB, only when needed

    return LocalPredictor(Path(model))
