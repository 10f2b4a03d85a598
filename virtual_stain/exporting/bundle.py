"""The model bundle on disk: its card, the sha256 of every file, and the check before anything of it is loaded.

    MODEL/<version>/saved_model.pb, variables/, fingerprint.pb     the graph, with preprocessing inside
    MODEL/<version>/assets.extra/tf_serving_warmup_requests         what TF Serving replays on start
    MODEL/<version>/bundle.json                                     the card + every other file with size and sha256
    MODEL/<version>/bundle.sig                                      where signed: see signing.py

No TensorFlow here: a bundle is verified by people and machines that do not have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtual_stain.errors import ModelError, VerificationError
from virtual_stain.exporting.card import ModelCard, card_from_json
from virtual_stain.files import read_object, sha256_file, write_json

BUNDLE_JSON = "bundle.json"
BUNDLE_SIGNATURE = "bundle.sig"
SAVED_MODEL = "saved_model.pb"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle: `sha256` is that of bundle.json and, through it, of every file."""

    folder: Path
    card: ModelCard
    sha256: str


def versions(model: Path) -> tuple[int, ...]:
    """The integer versions below `model`, ascending, as TF Serving finds them."""
    try:
        names = [p.name for p in model.iterdir() if p.is_dir()]
    except OSError:
        return ()
    return _numbers(names)


def newest(names: Iterable[str]) -> int | None:
    """The highest version among names of folders; None without one."""
    return max(_numbers(names), default=None)


def _numbers(names: Iterable[str]) -> tuple[int, ...]:
    return tuple(sorted(int(n) for n in names if n.isascii() and n.isdigit() and len(n) < 19 and str(int(n)) == n))


def find_bundle(model: Path) -> Path:
    """`MODEL/<version>` for `MODEL` (its newest version) or for `MODEL/<version>` itself. Raises ModelError."""
    if (model / BUNDLE_JSON).is_file() or (model / SAVED_MODEL).is_file():
        return model
    found = versions(model)
    if not found:
        what = "an empty or foreign folder" if model.is_dir() else "a file" if model.exists() else "nothing there"
        raise ModelError(
            f"{model}: expected a model bundle (a folder with <version>/{BUNDLE_JSON}). Received: {what}.",
            hint="Make one with: vstain export RUN --out MODEL",
        )
    return model / str(found[-1])


def write_bundle_json(folder: Path, card: ModelCard) -> None:
    """Hashes every file of `folder` and writes bundle.json, which makes the folder a bundle. Raises OutputError."""
    write_json(folder / BUNDLE_JSON, card.to_json() | {"files": _files(folder)})


def verify_bundle(model: Path) -> Bundle:
    """Compares every file of the bundle with bundle.json; nothing of it has been loaded before.

    `model`: MODEL or MODEL/<version>. Raises ModelError (no bundle), VerificationError (exit 3) that names
    every missing, changed or additional file.
    """
    folder = find_bundle(model)
    value = _bundle_json(folder)
    card = card_from_json(value, str(folder / BUNDLE_JSON))
    listed = value.get("files")
    if not isinstance(listed, Mapping) or SAVED_MODEL not in listed:
        raise VerificationError(
            f"{folder / BUNDLE_JSON}: expected the sha256 of every file under 'files'. Received: {listed!r:.80}",
            hint="Export the run again: vstain export RUN --out MODEL",
        )
    problems = _differences(listed, _files(folder))
    if problems:
        raise VerificationError(
            f"{folder}: the bundle is not the one that was exported:\n" + "\n".join(f"  - {p}" for p in problems),
            hint="Copy it again from its source, or export the run again; nothing of it was loaded.",
        )
    require_version(folder.resolve().name, card, str(folder))
    return Bundle(folder=folder, card=card, sha256=sha256_file(folder / BUNDLE_JSON))


def require_version(name: str, card: ModelCard, where: str) -> None:
    """Raises VerificationError where a folder that is named as a version holds another one."""
    if _numbers([name]) and int(name) != card.version:
        raise VerificationError(
            f"{where}: expected version {name}. Received: version {card.version} of {card.name}, under another number.",
            hint=f"Copy it to a folder named {card.version}, or export the run again.",
        )


def _bundle_json(folder: Path) -> dict[str, Any]:
    path = folder / BUNDLE_JSON
    if not path.is_file():
        raise VerificationError(
            f"{path}: missing, so the files beside it cannot be verified.",
            hint="A SavedModel of another origin cannot be scored with; export the run: vstain export RUN --out MODEL",
        )
    return read_object(path, "a model bundle's card")


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file below `folder` except bundle.json and its signature; a link is listed as one, never as a file."""
    result: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            result[name] = {"bytes": -1, "sha256": "a link"}
        elif path.is_file() and name not in (BUNDLE_JSON, BUNDLE_SIGNATURE):
            result[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return result


def _differences(listed: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    problems = [f"{name}: missing" for name in sorted(set(listed) - set(found))]
    problems += [f"{name}: additional, not in {BUNDLE_JSON}" for name in sorted(set(found) - set(listed))]
    for name in sorted(set(listed) & set(found)):
        expected, received = listed[name], found[name]
        if not isinstance(expected, Mapping) or set(expected) != {"bytes", "sha256"}:
            problems.append(f"{name}: expected bytes and sha256 in {BUNDLE_JSON}. Received: {expected!r:.80}")
        elif expected["bytes"] != received["bytes"]:
            problems.append(f"{name}: changed, {expected['bytes']} bytes expected. Received: {received['bytes']}")
        elif expected["sha256"] != received["sha256"]:
            problems.append(
                f"{name}: changed, sha256 {expected['sha256']!s:.16}… expected. Received: {received['sha256']:.16}…"
            )
    return problems
