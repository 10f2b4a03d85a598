"""The registry of exported models: a file that only grows, each line bound to all lines before it.

`registry.jsonl`, one JSON object a line: `index, previous, model, version, bundle_sha256, time_utc` and, where signed,
`public_key, signature`. `previous` is the sha256 of the line before (64 zeros for the first), so that no line can be
changed, removed or moved without breaking all that follow; the sha256 of the last line, the *head*, noted elsewhere,
also shows that nothing was cut off at the end. This is the tamper-evident storage that the source asks for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtual_stain.errors import InputError, VerificationError
from virtual_stain.exporting.bundle import Bundle
from virtual_stain.exporting.signing import PublicKey, SigningKey, decoded, public_key_of, require_cryptography
from virtual_stain.files import folder_lock, parse_json, write_bytes

REGISTRY = "registry.jsonl"
_GENESIS = "0" * 64
_PURPOSE = b"virtual_stain model registry v1\n"
_KEYS = ("index", "previous", "model", "version", "bundle_sha256", "time_utc")


@dataclass(frozen=True, slots=True)
class Entry:
    """One exported version, as the registry has it."""

    model: str
    version: int
    bundle_sha256: str
    """Of bundle.json and, through it, of every file."""
    time_utc: str
    signer: PublicKey | None


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry whose chain holds."""

    entries: tuple[Entry, ...]
    head: str
    """sha256 of the last line; 64 zeros for an empty registry."""

    def find(self, bundle: Bundle) -> Entry | None:
        """The newest entry of exactly this bundle."""
        for entry in reversed(self.entries):
            if (entry.model, entry.version, entry.bundle_sha256) == _identity(bundle):
                return entry
        return None

    def newest(self, model: str) -> Entry | None:
        """The last entry of a model: the order of the lines decides, not the number."""
        return next((entry for entry in reversed(self.entries) if entry.model == model), None)


def append(path: Path, bundle: Bundle, key: SigningKey | None) -> str:
    """Adds a verified bundle to the registry, unless it stands there already; returns the head.

    Raises VerificationError (the chain is broken: nothing is added to a registry that was tampered with), OutputError.
    """
    with folder_lock(path.parent):
        registry = read_registry(path) if path.exists() else Registry((), _GENESIS)
        if registry.find(bundle) is not None:
            return registry.head
        model, version, digest = _identity(bundle)
        value: dict[str, Any] = {
            "index": len(registry.entries),
            "previous": registry.head,
            "model": model,
            "version": version,
            "bundle_sha256": digest,
            "time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        if key is not None:
            signature = base64.b64encode(key.sign(_message(value))).decode("ascii")
            value |= {"public_key": key.public.text, "signature": signature}
        line = _line(value)
        before = path.read_bytes() if path.exists() else b""
        write_bytes(path, before + line + b"\n")
        return hashlib.sha256(line).hexdigest()


def read_registry(path: Path, head: str | None = None) -> Registry:
    """Reads and verifies the whole chain. `head`: what the last line's sha256 must be, or begin with (≥ 16 digits).

    Raises VerificationError that names the first line that does not fit.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise VerificationError(f"{path}: the registry cannot be read: {error.strerror}.") from None
    if lines.pop() != b"":
        raise VerificationError(f"{path}: the last line is cut off.", hint=_RESTORE)
    entries: list[Entry] = []
    previous = _GENESIS
    for number, line in enumerate(lines, 1):
        entries.append(_entry(line, number, previous, f"{path}:{number}"))
        previous = hashlib.sha256(line).hexdigest()
    if head is not None and not (len(head) >= 16 and previous.startswith(head.lower())):
        raise VerificationError(f"{path}: expected the head {head}. Received: {previous}.", hint=_RESTORE)
    return Registry(tuple(entries), previous)


_RESTORE = "The registry was changed or cut off: restore it from a copy, and find out who wrote to it."


def _entry(line: bytes, number: int, previous: str, where: str) -> Entry:
    try:
        value = parse_json(line, where)
    except InputError:
        value = None
    signed = isinstance(value, dict) and "signature" in value
    keys = (*_KEYS, "public_key", "signature") if signed else _KEYS
    if not isinstance(value, dict) or tuple(value) != keys or _line(value) != line:
        raise VerificationError(f"{where}: expected a line of the registry. Received: {line[:80]!r}", hint=_RESTORE)
    if not _is_typed(value):
        raise VerificationError(f"{where}: expected names, versions and hashes. Received: {line[:80]!r}", hint=_RESTORE)
    if value["previous"] != previous or value["index"] != number - 1:
        raise VerificationError(
            f"{where}: expected index {number - 1} after a line of sha256 {previous:.16}…. "
            f"Received: index {value['index']}, after {value['previous']!s:.16}…",
            hint=_RESTORE,
        )
    signer = None
    if signed:
        require_cryptography()
        signer = public_key_of(value["public_key"], where)
        if not signer.accepts(_message(value), decoded(value["signature"], 64, f"{where}: signature")):
            raise VerificationError(f"{where}: the signature (key {signer.fingerprint}) is not one of this line.")
    return Entry(str(value["model"]), int(value["version"]), str(value["bundle_sha256"]), value["time_utc"], signer)


def _is_typed(value: dict[str, Any]) -> bool:
    numbers = all(type(value[key]) is int and value[key] >= 0 for key in ("index", "version"))
    return numbers and all(isinstance(value[key], str) for key in _KEYS if key not in ("index", "version"))


def _identity(bundle: Bundle) -> tuple[str, int, str]:
    return bundle.card.name, bundle.card.version, bundle.sha256


def _message(value: dict[str, Any]) -> bytes:
    return _PURPOSE + _line({key: value[key] for key in _KEYS})


def _line(value: dict[str, Any]) -> bytes:
    """One way to write a line, so that equal content is equal bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")
