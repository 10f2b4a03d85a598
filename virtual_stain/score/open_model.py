"""A model's name on the command line → a predictor that is ready."""

from __future__ import annotations

from pathlib import Path

from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ConfigError
from virtual_stain.remote import RemotePath, is_remote
from virtual_stain.score.predictor import Predictor

_STORAGE = ("s3", "gs", "az")


def open_predictor(model: str, settings: ScoringSettings | None = None) -> Predictor:
    """Verifies and loads `model`: a bundle folder, MODEL or MODEL/<version>, here or in object storage (s3://…).

    Raises ConfigError for a server's address (not built in this version), ModelError, VerificationError, InputError.
    """
    storage = is_remote(model) and model.partition("://")[0] in _STORAGE
    if is_remote(model) and not storage:
        raise ConfigError(
            f"{model}: scoring through a model server is not built in this version.",
            hint="Give the bundle folder instead: --model MODEL (the folder that vstain export wrote).",
        )
    from virtual_stain.score.local import LocalPredictor  # TensorFlow: seconds and 440 MB, only when needed

    if storage:
        from virtual_stain.export.fetch import fetch_bundle

        return LocalPredictor(fetch_bundle(RemotePath(model.rstrip("/"))), settings)
    return LocalPredictor(Path(model), settings)
