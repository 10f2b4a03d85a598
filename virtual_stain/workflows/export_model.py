"""`vstain export`: a run as a bundle, signed and registered on request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from virtual_stain.exporting.signing import load_signing_key, sign_bundle
from virtual_stain.progress import QUIET, Progress
from virtual_stain.workflows.verify_models import sign_model


@dataclass(frozen=True, slots=True)
class Exported:
    """A version that is whole."""

    folder: Path
    head: str | None
    """The registry's, where it was signed."""


def export_model(
    run: Path,
    out: Path,
    *,
    version: int | None = None,
    name: str | None = None,
    sign: Path | None = None,
    progress: Progress = QUIET,
) -> Exported:
    """Exports `run` as the next version of `out`; with a private key `sign` no unsigned version ever appears.

    The key is read first: a wrong one costs no export. Raises InputError, ModelError, OutputError, ConfigError.
    """
    key = None if sign is None else load_signing_key(sign)
    from virtual_stain.exporting.saved_model import export_run  # TensorFlow: seconds, only when needed

    seal = None if key is None else lambda folder: sign_bundle(folder, key)
    folder = export_run(run, out, version=version, name=name, seal=seal, progress=progress)
    return Exported(folder, None if key is None else sign_model(folder, key))
