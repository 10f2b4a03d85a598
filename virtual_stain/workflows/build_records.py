"""`vstain build-records`: register → tile → count → label → review gate → shards, resumable, over any executor.

A pair that fails is left out with its reason and never stops the others. Work lands in `DIR/work/<pair>/`; the
manifest is written last and vouches for what is there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.config import Config
from virtual_stain.errors import InputError, RejectedError, VerificationError, VirtualStainError
from virtual_stain.files import folder_lock, make_folder, sha256_file
from virtual_stain.markers import Marker, require_definition
from virtual_stain.patients import load_patient_key
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import Outcome, RunRecord, kept_if_interrupted
from virtual_stain.records.manifest import (
    MANIFEST,
    ExcludedEntry,
    Manifest,
    PairEntry,
    TilingEntry,
    read_manifest,
)
from virtual_stain.review.gate import Gate
from virtual_stain.review.settle import people_verdicts
from virtual_stain.review.verdicts import (
    TEMPLATE,
    Candidate,
    Review,
    Verdict,
    apply_verdicts,
    read_stale,
    write_template,
)
from virtual_stain.workflows import pair_job
from virtual_stain.workflows.build_index import write_index
from virtual_stain.workflows.build_run import BuildRun
from virtual_stain.workflows.build_stages import build, join, prepare
from virtual_stain.workflows.ending import error_of, stopped_error
from virtual_stain.workflows.many import telling
from virtual_stain.workflows.output_folder import (
    OUTDATED_MANIFEST,
    claim,
    identities,
    put_manifest_aside,
    remove_unlisted_shards,
)
from virtual_stain.workflows.packing import Packed, PackJob, candidates, discard, is_outdated, pack, put_in_place
from virtual_stain.workflows.pair import WORK, PreparedPair
from virtual_stain.workflows.pair_folder import listed_pairs
from virtual_stain.workflows.scheduling import Failure, Workers, open_workers
from virtual_stain.workflows.summary import Used, write_summary

_NONE_ACCEPTED = "review accepted none of its tiles"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How to build; what the tiles depend on is in the config."""

    verdicts: Path | None = None
    """CSV of people's verdicts, beside those of DIR/review.sqlite."""
    accept_unreviewed: bool = False
    """Tiles without a verdict become records; recorded in the manifest. Never for pairs whose registration is to be
    reviewed."""
    force: bool = False
    """Do finished work again; take over a folder of another run."""
    jobs: int = 1
    """Processes on this machine."""
    scheduler: str | None = None
    """A Dask scheduler to use instead, as tcp://host:8786, or slurm:…"""
    fail_fast: bool = False
    """Begin nothing more after the first pair that fails. The records are then left as they were."""
    excel: bool = False
    """Begin records.csv with a byte order mark, so that spreadsheets read umlauts as they are."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What was written."""

    manifest: Manifest
    outcomes: tuple[Outcome, ...]
    tiles_built: int
    """In this run; tiles that were there are not counted."""
    seconds_per_tile: float | None
    """Processor seconds of a worker per tile built."""


def build_records(
    pairs_csv: Path,
    out: Path,
    config: Config,
    options: BuildOptions | None = None,
    *,
    workers: Workers | None = None,
    progress: Progress = QUIET,
) -> BuildResult:
    """Builds or continues the folder of records `out`; `workers` overrides `options.jobs` and `.scheduler`.

    Raises PairError, InputError, ConfigError, OutputError before any work; afterwards, with everything that succeeded
    on disk: ReviewPendingError while a pair has no verdict, BatchError when some pairs failed, and the pairs' own
    error when all did.
    """
    options = options or BuildOptions()
    pairs, table = listed_pairs(pairs_csv, config.labels.n_folds, progress.say)
    for marker in {pair.marker for pair in pairs}:
        require_definition(marker, config.counting.value_definition)
    verdicts = people_verdicts(out, options.verdicts)
    key = load_patient_key()
    record = RunRecord("build-records", config.to_dict())
    record.inputs |= {} if table is None else {"pairs": sha256_file(table)}
    opened = (
        contextlib.nullcontext(workers)
        if workers
        else open_workers(options.jobs, options.scheduler, stage=pair_job.__name__)
    )
    with folder_lock(out), opened as ready, kept_if_interrupted(record, out, tensorflow=True):
        claim(out, config, identities(pairs, key), force=options.force)
        make_folder(out / WORK)
        run = BuildRun(out, config, options.accept_unreviewed, options.fail_fast, pairs, key, ready, progress, record)
        return _build(run, verdicts, options)


