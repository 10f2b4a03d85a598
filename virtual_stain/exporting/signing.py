"""Ed25519 signatures of model bundles: who exported it, beside sha256's whether it is still what was exported.

    MODEL/<version>/bundle.sig      JSON: algorithm, public_key (base64), signature (base64) of bundle.json's bytes

bundle.json holds the sha256 of every other file, so its signature covers all of them. The private key is a PEM file of
the user's (PKCS#8, mode 0600); the public key lies beside it as `<key>.pub` and is what others trust. Source of the
scheme: RFC 8032. Needs the extra `sign` (package cryptography); no TensorFlow.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtual_stain.errors import ConfigError, InputError, OutputError, VerificationError
from virtual_stain.exporting.bundle import BUNDLE_JSON, BUNDLE_SIGNATURE
from virtual_stain.files import output_errors, read_json, write_bytes, write_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_ALGORITHM = "ed25519"
_PURPOSE = b"virtual_stain model bundle v1\n"  # so that no signature made for something else passes for one of a bundle
_RAW_BYTES, _SIGNATURE_BYTES = 32, 64


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are checked with."""

    raw: bytes
    """32 bytes, as in RFC 8032."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits, to be compared by eye."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def text(self) -> str:
        """Base64, as it stands in bundle.sig and in the registry."""
        return base64.b64encode(self.raw).decode("ascii")

    def accepts(self, message: bytes, signature: bytes) -> bool:
        """Whether the private half has signed these bytes."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key in memory; never printed."""

    _private: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        return PublicKey(self._private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """64 bytes, the same for the same message."""
        return self._private.sign(message)


def require_cryptography() -> None:
    """Raises ConfigError with the way out where the extra is not installed."""
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise ConfigError(
            "signatures need the package cryptography, which is not installed.",
            hint="pip install 'virtual-stain[sign]'",
        ) from None


def create_key(path: Path) -> PublicKey:
    """Writes a new private key to `path` (mode 0600) and the public one to `<path>.pub`.

    Raises ConfigError (extra missing), OutputError (a file of that name exists: a key is never overwritten).
    """
    require_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with output_errors(path):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise OutputError(f"{path}: a file of that name exists, and keys are never overwritten.") from None
        with os.fdopen(handle, "wb") as stream:
            stream.write(pem)
            stream.flush()
            os.fsync(stream.fileno())
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_bytes(path.with_name(path.name + ".pub"), public)
    return SigningKey(private).public


def load_signing_key(path: Path) -> SigningKey:
    """Reads a PEM private key. Raises ConfigError (extra missing), InputError (none, encrypted, or of another kind)."""
    require_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = _load(path, lambda data: serialization.load_pem_private_key(data, password=None), "private")
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path}: expected an Ed25519 private key. Received: {type(key).__name__}.", hint=_MAKE_ONE)
    return SigningKey(key)


def load_public_key(path: Path) -> PublicKey:
    """Reads a PEM public key. Raises ConfigError (extra missing), InputError (not one of Ed25519)."""
    require_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = _load(path, serialization.load_pem_public_key, "public")
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path}: expected an Ed25519 public key. Received: {type(key).__name__}.", hint=_MAKE_ONE)
    return PublicKey(key.public_bytes_raw())


_MAKE_ONE = "Make a pair of keys with: vstain models keygen --out KEY.pem (KEY.pem.pub is the public one)."


def _load(path: Path, parse: Any, kind: str) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the {kind} key cannot be read: {error.strerror}.", hint=_MAKE_ONE) from None
    try:
        return parse(data)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted and no password was given
        raise InputError(
            f"{path}: expected an unencrypted {kind} key in PEM. Received something else: {error!s:.100}",
            hint=_MAKE_ONE,
        ) from None


def public_key_of(text: object, where: str) -> PublicKey:
    """Base64 → PublicKey. Raises VerificationError that names `where`."""
    return PublicKey(decoded(text, _RAW_BYTES, f"{where}: public_key"))


def decoded(text: object, n_bytes: int, where: str) -> bytes:
    """Strict base64 of exactly `n_bytes` bytes. Raises VerificationError that names `where`."""
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != n_bytes:
        raise VerificationError(f"{where}: expected {n_bytes} bytes as base64. Received: {text!r:.80}")
    return data


def sign_bundle(folder: Path, key: SigningKey) -> None:
    """Writes `folder`/bundle.sig over `folder`/bundle.json. Raises OutputError, InputError (no bundle.json)."""
    value = {
        "algorithm": _ALGORITHM,
        "public_key": key.public.text,
        "signature": base64.b64encode(key.sign(_message(folder))).decode("ascii"),
    }
    write_json(folder / BUNDLE_SIGNATURE, value)


def signer_of(folder: Path) -> PublicKey | None:
    """The key whose signature of `folder`/bundle.json is intact; None where the bundle is not signed.

    That a signature is intact says nothing about whose key it is: compare with one that is trusted.
    Raises VerificationError (a signature that does not fit), ConfigError (extra missing).
    """
    path = folder / BUNDLE_SIGNATURE
    if not path.exists():
        return None
    require_cryptography()
    value = read_json(path, "the signature of a bundle")
    if not isinstance(value, dict) or value.get("algorithm") != _ALGORITHM:
        raise VerificationError(f"{path}: expected an {_ALGORITHM} signature. Received: {value!r:.80}")
    key = public_key_of(value.get("public_key"), str(path))
    signature = decoded(value.get("signature"), _SIGNATURE_BYTES, f"{path}: signature")
    if not key.accepts(_message(folder), signature):
        raise VerificationError(
            f"{folder / BUNDLE_JSON}: {BUNDLE_SIGNATURE} (key {key.fingerprint}) holds no signature of this file.",
            hint="The card or the signature was changed after the export: copy the bundle again from its source.",
        )
    return key


def require_signer(folder: Path, trusted: PublicKey) -> None:
    """Raises VerificationError unless the bundle carries an intact signature of exactly this key."""
    signer = signer_of(folder)
    if signer == trusted:
        return
    received = "no signature" if signer is None else f"one of key {signer.fingerprint}"
    raise VerificationError(
        f"{folder}: expected a bundle signed with the key {trusted.fingerprint}. Received: {received}.",
        hint="Take a bundle from its maker, or name another trusted key; nothing of this one was loaded.",
    )


def _message(folder: Path) -> bytes:
    try:
        return _PURPOSE + (folder / BUNDLE_JSON).read_bytes()
    except OSError as error:
        raise InputError(f"{folder / BUNDLE_JSON}: cannot be read: {error.strerror}.") from None
