"""`vstain records verify`: every sha256, every CRC, every record against the schema, the patients and the counts."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from virtual_stain.errors import OutputError, VerificationError
from virtual_stain.files import sha256_file
from virtual_stain.markers import ValueDefinition
from virtual_stain.progress import QUIET, Progress
from virtual_stain.records.duplicates import Duplicate, TissueIndex, write_duplicates
from virtual_stain.records.manifest import MANIFEST, Manifest, PairEntry, ShardEntry, read_manifest
from virtual_stain.records.schema import Record, problems_of
from virtual_stain.remote import Location

_LISTED = 30


@dataclass(slots=True)
class _Tally:
    """What the records of one pair add up to."""

    records: int = 0
    ratio: int = 0
    positive: int = 0
    negative: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verified:
    """A folder in which everything fits."""

    manifest: Manifest
    shards: int
    records: int
    duplicates: tuple[Duplicate, ...]
    """Pairs of different patients that show the same tissue: reported, since only people can say who is right."""


@dataclass(slots=True)
class _Seen:
    """What was read so far."""

    names: set[str] = field(default_factory=set)
    tissue: TissueIndex = field(default_factory=TissueIndex)


def verify_records(folder: Location, progress: Progress = QUIET) -> Verified:
    """Checks a whole folder of records. Raises InputError without a manifest, VerificationError that lists every
    problem with file and record. Leaves duplicates.json, where the folder can be written, for fit and evaluate."""
    manifest = read_manifest(folder)
    problems: list[str] = []
    seen = _Seen()
    n_shards = sum(len(pair.shards) for pair in manifest.pairs)
    listed = [(pair, shard) for pair in manifest.pairs for shard in pair.shards]
    tallies = {pair.pair: _Tally() for pair in manifest.pairs}
    for pair, shard in progress.track(listed, n_shards, "verifying", "shard"):
        problems += _check_shard(folder, manifest, pair, shard, tallies[pair.pair], seen)
    for pair in manifest.pairs:
        problems += _check_counts(pair, tallies[pair.pair])
    unlisted = {p.name for p in folder.glob("*.tfrecord")} - {shard.file for _, shard in listed}
    problems += [f"{folder / name}: not in the manifest" for name in sorted(unlisted)]
    if problems:
        shown = problems[:_LISTED] + ([f"… and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else [])
        raise VerificationError(
            f"{folder}: {len(problems)} problem{'s' if len(problems) > 1 else ''}:\n"
            + "\n".join(f"  - {p}" for p in shown),
            hint="Run the same vstain build-records again: damaged shards are packed anew from the work folder.",
        )
    duplicates = seen.tissue.duplicates()
    if isinstance(folder, Path):  # nothing is written to object storage
        with contextlib.suppress(OutputError):  # a read-only share is verified all the same
            write_duplicates(folder, sha256_file(folder / MANIFEST), duplicates)
    return Verified(manifest, n_shards, manifest.n_records, tuple(duplicates))


def _check_shard(
    folder: Location, manifest: Manifest, pair: PairEntry, shard: ShardEntry, tally: _Tally, seen: _Seen
) -> list[str]:
    from virtual_stain.records.read import iterate_shard

    path = folder / shard.file
    if not path.is_file():
        return [f"{path}: the file is missing"]
    problems: list[str] = []
    if path.stat().st_size != shard.bytes or sha256_file(path) != shard.sha256:
        problems.append(f"{path}: changed after the manifest was written (its sha256 differs)")
    count = 0
    try:
        for record in iterate_shard(path):
            place = f"{path}: record {count}"
            found = problems_of(record) or _misfits(manifest, pair, record)
            problems += [f"{place}: {p}" for p in found]
            name = str(record.get("image/filename"))
            if name in seen.names:
                problems.append(f"{place}: {name} is there twice")
            seen.names.add(name)
            if not found:
                tissue = float(record["tile/tissue_fraction"])
                seen.tissue.add(pair.pair, pair.patient_id, tissue, record["image/encoded"])
            _add(tally, record)
            count += 1
    except VerificationError as error:
        return [*problems, error.message]
    if count != shard.records:
        problems.append(f"{path}: expected {shard.records} records. Received: {count}")
    return problems


def _misfits(manifest: Manifest, pair: PairEntry, record: Record) -> list[str]:
    """What a sound record says that this folder does not."""
    expected = {
        "tile/pair": pair.pair,
        "tile/patient_id": pair.patient_id,
        "label/marker": pair.marker,
        "label/value_definition": manifest.value_definition,
        "image/width": manifest.tiling.tile_px,
        "image/height": manifest.tiling.tile_px,
        "registration/verdict": pair.registration.verdict or "",
    }
    problems = [
        f"{key}: expected {value!r}. Received: {record[key]!r}"
        for key, value in expected.items()
        if record[key] != value
    ]
    if record["review/verdict"] == "unreviewed" and not manifest.accept_unreviewed:
        problems.append("nobody has reviewed it, and the manifest does not waive that")
    is_ratio = ValueDefinition(manifest.value_definition).is_ratio
    if is_ratio and record["label/weight"] > 0 and len(record["cells/x"]) < manifest.min_tumour_cells:
        problems.append(f"its ratio may train with {len(record['cells/x'])} of {manifest.min_tumour_cells} cells")
    return problems + _picture_problems(record)


def _picture_problems(record: Record) -> list[str]:
    from virtual_stain.labels.jpeg import decode_jpeg

    try:
        shape = decode_jpeg(record["image/encoded"]).shape[:2]
    except VerificationError as error:
        return [f"image/encoded: {error.message}"]
    if shape != (record["image/height"], record["image/width"]):
        return [f"image/encoded: the picture has {shape[1]} × {shape[0]} px"]
    return []


def _add(tally: _Tally, record: Record) -> None:
    tally.records += 1
    if record.get("label/weight", 0) > 0:
        tally.ratio += 1
        tally.positive += record.get("label/positive", 0)
        tally.negative += record.get("label/negative", 0)


def _check_counts(pair: PairEntry, tally: _Tally) -> list[str]:
    expected = (pair.n_records, pair.n_ratio, pair.positive, pair.negative)
    received = (tally.records, tally.ratio, tally.positive, tally.negative)
    if expected == received:
        return []
    names = ("records", "with a ratio", "positive cells", "negative cells")
    differing = [
        f"{name}: {e} in the manifest, {r} in the shards"
        for name, e, r in zip(names, expected, received, strict=True)
        if e != r
    ]
    return [f"pair {pair.pair}: {'; '.join(differing)}"]
