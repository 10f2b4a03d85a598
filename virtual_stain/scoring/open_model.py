"""A model's name on the command line → a predictor that is ready."""

from __future__ import annotations

from pathlib import Path

from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ConfigError
from virtual_stain.remote import RemotePath, is_remote
from virtual_stain.scoring.address import is_server, parse_address
from virtual_stain.scoring.predictor import Predictor
from virtual_stain.scoring.start_tensorflow import start_tensorflow

_STORAGE = ("s3", "gs", "az")


def open_predictor(model: str, settings: ScoringSettings | None = None, trusted_key: Path | None = None) -> Predictor:
    """Verifies and loads `model`: a bundle folder, MODEL or MODEL/<version>, here or in object storage (s3://…).

    Of a model on a server (grpc://host:8500/name, http://host:8501/v1/models/name) it reads the card.

    Raises ConfigError, ModelError, VerificationError, InputError.
    """
    if is_server(model):
        if trusted_key is not None or (settings is not None and settings.require_signature):
            raise ConfigError(
                "--trusted-key: a server's bundle cannot be checked from here; its files are on the server.",
                hint="Verify it there: vstain models verify MODEL --public-key KEY.pub",
            )
        from virtual_stain.scoring.remote import RemotePredictor

        return RemotePredictor(parse_address(model), settings or ScoringSettings())
    storage = is_remote(model) and model.partition("://")[0] in _STORAGE
    if is_remote(model) and not storage:
        raise ConfigError(
            f"--model {model}: expected a bundle folder, s3://, gs:// or az://, or a server (grpc://, http://).",
            hint="For example --model MODEL, the folder that vstain export wrote, or --model grpc://host:8500/ki67",
        )
    if storage:
        from virtual_stain.exporting.fetch import fetch_bundle

        return _local(fetch_bundle(RemotePath(model.rstrip("/"))), settings, trusted_key)
    return _local(Path(model), settings, trusted_key)


def _local(model: Path, settings: ScoringSettings | None, trusted_key: Path | None) -> Predictor:
    if trusted_key is not None:
        # before anything of the bundle is loaded; the files themselves are compared with bundle.json when it is opened
        from virtual_stain.exporting.signing import load_public_key
        from virtual_stain.exporting.trust import require_trusted

        require_trusted(model, load_public_key(trusted_key))
    elif settings is not None and settings.require_signature:
        raise ConfigError(
            "scoring.require_signature: expected a key that the bundle must be signed with. Received: none.",
            hint="vstain score … --trusted-key KEY.pem.pub",
        )
    start_tensorflow()  # seconds and 300 MB, only when needed
    if settings is not None and settings.engine == "openvino":
        from virtual_stain.scoring.openvino_engine import OpenVinoPredictor

        return OpenVinoPredictor(model, settings)
    from virtual_stain.scoring.local import LocalPredictor

    return LocalPredictor(model, settings)
