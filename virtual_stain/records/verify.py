"""`vstain records verify`: every sha256, every CRC, every record against the schema, the patients and the counts."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
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
_GRID_FRACTION = 0.01  # of a window: positions are stored as float32
_LABEL_ID = re.compile(r"[0-9a-f]{32}")


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
    labels: set[str] = field(default_factory=set)
    sizes: dict[str, tuple[object, object]] = field(default_factory=dict)
    """pair → width and height of its windows, level-0 px."""
    origins: dict[tuple[str, str], float] = field(default_factory=dict)
    """(pair, axis) → where its grid begins, level-0 px."""
    tissue: TissueIndex = field(default_factory=TissueIndex)


def verify_records(folder: Location, progress: Progress = QUIET) -> Verified:
    """Checks a whole folder of records. Raises InputError without a manifest, VerificationError that lists every
    problem with file and record. Leaves duplicates.json, where the folder can be written, for fit and evaluate."""
    manifest = read_manifest(folder)
    problems: list[str] = []
    seen = _Seen()
    n_shards = sum(len(pair.all_shards) for pair in manifest.pairs)
    listed = [(pair, shard) for pair in manifest.pairs for shard in pair.shards]
    tallies = {pair.pair: _Tally() for pair in manifest.pairs}
    for pair, shard in progress.track(listed, len(listed), "verifying", "shard"):
        problems += _check_shard(folder, manifest, pair, shard, tallies[pair.pair], seen)
    for pair in manifest.pairs:
        problems += _check_counts(pair, tallies[pair.pair])
        problems += _check_ihc(folder, pair)
    unlisted = {p.name for p in folder.glob("*.tfrecord")} - {s.file for p in manifest.pairs for s in p.all_shards}
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
            label = str(record.get("label/id"))
            if label in seen.labels:
                problems.append(f"{place}: label {label} is there twice")
            seen.labels.add(label)
            sizes = (record.get("tile/width_px0"), record.get("tile/height_px0"))
            if seen.sizes.setdefault(pair.pair, sizes) != sizes:
                problems.append(f"{place}: its window is of another size than those before, {sizes} px")
            name = str(record.get("image/filename"))
            if name in seen.names:
                problems.append(f"{place}: {name} is there twice")
            seen.names.add(name)
            if not found:
                problems += [f"{place}: {p}" for p in _grid_problems(manifest, pair, record, seen)]
                tissue = float(record["tile/tissue_fraction"])
                seen.tissue.add(pair.pair, pair.patient_id, tissue, record["image/encoded"])
            _add(tally, record)
            count += 1
    except VerificationError as error:
        return [*problems, error.message]
    if count != shard.records:
        problems.append(f"{path}: expected {shard.records} records. Received: {count}")
    return problems


def _check_ihc(folder: Location, pair: PairEntry) -> list[str]:
    """The IHC shards are those of the manifest, and tile for tile the other side of the H&E shards."""
    from virtual_stain.records.ihc_shards import ihc_problems

    if pair.ihc is None:
        return []
    problems = _changed_files(folder, pair.ihc.shards)
    # of files that are missing or changed nothing else needs to be said
    return problems or ihc_problems(folder, pair)


def _changed_files(folder: Location, shards: Sequence[ShardEntry]) -> list[str]:
    problems: list[str] = []
    for shard in shards:
        path = folder / shard.file
        if not path.is_file():
            problems.append(f"{path}: the file is missing")
        elif path.stat().st_size != shard.bytes or sha256_file(path) != shard.sha256:
            problems.append(f"{path}: changed after the manifest was written (its sha256 differs)")
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
        "image/format": "jpeg",
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
    return problems + _scale_problems(manifest, record) + _picture_problems(record)


_SLIDE_MPP = (0.02, 5.0)
"""µm per level-0 px of slides that tiles are cut from."""


def _scale_problems(manifest: Manifest, record: Record) -> list[str]:
    """The record's own pixel size and window against the manifest's: a wrong scale reads wrong, and looks right."""
    problems: list[str] = []
    mpp = float(record["tile/mpp"])
    if not math.isclose(mpp, manifest.tiling.mpp, rel_tol=1e-5):
        problems.append(f"tile/mpp: expected {manifest.tiling.mpp:g} (window_um / tile_px). Received: {mpp:g}")
    for side in ("width", "height"):
        size = float(record[f"tile/{side}_px0"])
        low, high = (manifest.tiling.window_um / limit for limit in reversed(_SLIDE_MPP))
        if not low <= size <= high:
            problems.append(f"tile/{side}_px0: expected {low:.0f} to {high:.0f} px. Received: {size:g}")
    if not 0 <= record["tile/tissue_fraction"] <= 1:
        problems.append(f"tile/tissue_fraction: expected 0 to 1. Received: {record['tile/tissue_fraction']}")
    if not _LABEL_ID.fullmatch(record["label/id"]):
        problems.append(f"label/id: expected 32 hex digits. Received: {record['label/id']!r:.60}")
    return problems


def _grid_problems(manifest: Manifest, pair: PairEntry, record: Record, seen: _Seen) -> list[str]:
    """The windows of a pair lie on one grid, whose step is to the window as stride_um is to window_um."""
    tiling, problems = manifest.tiling, []
    for axis, index, side in (("x", "col", "width"), ("y", "row", "height")):
        size = float(record[f"tile/{side}_px0"])
        step = size * tiling.stride_um / tiling.window_um
        origin = float(record[f"tile/{axis}_px0"]) - int(record[f"tile/{index}"]) * step
        known = seen.origins.setdefault((pair.pair, axis), origin)
        if record[f"tile/{index}"] < 0 or abs(origin - known) > _GRID_FRACTION * size:
            problems.append(
                f"tile/{axis}_px0: expected {known + record[f'tile/{index}'] * step:.1f} px at {index} "
                f"{record[f'tile/{index}']}, by the pair's other tiles. Received: {record[f'tile/{axis}_px0']:.1f}"
            )
    return problems


def require_scale(folder: Location, manifest: Manifest, pairs: Sequence[PairEntry]) -> None:
    """The first record of each of `pairs` is at the manifest's scale. Raises VerificationError.

    A cheap look before training: what all of the records say is checked by `verify_records`.
    """
    from virtual_stain.records.read import iterate_shard

    for pair in pairs:
        for shard in pair.shards[:1]:
            record = next(iterate_shard(folder / shard.file), None)
            problems = [] if record is None else problems_of(record) or _scale_problems(manifest, record)
            if problems:
                raise VerificationError(
                    f"{folder / shard.file}: the records are not those of {MANIFEST}: {'; '.join(problems[:3])}",
                    hint=f"See all of it: vstain records verify {folder}",
                )


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
