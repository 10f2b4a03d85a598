"""Is this the model that its maker vouches for under this name? More than an intact signature.

The signature covers the card, and the card says name, version and markers. A signed version that is copied under
another number or another model's name is signed all the same; so folder and card must agree, and where a registry lies
beside the versions, its last line of that model decides which version is the newest.
"""

from __future__ import annotations

from pathlib import Path

from virtual_stain.errors import VerificationError
from virtual_stain.exporting.bundle import Bundle, find_bundle, verify_bundle
from virtual_stain.exporting.card import model_name
from virtual_stain.exporting.registry import REGISTRY, read_registry
from virtual_stain.exporting.signing import PublicKey, require_signer


def require_trusted(model: Path, trusted: PublicKey) -> Bundle:
    """`model`: MODEL or MODEL/<version>, verified and named as its signed card says.

    Without a version it must be the newest one of the registry, where there is one. Raises ModelError,
    VerificationError, ConfigError.
    """
    require_signer(find_bundle(model), trusted)
    bundle = verify_bundle(model)
    require_name(bundle)
    registry = bundle.folder.resolve().parent / REGISTRY
    if registry.is_file():
        _require_registered(bundle, registry, trusted, newest=bundle.folder != model)
    return bundle


def require_name(bundle: Bundle) -> None:
    """Raises VerificationError unless the folder of the versions is named as the card says."""
    folder = bundle.folder.resolve()
    if folder.name == str(bundle.card.version) and bundle.card.name not in (
        folder.parent.name,
        model_name(folder.parent),
    ):
        markers = ", ".join(m.label for m in bundle.card.markers)
        raise VerificationError(
            f"{folder.parent}: expected the model of that name. Received: {bundle.card.name} version "
            f"{bundle.card.version}, signed as a model of {markers}.",
            hint=f"If that is the one you want, name its folder {bundle.card.name}.",
        )


def _require_registered(bundle: Bundle, path: Path, trusted: PublicKey, *, newest: bool) -> None:
    chain = read_registry(path)
    entry = chain.find(bundle)
    if entry is None or entry.signer != trusted:
        raise VerificationError(
            f"{path}: expected an entry of {bundle.card.name} version {bundle.card.version} that is signed with "
            f"{trusted.fingerprint}. Received: {'none' if entry is None else 'one of another key'}.",
        )
    last = chain.newest(bundle.card.name)
    if newest and last is not None and last.version != bundle.card.version:
        raise VerificationError(
            f"{bundle.folder}: expected version {last.version}, the newest of {path}. "
            f"Received: version {bundle.card.version}.",
            hint=f"Name the version that you want: {bundle.folder}",
        )
