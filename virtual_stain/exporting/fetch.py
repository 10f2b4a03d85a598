"""A model bundle from object storage: copied once into the user's cache, verified there, loaded from there.

Nothing of a bundle is loaded before every file of it has been verified, so it must lie where it can no longer change
between the check and the loading.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from virtual_stain.errors import InputError, ModelError, VerificationError
from virtual_stain.exporting.bundle import BUNDLE_JSON, BUNDLE_SIGNATURE, newest, require_version, verify_bundle
from virtual_stain.files import folder_lock, make_folder, output_errors, parse_json
from virtual_stain.progress import QUIET, Progress
from virtual_stain.remote import RemotePath

_MAX_CARD_BYTES = 64 << 20
_SIGNATURE_BYTES = 1 << 16


def default_cache(environment: Mapping[str, str] | None = None) -> Path:
    """`virtual_stain/models` in the user's cache folder (`XDG_CACHE_HOME`, else ~/.cache)."""
    env = os.environ if environment is None else environment
    base = Path(env.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "virtual_stain" / "models"


def fetch_bundle(model: RemotePath, cache: Path | None = None, progress: Progress = QUIET) -> Path:
    """The local copy of a bundle, `model` being MODEL (its newest version) or MODEL/<version>.

    A copy that is there and whole is not fetched again. Raises ModelError (no bundle there), VerificationError (its
    files are not those of its bundle.json), InputError (the server), OutputError (the cache).
    """
    folder = _find(model)
    try:
        size = (folder / BUNDLE_JSON).stat().st_size
        if size > _MAX_CARD_BYTES:
            raise VerificationError(f"{folder / BUNDLE_JSON}: expected a model card. Received: {size} bytes.")
        card = (folder / BUNDLE_JSON).read_bytes()
    except OSError as error:
        raise ModelError(f"{folder / BUNDLE_JSON}: cannot be read: {error.strerror}.") from None
    files = _files(card, str(folder / BUNDLE_JSON))
    root = default_cache() if cache is None else cache
    target = root / hashlib.sha256(card).hexdigest()[:32]
    make_folder(root)
    with folder_lock(root / f"{target.name}.lock", wait=True):  # another command may be fetching the same bundle
        if target.exists():
            try:
                whole = verify_bundle(target).folder
            except VerificationError:
                shutil.rmtree(target)  # somebody changed the copy: a new one
            else:
                if not (whole / BUNDLE_SIGNATURE).exists() and (folder / BUNDLE_SIGNATURE).is_file():
                    _copy(folder, BUNDLE_SIGNATURE, whole, _SIGNATURE_BYTES)  # signed since
                return whole
        temporary = root / f".new-{target.name}"
        with output_errors(root):
            shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
            try:
                temporary.mkdir(parents=True)
                (temporary / BUNDLE_JSON).write_bytes(card)
                for name in progress.track(files, len(files), "fetching the model", "file"):
                    _copy(folder, name, temporary, files[name])
                if (folder / BUNDLE_SIGNATURE).is_file():
                    _copy(folder, BUNDLE_SIGNATURE, temporary, _SIGNATURE_BYTES)
                require_version(folder.name, verify_bundle(temporary).card, str(folder))
                temporary.rename(target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
    return target


def _find(model: RemotePath) -> RemotePath:
    if (model / BUNDLE_JSON).is_file():
        return model
    try:
        found = newest(model.folders())
    except OSError:
        found = None  # no such folder
    if found is None:
        raise ModelError(
            f"{model}: expected a model bundle (a folder with <version>/{BUNDLE_JSON}). Received: none there.",
            hint="Copy the folder that vstain export wrote, with its versions, to this address.",
        )
    return model / str(found)


def _files(card: bytes, where: str) -> dict[str, int]:
    """Name → bytes of every file; a name that would leave the folder is refused."""
    try:
        value: Any = parse_json(card, f"{where}: expected a bundle's card")
        files = {str(name): int(entry["bytes"]) for name, entry in value["files"].items()}
    except (InputError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise VerificationError(f"{where}: expected a bundle's card. Received something else: {error!r}") from None
    for name, size in files.items():
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or size < 0:
            raise VerificationError(f"{where}: expected names of files inside the bundle. Received: {name!r}")
    return files


def _copy(folder: RemotePath, name: str, to: Path, limit: int) -> None:
    """At most `limit` bytes: a server that sends more is not followed; the sha256 is checked afterwards."""
    target = to / name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / name).open() as source, target.open("wb") as stream:
            left = limit + 1
            while left > 0 and (block := source.read(min(1 << 20, left))):
                stream.write(block)
                left -= len(block)
            stream.flush()
            os.fsync(stream.fileno())
    except FileNotFoundError:
        raise VerificationError(f"{folder / name}: missing, though {BUNDLE_JSON} lists it.") from None
