"""`vstain models`: what a bundle is, whether it is still that, who vouches for it, and the registry beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from virtual_stain.errors import VerificationError
from virtual_stain.exporting import registry as registry_file
from virtual_stain.exporting.bundle import Bundle, find_bundle, verify_bundle, versions
from virtual_stain.exporting.registry import REGISTRY, read_registry
from virtual_stain.exporting.signing import PublicKey, SigningKey, require_signer, sign_bundle, signer_of
from virtual_stain.exporting.trust import require_name


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """What was found true of one version."""

    bundle: Bundle
    n_files: int
    signer: PublicKey | None
    trusted: bool
    """The signer is the key that the caller trusts."""
    registered_utc: str | None
    head: str | None
    """The registry's, where there is one."""

    def lines(self) -> list[str]:
        """For people."""
        card = self.bundle.card
        if self.signer is None:
            signed = "no"
        elif self.trusted:
            signed = f"by the trusted key {self.signer.fingerprint}"
        else:
            signed = f"by key {self.signer.fingerprint}, which nothing here vouches for (--public-key KEY.pem.pub)"
        return [
            f"{self.bundle.folder}: {card.name} version {card.version}",
            f"  files       {self.n_files}, each as it was exported",
            f"  bundle      sha256 {self.bundle.sha256}",
            f"  signed      {signed}",
            f"  registry    {'none' if self.head is None else f'since {self.registered_utc}, head {self.head}'}",
        ]


def default_registry(model: Path) -> Path:
    """`registry.jsonl` beside the versions."""
    return find_bundle(model).resolve().parent / REGISTRY


def check_model(
    model: Path, *, trusted: PublicKey | None = None, registry: Path | None = None, head: str | None = None
) -> ModelCheck:
    """Verifies MODEL (its newest version) or MODEL/<version>; nothing of the bundle's code is loaded.

    `trusted`: the bundle must be signed with it. `registry`: default the one beside the versions, if there is one; the
    bundle must stand in it. Raises ModelError (no bundle), VerificationError (anything that does not fit), ConfigError.
    """
    bundle = verify_bundle(model)
    signer = signer_of(bundle.folder)
    if trusted is not None:
        require_signer(bundle.folder, trusted)
        require_name(bundle)
    path = registry or default_registry(model)
    registered, found_head = None, None
    if registry is not None or head is not None or path.exists():
        chain = read_registry(path, head)
        entry = chain.find(bundle)
        if entry is None:
            raise VerificationError(
                f"{path}: expected an entry of {bundle.card.name} version {bundle.card.version}, bundle sha256 "
                f"{bundle.sha256:.16}…. Received: none among {len(chain.entries)} entries.",
                hint=f"If you exported it yourself: vstain models sign {bundle.folder} --key KEY.pem",
            )
        if trusted is not None and entry.signer != trusted:
            raise VerificationError(f"{path}: the entry of {bundle.folder} is not signed with {trusted.fingerprint}.")
        last = chain.newest(bundle.card.name)
        if trusted is not None and bundle.folder != model and last is not None and last.version != bundle.card.version:
            raise VerificationError(
                f"{bundle.folder}: expected version {last.version}, the newest of {path}. "
                f"Received: version {bundle.card.version}.",
                hint=f"To check it all the same, name it: {bundle.folder}",
            )
        registered, found_head = entry.time_utc, chain.head
    n_files = sum(1 for p in bundle.folder.rglob("*") if p.is_file())
    return ModelCheck(bundle, n_files, signer, signer is not None and signer == trusted, registered, found_head)


def models_below(model: Path, *, all_versions: bool) -> list[Path]:
    """The folders to check: the newest version, or every one."""
    found = versions(model)
    return [model / str(n) for n in found] if all_versions and found else [model]


def sign_model(model: Path, key: SigningKey, registry: Path | None = None) -> str:
    """Signs a verified bundle and adds it to the registry; returns the registry's head.

    A bundle that another key has signed is left alone. Raises ModelError, VerificationError, OutputError.
    """
    bundle = verify_bundle(model)
    signer = signer_of(bundle.folder)
    if signer is None:
        sign_bundle(bundle.folder, key)
    elif signer != key.public:
        raise VerificationError(
            f"{bundle.folder}: signed already, with key {signer.fingerprint}. Received: key {key.public.fingerprint}.",
            hint="Export the run again under your own key: vstain export RUN --out MODEL --sign KEY.pem",
        )
    return registry_file.append(registry or default_registry(model), bundle, key)
