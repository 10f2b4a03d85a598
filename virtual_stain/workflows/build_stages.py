"""The stages of `build-records` that run in workers, through the runner of many: register and plan, parts, join.

The journal in `work/` knows the pairs whose tiles are joined: such a pair is not even opened by a later run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from virtual_stain.counting.stain import FLAG_SENTENCES
from virtual_stain.errors import PairError, RejectedError
from virtual_stain.labels.store import TileStore
from virtual_stain.pairs import StainPair
from virtual_stain.registration.result import FLAGS
from virtual_stain.reuse import code_sha256, digest_of
from virtual_stain.workflows import pair_job
from virtual_stain.workflows.build_run import BuildRun
from virtual_stain.workflows.many import Finished, Status, Task, run_many, stamps_of
from virtual_stain.workflows.packing import PACKED
from virtual_stain.workflows.pair import TILES, WORK, PairJob, PreparedPair, tile_settings
from virtual_stain.workflows.pair_job import make_job, prepare_pair
from virtual_stain.workflows.part_job import PartDone, PartJob, build_part, cut, join_pair
from virtual_stain.workflows.scheduling import Failure

_ASKED_AGAIN = ("job", "tiles", "built")
"""Fields of a prepared pair that no row of the journal holds."""


def prepare(run: BuildRun) -> None:
    """Registration, tissue, stain and plan of every pair."""
    tasks = [_task(run, pair) for pair in run.pairs]
    run.seen = {task.name: task.seen for task in tasks}
    jobs = {task.name: task.work for task in tasks}
    done = run_many(
        tasks,
        prepare_task,
        run.workers,
        run.out / WORK,
        fail_fast=run.fail_fast,
        progress=run.progress,
        label="registering",
        unit="pair",
    )
    for one in done:
        if one.status is not Status.PENDING and not run.take_failure(one.name, one):
            _take(run, _of_row(jobs[one.name], one.row) if one.value is None else one.value)
    _refuse_shared_slides(run)


def _task(run: BuildRun, pair: StainPair) -> Task[PairJob]:
    job = make_job(pair, run.out, run.config)
    if run.workers.renew is None:  # a cluster, whose workers stand in other folders
        job = _absolute(job)
    regions = [path for path in (pair.he_roi, pair.ihc_roi) if path is not None]
    inputs = (pair.he.path, pair.ihc.path, *regions)
    request = digest_of(
        {
            "code": code_sha256(pair_job.__name__),
            "settings": tile_settings(run.config, "tiling", "tissue", "registration", "counting", "labels"),
            "marker": pair.marker.value,
            "mpp": [pair.he.mpp_override, pair.ihc.mpp_override],
            "regions": [pair.he_roi is not None, pair.ihc_roi is not None],
            "section": pair.section,
        }
    )
    return Task(pair.pair, job, inputs, request, stamps_of(inputs))


def _absolute(job: PairJob) -> PairJob:
    def roi(path: Path | None) -> Path | None:
        return None if path is None else path.absolute()

    return dataclasses.replace(
        job,
        he=dataclasses.replace(job.he, path=job.he.path.absolute()),
        ihc=dataclasses.replace(job.ihc, path=job.ihc.path.absolute()),
        he_roi=roi(job.he_roi),
        ihc_roi=roi(job.ihc_roi),
        folder=job.folder.absolute(),
    )


def prepare_task(job: PairJob) -> Finished:
    """Runs in a worker."""
    prepared = prepare_pair(job)
    is_good = prepared.usable and bool(prepared.tiles)
    return Finished(_row(prepared), _files(prepared), is_good, is_noted=is_good and prepared.built, value=prepared)


def _row(prepared: PreparedPair) -> dict[str, Any]:
    fields = (f.name for f in dataclasses.fields(prepared) if f.name not in _ASKED_AGAIN)
    return {name: getattr(prepared, name) for name in fields}


def _of_row(job: PairJob, row: dict[str, Any]) -> PreparedPair:
    flags = tuple(row["registration_flags"])
    return PreparedPair(**{**row, "registration_flags": flags}, job=job, tiles=(), built=True)


def _files(prepared: PreparedPair) -> tuple[Path, ...]:
    """All that the stages leave of a pair; what packing leaves has a record of its own."""
    found = sorted(prepared.job.folder.iterdir())
    return tuple(p for p in found if p.is_file() and p.name != PACKED and not p.name.startswith("."))


def _take(run: BuildRun, prepared: PreparedPair) -> None:
    pair = prepared.job.pair
    run.prepared[pair] = prepared
    run.record.inputs[f"{pair}/he"] = prepared.he_sha256
    run.record.inputs[f"{pair}/ihc"] = prepared.ihc_sha256
    if not prepared.usable:
        run.fail(pair, Failure(_rejected(prepared)))
    elif not prepared.n_tiles:
        run.fail(pair, Failure(PairError("no window holds enough H&E tissue.")))
    else:
        run.progress.say(
            f"{pair}: registered, median error {prepared.error_median_um:.1f} µm, {prepared.verdict}; "
            f"{prepared.n_tiles} tiles, {prepared.n_glass} windows of glass"
            + "".join(f"; stain: {FLAG_SENTENCES.get(flag, flag)}" for flag in prepared.stain_flags)
        )


def _rejected(prepared: PreparedPair) -> RejectedError:
    error = prepared.error_median_um
    found = "no error could be estimated" if error is None else f"the estimated median error is {error:.0f} µm"
    why = "; ".join(FLAGS.get(flag, flag) for flag in prepared.registration_flags)
    return RejectedError(
        f"the two slides cannot be registered: {found}{f' ({why})' if why else ''}.",
        hint=f"Look at {prepared.job.folder / 'overlay.jpg'}: do the slides belong to the same block?",
    )


def _refuse_shared_slides(run: BuildRun) -> None:
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


def build(run: BuildRun) -> None:
    """All tiles of all pairs, in parts."""
    if run.is_stopped:
        return
    parts = [part for prepared in run.alive() if not prepared.built for part in cut(prepared)]
    total = sum(len(part.tiles) for part in parts)
    for _ in run.progress.track(_tiles_of(run, parts), total, "tiles", "tile"):
        pass


def _tiles_of(run: BuildRun, parts: Sequence[PartJob]) -> Iterator[None]:
    """One item per tile done or skipped, so that progress counts tiles."""
    tasks = [Task(f"{part.prepared.job.pair}.{part.index:04d}", part, ()) for part in parts]
    by_name = {task.name: task.work for task in tasks}

    def is_wanted(task: Task[PartJob]) -> bool:
        return task.work.prepared.job.pair not in run.failed

    folder = run.out / WORK
    for one in run_many(tasks, build_task, run.workers, folder, fail_fast=run.fail_fast, is_wanted=is_wanted):
        part = by_name[one.name]
        pair = part.prepared.job.pair
        if one.status is not Status.PENDING and not run.take_failure(pair, one):
            found: PartDone = one.value
            run.built += found.built
            run.worker_seconds += found.seconds
            yield from (None for _ in part.tiles)


def build_task(part: PartJob) -> Finished:
    """Runs in a worker."""
    return Finished({}, value=build_part(part))


def join(run: BuildRun) -> None:
    """tiles.h5 of every pair, from its parts; then the pair is done, and the journal says so."""
    if run.is_stopped:
        return
    by_name = {pair.pair: pair for pair in run.pairs}
    tasks = []
    for prepared in run.alive():
        if not prepared.built:
            planned = _task(run, by_name[prepared.job.pair])
            tasks.append(Task(planned.name, prepared, planned.inputs, planned.request, run.seen[planned.name]))
    for one in run_many(tasks, join_task, run.workers, run.out / WORK, force=True, fail_fast=run.fail_fast):
        run.take_failure(one.name, one)
    for prepared in run.alive():
        with TileStore(prepared.job.folder / TILES) as store:
            run.tables[prepared.job.pair] = store.table()


def join_task(prepared: PreparedPair) -> Finished:
    """Runs in a worker."""
    join_pair(prepared)
    return Finished(_row(prepared), _files(prepared))
