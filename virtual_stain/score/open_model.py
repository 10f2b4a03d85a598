"""A model's name on the command line → a predictor that is ready."""

from __future__ import annotations

from pathlib import Path

from virtual_stain.errors import ConfigError
from virtual_stain.score.predictor import Predictor


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
