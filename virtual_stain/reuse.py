"""Is this output still what would be made now? The one answer, for every stage that keeps its work.

An output is *made from* inputs (hashes of slides, files, models), settings, and code. What it was made from is written
beside it, last, with the hashes of its files. It is finished when it was made from the same and its files are as they
were left. Nothing else decides that work is kept, and nothing else computes a hash of code.

The code of a stage is that of its module and of everything the module imports (`source_code`): so a stage's module
holds the stage and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtual_stain.errors import InputError
from virtual_stain.files import read_json, sha256_file, write_json
from virtual_stain.source_code import PACKAGE, source_tree

MADE_FROM, FILES = "made_from", "files"
_SETTINGS, _CODE = "settings", "code_sha256"


@dataclass(frozen=True, slots=True)
class MadeFrom:
    """What an output depends on: equal means that the one on disk is the one that would be made now."""

    inputs: Mapping[str, Any]
    """JSON values; contents by their hash, never by path."""
    settings: Mapping[str, Any]
    """JSON values: the settings that change the output, not those that say how fast."""
    code_sha256: str

    def to_json(self) -> dict[str, Any]:
        """As it stands in records: the inputs' own names, then `settings` and `code_sha256`."""
        return {**self.inputs, _SETTINGS: dict(self.settings), _CODE: self.code_sha256}

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of all of it: where a short form is stored, or enters what the next stage is made from."""
        return digest_of(self.to_json())

    def is_of(self, recorded: object) -> bool:
        """Whether a recorded `made_from` is equal."""
        return recorded == self.to_json()

    def is_same_request(self, recorded: object) -> bool:
        """Whether a recorded `made_from` has the same inputs and settings, by whatever code."""
        if not isinstance(recorded, Mapping):
            return False
        return {k: v for k, v in recorded.items() if k != _CODE} == {
            k: v for k, v in self.to_json().items() if k != _CODE
        }


def made_from(stage: str, *, inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> MadeFrom:
    """`stage`: `__name__` of the module that makes the output. Inputs and settings are taken as JSON would keep them.

    >>> made_from("virtual_stain.tiles", inputs={"slide": "ab12"}, settings={"step_um": 307.2}).inputs
    {'slide': 'ab12'}
    """
    plain = json.loads(json.dumps({"inputs": inputs, "settings": settings}, allow_nan=False))
    return MadeFrom(plain["inputs"], plain["settings"], code_sha256(stage))


def code_sha256(stage: str) -> str:
    """Hash (hex) of the code that the module `stage` (its `__name__`) depends on. Raises KeyError for another's."""
    return source_tree().sha256(stage.removeprefix(f"{PACKAGE}."))


def digest_of(value: Any) -> str:
    """sha256 (hex) of a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """name → sha256 of those files that are there."""
    return {name: sha256_file(folder / name) for name in names if (folder / name).is_file()}


def vouched(made: MadeFrom, folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """What a record says of an output: what it was made from, and its files as they lie there now."""
    return {MADE_FROM: made.to_json(), FILES: file_hashes(folder, names)}


def is_finished(record: object, made: MadeFrom, folder: Path, names: Iterable[str]) -> bool:
    """Whether the output that a record vouches for is what would be made now: made from the same, all of `names`
    there, and every file as it was left."""
    if not isinstance(record, Mapping) or not made.is_of(record.get(MADE_FROM)):
        return False
    files = record.get(FILES)
    if not isinstance(files, Mapping) or not set(names) <= set(files):
        return False
    try:
        return all(sha256_file(folder / name) == sha256 for name, sha256 in files.items())
    except InputError:  # a file is gone
        return False


def withdraw(path: Path) -> None:
    """Removes a record before its output is made anew: a kill must not leave one that vouches for half of it."""
    path.unlink(missing_ok=True)


def publish(path: Path, made: MadeFrom, names: Iterable[str], more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Writes the record that vouches for `names` beside it, and returns it. Called last. Raises OutputError."""
    record = {**(more or {}), **vouched(made, path.parent, names)}
    write_json(path, record)
    return record


def read_record(path: Path) -> dict[str, Any]:
    """The record as it stands; empty where there is none, or none that can be read: then nothing is vouched for."""
    try:
        record = read_json(path, "the record of a stage")
    except InputError:
        return {}
    return record if isinstance(record, dict) else {}
