"""`vstain score`: slides in, reports out, here or on a cluster; scores.csv and index.html of several, worst first.

One bad slide never stops the others and never disappears; finished ones are not redone.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ConfigError, InputError, OutputError, UnsuitableError
from virtual_stain.exporting.bundle import BUNDLE_SIGNATURE, find_bundle
from virtual_stain.exporting.card import ModelCard
from virtual_stain.files import folder_lock, make_folder
from virtual_stain.patients import existing_key
from virtual_stain.progress import QUIET, Progress, Sparing
from virtual_stain.provenance import Outcome, RunRecord, refuse_foreign_run
from virtual_stain.report.table import SCORES_CSV
from virtual_stain.reuse import code_sha256, digest_of, read_record
from virtual_stain.scoring.inputs import ScoreInput
from virtual_stain.scoring.predictor import Predictor
from virtual_stain.scoring.staging import Stager
from virtual_stain.workflows import score_slides as stage
from virtual_stain.workflows.many import Done, Finished, Status, Task, batch_error, run_many, telling
from virtual_stain.workflows.many_page import INDEX_NAME
from virtual_stain.workflows.scheduling import Workers, open_workers
from virtual_stain.workflows.score_index import page_row, pending_row, write_index
from virtual_stain.workflows.score_slides import (
    ALREADY,
    Scored,
    ScoreJob,
    ScoreOptions,
    load_model,
    look_ahead,
    report_files,
    score_item,
    score_one,
    score_settings,
)
from virtual_stain.workflows.score_table import earlier_reports, write_table

_log = logging.getLogger("vstain.score")


@dataclass(frozen=True, slots=True)
class _Work:
    """What a worker needs to score a slide."""

    item: ScoreInput
    options: ScoreOptions


@dataclass(frozen=True, slots=True)
class _Read:
    """What a worker gives back beside the row."""

    report: dict[str, Any]
    card: ModelCard
    model_sha256: str


def score_slides(
    inputs: Sequence[ScoreInput],
    options: ScoreOptions,
    *,
    scheduler: str | None = None,
    predictor: Predictor | None = None,
    progress: Progress = QUIET,
    done: Callable[[Scored], None] = lambda _: None,
) -> list[Scored]:
    """Scores every slide and writes `<stem>.{report.json,tiles.csv,heatmap.png,geojson,report.html}` and run.json.

    Of several slides in one folder also scores.csv and index.html. `scheduler`: address of a cluster, or slurm:…, where
    each slide is a task; else one process with one model. `predictor`: in place of loading `options.model`. `done` is
    called after each slide. Slides whose report is current (same slide, model and settings) are left alone. Raises
    ModelError, VerificationError (the bundle), OutputError; the only slide's own error; for several slides BatchError
    when some failed, the others being on disk.
    """
    for folder in dict.fromkeys(i.folder for i in inputs):
        make_folder(folder)  # an unwritable place is found before the work, not after
    if scheduler is not None:
        return _on_cluster(inputs, options, scheduler, progress, done)
    with look_ahead(inputs, options) as ahead:
        start = time.monotonic()
        model = predictor or load_model(options.model, options.scoring, options.trusted_key)
        if predictor is None and options.trusted_key is None and _is_unsigned(options.model):
            progress.say(
                f"{options.model}: the model is not signed: nothing says who made it "
                "(scoring.require_signature refuses such models)."
            )
        if options.addition is not None:
            options.addition.require(model)
        _log.info("model verified and loaded in %.1f s", time.monotonic() - start)
        try:
            with Stager([i.ref for i in inputs], options.stage, progress.say) as stager, open_workers(1) as workers:
                job = ScoreJob(model, options, existing_key(), stager, ahead, progress)
                run = _Run(options, workers, functools.partial(_score_here, job=job), len(inputs), progress, done)
                run.card, run.model_sha256, run.request = model.card, model.sha256, _request(options, model)
                for folder, group in itertools.groupby(inputs, lambda i: i.folder):
                    run.score(folder, list(group))
                    if options.fail_fast and any(not one.ok for one in run.ended):
                        break
                return run.result(inputs)
        finally:
            if predictor is None:
                model.close()


def _on_cluster(
    inputs: Sequence[ScoreInput],
    options: ScoreOptions,
    scheduler: str,
    progress: Progress,
    done: Callable[[Scored], None],
) -> list[Scored]:
    folders = list(dict.fromkeys(i.folder for i in inputs))
    if len(folders) > 1:
        raise ConfigError("--scheduler: expected one folder for all results. Received: none.", hint="--out DIR")
    absolute = replace(options, model=options.model if "://" in options.model else str(Path(options.model).absolute()))
    with open_workers(1, scheduler, stage=stage.__name__, gpu=True) as workers:
        run = _Run(absolute, workers, _score_on_worker, len(inputs), progress, done, is_far=True)
        run.score(folders[0], list(inputs))
    return run.result(inputs)


def _is_unsigned(model: str) -> bool:
    """Of a bundle in a folder here."""
    return "://" not in model and not (find_bundle(Path(model)) / BUNDLE_SIGNATURE).is_file()


def _request(options: ScoreOptions, model: Predictor) -> str | None:
    """Digest of what decides a report beside its slide."""
    key = existing_key()
    return digest_of(
        {
            "code": code_sha256(stage.__name__),
            "model_sha256": model.sha256,
            "settings": score_settings(options),
            "patient_key": None if key is None else key.fingerprint,  # whether a slide was trained on
        }
    )


@dataclass(slots=True)
class _Run:
    """One call: its slides, folder by folder."""

    options: ScoreOptions
    workers: Workers
    function: Callable[[_Work], Finished]
    total: int
    progress: Progress
    done: Callable[[Scored], None]
    is_far: bool = False
    """On a cluster, whose workers stand in other folders."""
    card: ModelCard | None = None
    """None: not known before a worker has loaded the model."""
    model_sha256: str | None = None
    request: str | None = None
    ended: list[Done] = field(default_factory=list)
    scored: dict[tuple[Path, str], Scored] = field(default_factory=dict)

    def score(self, folder: Path, items: Sequence[ScoreInput]) -> None:
        """All slides of one folder. Raises what is no slide's own fault."""
        options = self.options
        record = RunRecord("score", config=score_settings(options), extra={"model": options.model})
        with folder_lock(folder):
            refuse_foreign_run(folder, "score")
            is_many = len(items) > 1 or (folder / SCORES_CSV).exists()
            earlier = earlier_reports(folder, {i.stem for i in items}) if is_many else {}
            by_name = {i.stem: i for i in items}
            sparing = Sparing()

            def table() -> None:
                if is_many and self.card is not None:
                    known = [i for i in items if (folder, i.stem) in self.scored]
                    order = [*known, *(i for i in items if (folder, i.stem) not in self.scored)]
                    results = [self.scored[folder, i.stem] for i in known]
                    write_table(folder, order, results, self.card, earlier, excel=options.excel)

            def tell() -> None:
                table()
                if is_many and self.scored:
                    found = [(i.stem, self.scored.get((folder, i.stem))) for i in items]
                    rows = [pending_row(stem) if one is None else page_row(one) for stem, one in found]
                    write_index(folder, rows, earlier)
                record.extra["model_sha256"] = self.model_sha256
                record.write(folder, tensorflow=True)

            with telling(tell):
                for one in self._run(folder, items, is_many):
                    scored = self._note(one, by_name[one.name], record)
                    if scored is not None:
                        if sparing.is_due:
                            with sparing.writing():
                                table()
                        self.done(scored)

    def _run(self, folder: Path, items: Sequence[ScoreInput], is_many: bool) -> Iterator[Done]:
        request = self.request if is_many and not self.is_far else None  # one slide is asked about in no time
        return run_many(
            [self._task(item, request) for item in items],
            self.function,
            self.workers,
            folder,
            force=self.options.force,
            fail_fast=self.options.fail_fast,
            progress=self.progress if len(items) > 1 else QUIET,
            label="score",
        )

    def _task(self, item: ScoreInput, request: str | None) -> Task[_Work]:
        path = item.ref.path.absolute()
        digest = None if request is None else digest_of([request, str(path), item.ref.mpp_override])
        if self.is_far:
            item = ScoreInput(replace(item.ref, path=path), item.folder.absolute())
        return Task(item.stem, _Work(item, self.options), (path,), digest)

    def _note(self, one: Done, item: ScoreInput, record: RunRecord) -> Scored | None:
        """What became of a slide; None of one that was not begun. Raises what is no slide's own fault."""
        reason = one.row.get("reason", one.reason)
        if one.is_fault and one.error is not None and (bug := one.error.__cause__) is not None:
            reason = f"a bug: {type(bug).__name__}: {bug}"
        elif one.error is not None and not one.is_fault and not _is_its_own(one.error):
            raise one.error
        self.ended.append(replace(one, reason=reason))
        record.outcomes.append(self.ended[-1].outcome)
        if one.status is Status.PENDING:
            return None
        report = None
        if one.ok:
            read = one.value
            report = read_record(item.folder / f"{item.stem}.report.json") if read is None else read.report
            if read is not None:
                self.card, self.model_sha256 = read.card, read.model_sha256
            if one.status is Status.KEPT:
                reason = ALREADY
            _add_figures(record, report, is_new=reason != ALREADY)
        elif self.total > 1:
            self.progress.say(f"{item.stem}: not scored: {reason}")
        scored = Scored(Outcome(item.stem, one.ok, reason), item.folder, report)
        self.scored[item.folder, item.stem] = scored
        return scored

    def result(self, inputs: Sequence[ScoreInput]) -> list[Scored]:
        """In order. Raises the only slide's own error; of several slides BatchError where some failed."""
        if self.total == 1 and self.ended[0].is_fault and (bug := self.ended[0].error) and bug.__cause__ is not None:
            raise bug.__cause__
        begun = {one.name for one in self.ended}
        rest = [Done(i.stem, Status.PENDING, {}, "not begun") for i in inputs if i.stem not in begun]
        folders = list(dict.fromkeys(i.folder for i in inputs))
        page = folders[0] / INDEX_NAME if len(folders) == 1 else None
        if error := batch_error([*self.ended, *rest], "scored", page):
            raise error
        return [self.scored[i.folder, i.stem] for i in inputs]


