"""`vstain build-records`: register → tile → count → label → review gate → shards, resumable, over any executor.

A pair that fails is left out with its reason and never stops the others. Work lands in `DIR/work/<pair>/`; the
manifest is written last and vouches for what is there.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virtual_stain.config import Config
from virtual_stain.counting.stain import FLAG_SENTENCES
from virtual_stain.errors import InputError, OutputError, PairError, RejectedError, VerificationError, VirtualStainError
from virtual_stain.files import folder_lock, sha256_file
from virtual_stain.labels.store import TileStore, TileTable
from virtual_stain.markers import Marker, require_definition
from virtual_stain.pairs import StainPair, assign_folds
from virtual_stain.patients import PatientKey, load_patient_key
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
from virtual_stain.registration.result import FLAGS
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
from virtual_stain.workflows.ending import error_of, public_reason
from virtual_stain.workflows.output_folder import (
    OUTDATED_MANIFEST,
    claim,
    identities,
    put_manifest_aside,
    remove_unlisted_shards,
)
from virtual_stain.workflows.packing import Packed, PackJob, candidates, discard, is_outdated, pack, put_in_place
from virtual_stain.workflows.pair import TILES, PreparedPair
from virtual_stain.workflows.pair_folder import listed_pairs
from virtual_stain.workflows.pair_job import make_job, prepare_pair
from virtual_stain.workflows.part_job import PartJob, build_part, cut, join_pair
from virtual_stain.workflows.scheduling import Failure, Workers, completed, open_workers
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
    """A Dask scheduler to use instead, as tcp://host:8786."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What was written."""

    manifest: Manifest
    outcomes: tuple[Outcome, ...]
    tiles_built: int
    """In this run; tiles that were there are not counted."""
    seconds_per_tile: float | None
    """Processor seconds of a worker per tile built."""


