"""`manifest.json`: what lies in a folder of records, with patients, folds, counts and the sha256 of every shard.

Byte-equal for equal inputs: no times, no host names, no paths. Patients are keyed hashes.
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.errors import InputError, VerificationError
from virtual_stain.files import json_text, read_json, replacing
from virtual_stain.records.manifest_values import manifest_problems
from virtual_stain.records.schema import SCHEMA_VERSION
from virtual_stain.remote import Location
from virtual_stain.schema_check import require_schema

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class TilingEntry:
    """The geometry of every tile in the folder."""

    window_um: float
    stride_um: float
    tile_px: int

    @property
    def mpp(self) -> float:
        """Pixel size of a tile, µm/px."""
        return self.window_um / self.tile_px


@dataclass(frozen=True, slots=True)
class RegistrationEntry:
    """How well the two slides of a pair are aligned."""

    error_median_um: float | None
    error_p95_um: float | None
    verdict: str | None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One TFRecord file."""

    file: str
    sha256: str
    bytes: int
    records: int


@dataclass(frozen=True, slots=True)
class IhcEntry:
    """The IHC side of a pair's records (labels.keep_ihc)."""

    stain: SlideStain
    """Of the whole IHC slide, as the counting estimated it."""
    shards: tuple[ShardEntry, ...]
    """Parallel to the H&E shards: as many, each with as many records, in the same order."""


@dataclass(frozen=True, slots=True)
class PairEntry:
    """One slide pair that has records."""

    pair: str
    patient_id: str
    marker: str
    fold: int
    he_content_sha256: str
    ihc_content_sha256: str
    n_records: int
    n_ratio: int
    """Records whose value may train (weight > 0)."""
    positive: int
    """Positive tumour cells over those records."""
    negative: int
    registration: RegistrationEntry
    shards: tuple[ShardEntry, ...]
    ihc: IhcEntry | None = None
    """None, and absent from the file: only the H&E side was packed."""

    @property
    def all_shards(self) -> tuple[ShardEntry, ...]:
        """Those of the H&E side, then those of the IHC side where it was packed."""
        return (*self.shards, *(self.ihc.shards if self.ihc else ()))


@dataclass(frozen=True, slots=True)
class ExcludedEntry:
    """A pair of PAIRS.csv that has no records, and why."""

    pair: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole folder."""

    tiling: TilingEntry
    value_definition: str
    markers: tuple[str, ...]
    n_folds: int
    min_tumour_cells: int
    """Tumour cells below which a tile's ratio has weight 0."""
    patient_key_fingerprint: str
    accept_unreviewed: bool
    """True: tiles that nobody looked at are in the records (--accept-unreviewed)."""
    pairs: tuple[PairEntry, ...]
    excluded: tuple[ExcludedEntry, ...] = field(default=())
    schema_version: int = SCHEMA_VERSION

    @property
    def n_records(self) -> int:
        return sum(p.n_records for p in self.pairs)

    def folds(self) -> dict[str, int]:
        """patient_id → fold."""
        return {p.patient_id: p.fold for p in self.pairs}

    def pairs_in(self, folds: Iterable[int]) -> tuple[PairEntry, ...]:
        chosen = set(folds)
        return tuple(p for p in self.pairs if p.fold in chosen)

    def to_dict(self) -> dict[str, Any]:
        value = dataclasses.asdict(self)
        for pair in value["pairs"]:
            if pair["ihc"] is None:
                del pair["ihc"]
        return {"schema_version": value.pop("schema_version"), **value}


def shard_paths(folder: Location, pairs: Iterable[PairEntry]) -> list[Location]:
    """The shard files of some pairs, in the manifest's order."""
    return [folder / shard.file for pair in pairs for shard in pair.shards]


def write_manifest(folder: Path, manifest: Manifest, just_before: Callable[[], None] | None = None) -> Path:
    """Writes `folder`/manifest.json atomically, after checking it. Raises VerificationError, OutputError.

    `just_before` puts the shards in place: it is called when the new manifest lies whole on the disk and has but to be
    renamed. A disk that is full before keeps the older manifest and its shards.
    """
    path = folder / MANIFEST
    _check(path, manifest)
    with replacing(path) as temporary:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(json_text(manifest.to_dict()))
            stream.flush()
            os.fsync(stream.fileno())
        if just_before is not None:
            just_before()
    return path


def read_manifest(folder: Location) -> Manifest:
    """Reads and checks `folder`/manifest.json (not the shards: `vstain records verify` does).

    Raises InputError when there is none or it is of another schema version, VerificationError when it contradicts
    itself, above all when a patient stands in two folds.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{folder}: expected a folder of records with {MANIFEST}. Received a folder without it.",
            hint="vstain build-records PAIRS.csv --out DIR makes one.",
        )
    value = read_json(path, "the manifest of a folder of records")
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: expected schema_version {SCHEMA_VERSION}. Received: {version!r}",
            hint="Build the records again with this version of vstain; the work folder is used where it still fits.",
        )
    try:
        manifest: Manifest = _from_json(Manifest, value, "manifest")
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    _check(path, manifest)
    require_schema(value, "manifest", str(path))
    return manifest


def _check(path: Location, manifest: Manifest) -> None:
    problems = manifest_problems(manifest)
    if problems:
        raise VerificationError(f"{path}: the manifest contradicts itself:\n" + "\n".join(f"  - {p}" for p in problems))


def _from_json(hint: Any, value: Any, where: str) -> Any:
    """JSON → the annotated type; ValueError names the place."""
    if dataclasses.is_dataclass(hint):
        return _dataclass_from_json(hint, value, where)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return None if value is None else _from_json(typing.get_args(hint)[0], value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where}: expected a list. Received: {type(value).__name__}")
        item = typing.get_args(hint)[0]
        return tuple(_from_json(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where}: expected {hint.__name__}. Received: {value!r}")
    return value


def _dataclass_from_json(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected an object. Received: {type(value).__name__}")
    hints = typing.get_type_hints(cls)
    may_lack = {field.name for field in dataclasses.fields(cls) if field.default is None}
    if not set(hints) - may_lack <= set(value) <= set(hints):
        missing, unknown = sorted(set(hints) - may_lack - set(value)), sorted(set(value) - set(hints))
        raise ValueError(f"{where}: missing keys {missing}, unknown keys {unknown}")
    return cls(**{k: _from_json(hint, value[k], f"{where}.{k}") for k, hint in hints.items() if k in value})
