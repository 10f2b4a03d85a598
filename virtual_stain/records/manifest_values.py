"""What a manifest may say: every value by itself, and all of them together. Types are checked where it is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from virtual_stain.config.tiling import TilingSettings
from virtual_stain.markers import Marker, ValueDefinition

if TYPE_CHECKING:
    from virtual_stain.records.manifest import Manifest, PairEntry

MAX_FOLDS = 100
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERDICTS = ("accept", "review", None)


def manifest_problems(manifest: Manifest) -> list[str]:
    """Everything that is wrong with it, as sentences; empty when it is sound."""
    return [*_of_folder(manifest), *_of_patients(manifest), *(p for pair in manifest.pairs for p in _of_pair(pair))]


def _of_folder(manifest: Manifest) -> Iterator[str]:
    tiling = manifest.tiling
    try:
        TilingSettings(window_um=tiling.window_um, tile_px=tiling.tile_px, stride_um=tiling.stride_um)
    except ValueError as error:
        yield f"tiling.{error}"
    if not 1 <= manifest.n_folds <= MAX_FOLDS:
        yield f"n_folds: expected 1 to {MAX_FOLDS}. Received: {manifest.n_folds}"
    if manifest.min_tumour_cells < 0:
        yield f"min_tumour_cells: expected 0 or more. Received: {manifest.min_tumour_cells}"
    if manifest.value_definition not in {v.value for v in ValueDefinition}:
        yield f"value_definition: unknown {manifest.value_definition!r:.80}"
    unknown = [m for m in manifest.markers if m not in {m.value for m in Marker}]
    if unknown or len(set(manifest.markers)) != len(manifest.markers):
        yield f"markers: expected markers of this package, each once. Received: {list(manifest.markers)!r:.80}"
    used = {pair.marker for pair in manifest.pairs}
    if used != set(manifest.markers):
        yield f"markers: expected those of the pairs, {sorted(used)!r:.80}. Received: {sorted(manifest.markers)!r:.80}"


def _of_patients(manifest: Manifest) -> Iterator[str]:
    folds: dict[str, int] = {}
    slides: dict[str, str] = {}
    names: set[str] = set()
    files: set[str] = set()
    for pair in manifest.pairs:
        if folds.setdefault(pair.patient_id, pair.fold) != pair.fold:
            yield f"the patient of pair {pair.pair} is in two folds"
        if not 0 <= pair.fold < manifest.n_folds:
            yield f"pair {pair.pair}: fold {pair.fold} is not one of 0 to {manifest.n_folds - 1}"
        if pair.pair in names:
            yield f"pair {pair.pair} is listed twice"
        names.add(pair.pair)
        for content in (pair.he_content_sha256, pair.ihc_content_sha256):
            if slides.setdefault(content, pair.patient_id) != pair.patient_id:
                yield f"pair {pair.pair}: one of its slides also stands under another patient"
        for shard in pair.all_shards:
            if Path(shard.file).name != shard.file or shard.file in files:
                yield f"pair {pair.pair}: shard {shard.file!r} is outside the folder or listed twice"
            files.add(shard.file)


def _of_pair(pair: PairEntry) -> Iterator[str]:
    where = f"pair {pair.pair}"
    if sum(s.records for s in pair.shards) != pair.n_records:
        yield f"{where}: its shards do not add up to {pair.n_records} records"
    if not 0 <= pair.n_ratio <= pair.n_records or min(pair.positive, pair.negative) < 0:
        counts = (pair.n_records, pair.n_ratio, pair.positive, pair.negative)
        yield f"{where}: expected numbers of records, of those with a ratio, and of cells. Received: {counts}"
    if pair.n_ratio == 0 and pair.positive + pair.negative:
        yield f"{where}: expected no cells without a record that counts. Received: {pair.positive + pair.negative}"
    if pair.ihc and [s.records for s in pair.ihc.shards] != [s.records for s in pair.shards]:
        yield f"{where}: its IHC shards do not hold as many records as its H&E shards"
    hashes = [pair.patient_id, pair.he_content_sha256, pair.ihc_content_sha256, *(s.sha256 for s in pair.all_shards)]
    if not all(_SHA256.fullmatch(digest) for digest in hashes):
        yield f"{where}: expected 64 hex digits for its patient, slides and shards"
    if any(s.bytes < 0 or s.records < 0 for s in pair.all_shards):
        yield f"{where}: expected shards of 0 or more bytes and records"
    found = pair.registration
    if found.verdict not in _VERDICTS:
        yield f"{where}: expected the verdict accept or review. Received: {found.verdict!r:.80}"
    errors = [e for e in (found.error_median_um, found.error_p95_um) if e is not None]
    if any(not 0 <= e < 1e6 for e in errors):
        yield f"{where}: expected registration errors of 0 µm or more. Received: {errors}"