@dataclass
class _Run:
    """The state of one run, filled stage by stage."""

    out: Path
    config: Config
    accept_unreviewed: bool
    pairs: tuple[StainPair, ...]
    key: PatientKey
    workers: Workers
    progress: Progress
    record: RunRecord
    prepared: dict[str, PreparedPair] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Pairs without records that are no failures, and why."""
    pending: list[str] = field(default_factory=list)
    tables: dict[str, TileTable] = field(default_factory=dict)
    built: int = 0
    worker_seconds: float = 0.0

    @functools.cached_property
    def patients(self) -> dict[str, str]:
        """pair → patient_id."""
        return {p.pair: self.key.patient_id(p.patient) for p in self.pairs}

    @functools.cached_property
    def folds(self) -> dict[str, int]:
        """patient_id → fold; those of the older records stay."""
        n_folds = self.config.labels.n_folds
        try:
            older = read_manifest(self.out)
            earlier = older.folds() if older.n_folds == n_folds else {}
        except InputError:  # none, or none that can be read
            earlier = {}
        return assign_folds(self.pairs, self.key, n_folds, earlier)

    def fail(self, pair: str, failure: Failure) -> None:
        """Leaves a pair out. A disk that takes nothing more ends the run: the other pairs are not at fault."""
        if isinstance(failure.error, OutputError):
            raise failure.error
        self.failed.setdefault(pair, failure)
        self.progress.say(f"{pair}: left out: {failure.error.message}")

    def alive(self) -> list[PreparedPair]:
        """Prepared pairs that have not failed, in the order of the table."""
        names = [p.pair for p in self.pairs if p.pair in self.prepared and p.pair not in self.failed]
        return [self.prepared[name] for name in names]


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
    opened = contextlib.nullcontext(workers) if workers else open_workers(options.jobs, options.scheduler)
    with folder_lock(out), opened as ready, kept_if_interrupted(record, out, tensorflow=True):
        claim(out, config, identities(pairs, key), force=options.force)
        run = _Run(out, config, options.accept_unreviewed, pairs, key, ready, progress, record)
        for stage in (_prepare, _build, _join):
            started = time.perf_counter()
            stage(run)
            record.durations_s[stage.__name__.strip("_")] = time.perf_counter() - started
        return _finish(run, _review(run, verdicts))


def _prepare(run: _Run) -> None:
    """Registration, tissue, stain and plan of every pair."""
    jobs = [make_job(pair, run.out, run.config) for pair in run.pairs]
    results = completed(run.workers, prepare_pair, jobs)
    for job, result in run.progress.track(results, len(jobs), "registering", "pair"):
        if isinstance(result, Failure):
            run.fail(job.pair, result)
            continue
        run.prepared[job.pair] = result
        run.record.inputs[f"{job.pair}/he"] = result.he_sha256
        run.record.inputs[f"{job.pair}/ihc"] = result.ihc_sha256
        if not result.usable:
            run.fail(job.pair, Failure(_rejected(result)))
        elif not result.tiles:
            run.fail(job.pair, Failure(PairError("no window holds enough H&E tissue.")))
        else:
            run.progress.say(
                f"{job.pair}: registered, median error {result.error_median_um:.1f} µm, {result.verdict}; "
                f"{len(result.tiles)} tiles, {result.n_glass} windows of glass"
                + "".join(f"; stain: {FLAG_SENTENCES.get(flag, flag)}" for flag in result.stain_flags)
            )
    _refuse_shared_slides(run)


def _rejected(prepared: PreparedPair) -> RejectedError:
    error = prepared.error_median_um
    found = "no error could be estimated" if error is None else f"the estimated median error is {error:.0f} µm"
    why = "; ".join(FLAGS.get(flag, flag) for flag in prepared.registration_flags)
    return RejectedError(
        f"the two slides cannot be registered: {found}{f' ({why})' if why else ''}.",
        hint=f"Look at {prepared.job.folder / 'overlay.jpg'}: do the slides belong to the same block?",
    )


def _refuse_shared_slides(run: _Run) -> None:
    """The same pixels under two patients, in copies of a file, would leak across the split."""
    patients = run.patients
    owners: dict[str, list[str]] = {}
    for pair, prepared in run.prepared.items():
        for content in (prepared.he_sha256, prepared.ihc_sha256):
            owners.setdefault(content, []).append(pair)
    for names in owners.values():
        if len({patients[name] for name in names}) > 1:
            listed = ", ".join(sorted(set(names)))
            for name in names:
                run.fail(name, Failure(PairError(f"the same slide stands under different patients: pairs {listed}.")))


def _build(run: _Run) -> None:
    """All tiles of all pairs, in parts."""
    parts = [part for prepared in run.alive() if not prepared.built for part in cut(prepared)]
    total = sum(len(part.tiles) for part in parts)
    for _ in run.progress.track(_tiles_of(run, parts), total, "tiles", "tile"):
        pass


def _tiles_of(run: _Run, parts: Sequence[PartJob]) -> Iterator[None]:
    """One item per tile done or skipped, so that progress counts tiles."""
    wanted = (part for part in parts if part.prepared.job.pair not in run.failed)
    for part, result in completed(run.workers, build_part, wanted):
        if isinstance(result, Failure):
            run.fail(part.prepared.job.pair, result)
            continue
        run.built += result.built
        run.worker_seconds += result.seconds
        yield from (None for _ in part.tiles)


def _join(run: _Run) -> None:
    waiting = [prepared for prepared in run.alive() if not prepared.built]
    for prepared, result in completed(run.workers, join_pair, waiting):
        if isinstance(result, Failure):
            run.fail(prepared.job.pair, result)
    for prepared in run.alive():
        with TileStore(prepared.job.folder / TILES) as store:
            run.tables[prepared.job.pair] = store.table()


def _review(run: _Run, verdicts: Iterable[Verdict]) -> Review:
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


def _pack(run: _Run, review: Review) -> list[Packed]:
    done: list[Packed] = []
    try:
        for prepared in run.progress.track(run.alive(), len(run.alive()), "packing", "pair"):
            packed = _pack_pair(run, review, prepared)
            if packed is not None:
                done.append(packed)
    except BaseException:
        discard(done)
        raise
    return done


def _pack_pair(run: _Run, review: Review, prepared: PreparedPair) -> Packed | None:
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


def _refuse_to_lose(run: _Run) -> None:
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


def _finish(run: _Run, review: Review) -> BuildResult:
    """Shards, manifest, summary, run.json; then the error, if there is one to tell."""
    started = time.perf_counter()
    _refuse_to_lose(run)
    packed = _pack(run, review)
    entries = [p.entry for p in packed]
    manifest = _manifest(run, entries)
    out = run.out
    if entries or not (run.failed or run.pending):
        put_in_place(out, manifest, packed)
        remove_unlisted_shards(out, manifest)
    elif (any(is_outdated(p) for p in run.alive()) or _holds_rejected(run)) and put_manifest_aside(out):
        run.progress.say(
            "The older records hold labels that have changed or were rejected since: "
            f"{MANIFEST} is now {OUTDATED_MANIFEST}."
        )
    run.record.durations_s["pack"] = time.perf_counter() - started
    outcomes = tuple(_outcome(run, pair) for pair in run.pairs)
    used = {p.entry.pair: Used(p.table, p.chosen, run.prepared[p.entry.pair].stain_flags) for p in packed}
    write_summary(out, manifest, used, {p.job.pair: p.job.folder for p in run.prepared.values()})
    per_tile = run.worker_seconds / run.built if run.built else None
    run.record.outcomes = list(outcomes)
    run.record.counts = {
        "pairs": len(run.pairs),
        "pairs_with_records": len(entries),
        "tiles_built": run.built,
        "records": manifest.n_records,
        "verdicts_applied": len(review.applied),
        "verdicts_stale": len(review.stale),
        "tiles_corrected": sum(p.n_corrected for p in packed),
    }
    run.record.extra = {"processor_seconds_per_tile": None if per_tile is None else round(per_tile, 4)}
    run.record.write(out, tensorflow=True)
    error = error_of(
        {pair: f.error for pair, f in run.failed.items()}, run.pending, len(run.pairs), out, out / TEMPLATE
    )
    if error is not None:
        raise error
    return BuildResult(manifest, outcomes, run.built, per_tile)


def _holds_rejected(run: _Run) -> bool:
    """Whether the older manifest lists a pair of which the review has accepted nothing any more."""
    rejected = {pair for pair, reason in run.left_out.items() if reason == _NONE_ACCEPTED}
    if not rejected or not (run.out / MANIFEST).is_file():
        return False
    try:
        return any(p.pair in rejected for p in read_manifest(run.out).pairs)
    except InputError:  # no reader takes it either
        return False


def _manifest(run: _Run, entries: Sequence[PairEntry]) -> Manifest:
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
        excluded=tuple(ExcludedEntry(p.pair, _reason(run, p)) for p in run.pairs if p.pair not in with_records),
    )


def _reason(run: _Run, pair: StainPair) -> str:
    failure = run.failed.get(pair.pair)
    text = run.left_out.get(pair.pair, "") if failure is None else failure.error.message
    return public_reason(text, pair, run.out)


def _outcome(run: _Run, pair: StainPair) -> Outcome:
    waiting = pair.pair in run.failed or pair.pair in run.pending
    return Outcome(pair.pair, not waiting, _reason(run, pair))