def _build(run: BuildRun, verdicts: Iterable[Verdict], options: BuildOptions) -> BuildResult:
    packed: list[Packed] = []
    review: list[Review] = []

    def tell() -> None:
        _record(run, packed, review[0] if review else None)
        write_index(run, excel=options.excel)

    with telling(tell):
        for stage in (prepare, build, join):
            started = time.perf_counter()
            stage(run)
            run.record.durations_s[stage.__name__] = time.perf_counter() - started
        if run.is_stopped:
            raise stopped_error({pair: f.error for pair, f in run.failed.items()}, len(run.pairs), run.out)
        review.append(_review(run, verdicts))
        manifest = _finish(run, review[0], packed)
    failed = {pair: f.error for pair, f in run.failed.items()}
    if error := error_of(failed, run.pending, len(run.pairs), run.out, run.out / TEMPLATE):
        raise error
    return BuildResult(manifest, tuple(map(run.outcome, run.pairs)), run.built, _seconds_per_tile(run))


def _seconds_per_tile(run: BuildRun) -> float | None:
    return run.worker_seconds / run.built if run.built else None


def _review(run: BuildRun, verdicts: Iterable[Verdict]) -> Review:
    """Applies the verdicts, writes the template, and finds the pairs that still wait for a person."""
    listed: list[Candidate] = []
    for prepared in run.alive():
        listed += candidates(prepared.job.pair, run.tables[prepared.job.pair])
    failed = {p.pair for p in run.pairs} - {p.job.pair for p in run.alive()}
    review = apply_verdicts(verdicts, listed, failed=failed, earlier=read_stale(run.out))
    write_template(run.out, listed, review)
    if review.stale:
        run.progress.say(
            f"{len(review.stale)} verdicts are stale: their tiles have changed or are gone. They were not applied; "
            "review-stale.csv lists them."
        )
    return review


def _pack(run: BuildRun, review: Review, done: list[Packed]) -> None:
    """Fills `done`."""
    try:
        for prepared in run.progress.track(run.alive(), len(run.alive()), "packing", "pair"):
            packed = _pack_pair(run, review, prepared)
            if packed is not None:
                done.append(packed)
    except BaseException:
        discard(done)
        done.clear()
        raise


def _pack_pair(run: BuildRun, review: Review, prepared: PreparedPair) -> Packed | None:
    name = prepared.job.pair
    gate = Gate(review, run.accept_unreviewed, needs_person=prepared.verdict == "review")
    if not candidates(name, run.tables[name]):
        run.fail(name, Failure(RejectedError("the registration error of every single tile is too large.")))
        return None
    if gate.pending(name):
        run.pending.append(name)
        uncertain = " (its registration is uncertain: --accept-unreviewed does not cover it)"
        run.left_out[name] = "no tile has a verdict yet" + (uncertain if gate.needs_person else "")
        return None
    patient = run.patients[name]
    try:
        packed = pack(PackJob(prepared, patient, run.folds[patient], gate), run.out, run.config)
    except VerificationError as error:  # e.g. a correction that cannot be of this label
        run.fail(name, Failure(error))
        return None
    if packed is None:
        run.left_out[name] = _NONE_ACCEPTED
    return packed