def _is_its_own(error: Exception) -> bool:
    """Whether a slide is to blame: the model's errors and the disk's would be every slide's."""
    return isinstance(error, InputError | UnsuitableError) and not isinstance(error, OutputError)


def _add_figures(record: RunRecord, report: dict[str, Any], *, is_new: bool) -> None:
    if is_new:
        for name, seconds in report["timing"].items():
            step = name.removesuffix("_s")
            record.durations_s[step] = record.durations_s.get(step, 0.0) + seconds
    record.inputs[report["slide"]["path"]] = report["slide"]["content_sha256"]
    for name in ("scored", "glass", "failed"):
        record.counts[name] = record.counts.get(name, 0) + report["tiles"][name]


def _score_here(work: _Work, *, job: ScoreJob) -> Finished:
    return _finished(work.item, score_item(work.item, job), job.model)


def _score_on_worker(work: _Work) -> Finished:
    options = work.options
    model = _model(options.model, options.scoring, options.trusted_key)
    return _finished(work.item, score_one(work.item, replace(options, jobs=1), model), model)


def _finished(item: ScoreInput, scored: Scored, model: Predictor) -> Finished:
    assert scored.report is not None
    files = report_files(item, scored.report)
    # what could not be read then may be readable now
    is_whole = not scored.report["tiles"]["failed"]
    value = _Read(scored.report, model.card, model.sha256)
    return Finished({"reason": scored.outcome.reason}, files, is_noted=is_whole, value=value)


@functools.lru_cache(maxsize=1)
def _model(model: str, settings: ScoringSettings, trusted_key: Path | None) -> Predictor:
    """Loaded once per worker."""
    return load_model(model, settings, trusted_key)