def _refuse_to_lose(run: BuildRun) -> None:
    """A pair that failed for a reason of ours keeps the records that an earlier run made of it: nothing is written."""
    unexpected = {name: failure for name, failure in run.failed.items() if failure.unexpected}
    if not unexpected or not (run.out / MANIFEST).is_file():
        return
    try:
        listed = [p.pair for p in read_manifest(run.out).pairs if p.pair in unexpected]
    except InputError:
        return
    if listed:
        raise VirtualStainError(
            f"pair {listed[0]}: {unexpected[listed[0]].error.message}\nThe records in {run.out} are as they were.",
            hint="Run the same command again: finished work is kept. If it fails again, please report it.",
        )


def _finish(run: BuildRun, review: Review, packed: list[Packed]) -> Manifest:
    """Shards, manifest and summary; `packed` is filled."""
    started = time.perf_counter()
    _refuse_to_lose(run)
    _pack(run, review, packed)
    entries = [p.entry for p in packed]
    manifest = _manifest(run, entries)
    out = run.out
    if entries or not (run.failed or run.pending):
        put_in_place(out, manifest, packed)
        run.entries = {entry.pair: entry for entry in entries}
        remove_unlisted_shards(out, manifest)
    elif (any(is_outdated(p) for p in run.alive()) or _holds_rejected(run)) and put_manifest_aside(out):
        run.progress.say(
            "The older records hold labels that have changed or were rejected since: "
            f"{MANIFEST} is now {OUTDATED_MANIFEST}."
        )
    run.record.durations_s["pack"] = time.perf_counter() - started
    used = {p.entry.pair: Used(p.table, p.chosen, run.prepared[p.entry.pair].stain_flags) for p in packed}
    write_summary(out, manifest, used, {p.job.pair: p.job.folder for p in run.prepared.values()})
    return manifest


def _record(run: BuildRun, packed: Sequence[Packed], review: Review | None) -> None:
    """run.json."""
    per_tile = _seconds_per_tile(run)
    run.record.outcomes = list(map(run.outcome, run.pairs))
    run.record.counts = {
        "pairs": len(run.pairs),
        "pairs_with_records": len(run.entries),
        "tiles_built": run.built,
        "records": sum(entry.n_records for entry in run.entries.values()),
        "verdicts_applied": 0 if review is None else len(review.applied),
        "verdicts_stale": 0 if review is None else len(review.stale),
        "tiles_corrected": sum(p.n_corrected for p in packed),
    }
    run.record.extra = {"processor_seconds_per_tile": None if per_tile is None else round(per_tile, 4)}
    run.record.write(run.out, tensorflow=True)


def _holds_rejected(run: BuildRun) -> bool:
    """Whether the older manifest lists a pair of which the review has accepted nothing any more."""
    rejected = {pair for pair, reason in run.left_out.items() if reason == _NONE_ACCEPTED}
    if not rejected or not (run.out / MANIFEST).is_file():
        return False
    try:
        return any(p.pair in rejected for p in read_manifest(run.out).pairs)
    except InputError:  # no reader takes it either
        return False


def _manifest(run: BuildRun, entries: Sequence[PairEntry]) -> Manifest:
    config = run.config
    with_records = {e.pair for e in entries}
    used = {e.marker for e in entries}
    return Manifest(
        tiling=TilingEntry(config.tiling.window_um, config.tiling.step_um, config.tiling.tile_px),
        value_definition=config.counting.value_definition.value,
        markers=tuple(m.value for m in Marker if m.value in used),
        n_folds=config.labels.n_folds,
        min_tumour_cells=config.labels.min_tile_cells,
        patient_key_fingerprint=run.key.fingerprint,
        accept_unreviewed=run.accept_unreviewed,
        pairs=tuple(entries),
        excluded=tuple(ExcludedEntry(p.pair, run.reason(p)) for p in run.pairs if p.pair not in with_records),
    )
