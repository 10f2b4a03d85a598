"""Slides in, reports out: one bad slide never stops the others and never disappears; finished ones are not redone."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtual_stain.config import ScoringSettings, TissueSettings
from virtual_stain.errors import InputError, OutputError, UnsuitableError, VirtualStainError
from virtual_stain.exporting.bundle import BUNDLE_SIGNATURE, find_bundle
from virtual_stain.exporting.card import seen_in_training
from virtual_stain.files import (
    folder_lock,
    make_folder,
    output_errors,
    write_bytes,
    write_json,
)
from virtual_stain.geometry import Size
from virtual_stain.patients import PatientKey, existing_key
from virtual_stain.progress import QUIET, Progress, Sparing
from virtual_stain.provenance import Outcome, RunRecord, refuse_foreign_run
from virtual_stain.report.geojson import tiles_geojson
from virtual_stain.report.heatmap import OVERVIEW_PX, heatmap_png
from virtual_stain.report.html import GALLERY_PX, report_html
from virtual_stain.report.report import SlideFacts, SlideReport, make_report, report_json, tiles_csv
from virtual_stain.report.table import SCORES_CSV
from virtual_stain.reuse import FILES, MadeFrom, is_finished, made_from, read_record, withdraw
from virtual_stain.scoring.ahead import Ahead
from virtual_stain.scoring.answer_log import AnswerLog
from virtual_stain.scoring.inputs import ScoreInput
from virtual_stain.scoring.open_model import open_predictor
from virtual_stain.scoring.predictor import Predictor
from virtual_stain.scoring.score import locate_tissue, score_slide
from virtual_stain.scoring.staging import Stager, worth_a_copy
from virtual_stain.scoring.suitable import require_he
from virtual_stain.slides.probe import require_survivable, unchanged_since
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.window import read_window
from virtual_stain.workflows.score_addition import Added, Addition
from virtual_stain.workflows.score_table import earlier_reports, write_table
from virtual_stain.workflows.score_words import raise_failures

_log = logging.getLogger("vstain.score")
_KEPT = "already scored"
_HOW_FAST = (
    "batch_size",
    "read_ahead_batches",
    "read_timeout_s",
    "server_requests",
    "server_timeout_s",
    "server_patience_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """How to score; the same for every slide of a run."""

    model: str
    """A bundle folder, MODEL or MODEL/<version>."""
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    tissue: TissueSettings = field(default_factory=TissueSettings)
    excel: bool = False
    """Begin scores.csv with a byte order mark, so that spreadsheets read umlauts as they are."""
    trusted_key: Path | None = None
    """Public key that the bundle must be signed with; None: signed or not."""
    stage: Path | None = None
    """Folder for local copies of the slides; None: only of slides on a network share, in the temporary folder."""
    geojson_origin: str = "bounds"
    """"bounds": QuPath's frame, px0 − bounds; "slide": px0."""
    jobs: int = 1
    """Threads that read tiles."""
    force: bool = False
    """Score again what is already there."""
    fail_fast: bool = False
    """Begin nothing more after the first slide that fails."""
    addition: Addition | None = None
    """What else is made of every slide."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of one slide; `report` is the value of its report.json, None where it failed."""

    outcome: Outcome
    folder: Path
    report: dict[str, Any] | None = None


def score_slides(
    inputs: Sequence[ScoreInput],
    options: ScoreOptions,
    *,
    predictor: Predictor | None = None,
    progress: Progress = QUIET,
    done: Callable[[Scored], None] = lambda _: None,
) -> list[Scored]:
    """Scores every slide and writes `<stem>.{report.json,tiles.csv,heatmap.png,geojson,report.html}` and run.json.

    `predictor`: in place of loading `options.model`. `done` is called after each slide. Slides whose report is
    current (same slide, model and settings) are left alone. Raises ModelError, VerificationError (the bundle),
    OutputError; the only slide's own error; for several slides BatchError when some failed, the others being on disk.
    """
    for folder in dict.fromkeys(i.folder for i in inputs):
        make_folder(folder)  # an unwritable place is found before the work, not after
    with _ahead(inputs, options) as ahead:
        start = time.monotonic()
        model = predictor or open_predictor(options.model, options.scoring, options.trusted_key)
        if predictor is None and options.trusted_key is None and _is_unsigned(options.model):
            progress.say(
                f"{options.model}: the model is not signed: nothing says who made it "
                "(scoring.require_signature refuses such models)."
            )
        if options.addition is not None:
            options.addition.require(model)
        _log.info("model verified and loaded in %.1f s", time.monotonic() - start)
        try:
            with Stager([i.ref for i in inputs], options.stage, progress.say) as stager:
                return _score_groups(
                    inputs, _Job(model, options, existing_key(), stager, ahead, progress, len(inputs) == 1), done
                )
        finally:
            if predictor is None:
                model.close()


def _is_unsigned(model: str) -> bool:
    """Of a bundle in a folder here."""
    return "://" not in model and not (find_bundle(Path(model)) / BUNDLE_SIGNATURE).is_file()


def _ahead(inputs: Sequence[ScoreInput], options: ScoreOptions) -> Ahead:
    """Of slides that are read where they are: a copy's turn to be looked at comes when it has arrived."""
    found = {i.ref: i.folder / f"{i.stem}.report.json" for i in inputs if not worth_a_copy(i.ref, options.stage)}
    return Ahead(
        list(found),
        options.tissue,
        lambda ref: options.force or not found[ref].exists(),
        lambda ref: _was_read(ref, found[ref]),
    )


def _was_read(ref: SlideRef, report: Path) -> bool:
    """Whether this report is of this very file: who wrote it has read the slide to its end."""
    recorded = read_record(report).get("slide")
    path = recorded.get("path") if isinstance(recorded, dict) else None
    return isinstance(path, str) and Path(path).absolute() == ref.path.absolute() and unchanged_since(ref, report)


@dataclass(frozen=True, slots=True)
class _Job:
    """What is the same for every slide of a run."""

    model: Predictor
    options: ScoreOptions
    key: PatientKey | None
    stager: Stager
    ahead: Ahead
    progress: Progress
    is_only: bool = False
    """The run has one slide, whose error the command ends with."""


def _score_groups(inputs: Sequence[ScoreInput], job: _Job, done: Callable[[Scored], None]) -> list[Scored]:
    model, options = job.model, job.options
    results: list[Scored] = []
    errors: list[Exception] = []
    for folder, group in itertools.groupby(inputs, lambda i: i.folder):
        record = RunRecord("score", config=_settings(options), extra={"model": options.model})
        record.extra["model_sha256"] = model.sha256
        with folder_lock(folder):
            refuse_foreign_run(folder, "score")
            try:
                items, mine = list(group), []
                wanted = len(items) > 1 or (folder / SCORES_CSV).exists()
                earlier = earlier_reports(folder, {i.stem for i in items}) if wanted else {}
                sparing = Sparing()
                for number, item in enumerate(items, 1):
                    mine.append(_outcome(item, job, errors))
                    results.append(mine[-1])
                    record.outcomes.append(results[-1].outcome)
                    _note(record, results[-1])
                    stopped = options.fail_fast and bool(errors)
                    if wanted and (sparing.is_due or stopped or number == len(items)):
                        with sparing.writing():
                            write_table(folder, items, mine, model.card, earlier, excel=options.excel)
                    done(results[-1])
                    if stopped:
                        break
            except BaseException:
                with contextlib.suppress(OutputError):  # the first error is the one to tell
                    record.write(folder, tensorflow=True)
                raise
            record.write(folder, tensorflow=True)
        if options.fail_fast and errors:
            break
    raise_failures(results, errors, len(inputs))
    return results


def score_one(item: ScoreInput, options: ScoreOptions, model: Predictor, progress: Progress = QUIET) -> Scored:
    """Scores one slide of a run whose folder another process keeps: writes the slide's own files alone.

    Raises what the slide, the model or the disk raises.
    """
    if options.addition is not None:
        options.addition.require(model)
    with _ahead([item], options) as ahead, Stager([item.ref], options.stage, progress.say) as stager:
        job = _Job(model, options, existing_key(), stager, ahead, progress)
        with stager.local(item.ref) as ref:
            return _score_one(item, ref, job)


def _outcome(item: ScoreInput, job: _Job, errors: list[Exception]) -> Scored:
    """Scores one slide; its own failure becomes an Outcome, the model's or the disk's ends the run."""
    try:
        with job.stager.local(item.ref) as ref:
            return _score_one(item, ref, job)
    except OutputError:
        raise
    except (InputError, UnsuitableError) as error:
        reason = str(error)
        errors.append(error)
    except VirtualStainError:
        raise
    except Exception as error:
        # a bug met on one slide must not cost the night's other slides; it is printed whole
        job.progress.say(traceback.format_exc())
        reason = f"a bug: {type(error).__name__}: {error}"
        errors.append(error)
    if not job.is_only:
        job.progress.say(f"{item.stem}: not scored: {reason}")
    return Scored(Outcome(item.stem, False, reason), item.folder)


def _score_one(item: ScoreInput, ref: SlideRef, job: _Job) -> Scored:
    """`ref`: the slide or its local copy."""
    model, options = job.model, job.options
    known = job.ahead.take(ref)
    if not _was_read(ref, item.folder / f"{item.stem}.report.json"):
        require_survivable(ref)
    with open_slide(ref) as slide:
        digest = slide.content_hash() if known is None else known.content_hash
        seen = seen_in_training(model.card, digest, job.key)
        made = _made_from(slide, digest, model, options, seen)
        paths = {kind: item.folder / f"{item.stem}.{kind}" for kind in _KINDS}
        added = () if options.addition is None else options.addition.names(item.stem, model.card)
        done = None if options.force else _current(paths, made, added)
        if done is not None:
            return Scored(Outcome(item.stem, True, _KEPT), item.folder, done)
        if not options.force:
            _refuse_other_slide(paths["report.json"], item.ref.path, digest)
        tissue = (known and known.tissue) or locate_tissue(slide, options.tissue)
        stain_doubt = require_he(slide, tissue, any_stain=options.scoring.any_stain)
        for warning in slide.warnings:
            job.progress.say(f"{item.stem}: {warning}")
        journal = AnswerLog(item.folder / f"{item.stem}.partial.npz", made.fingerprint)
        if options.force:
            journal.remove()
        score = score_slide(
            slide,
            model,
            options.scoring,
            options.tissue,
            jobs=options.jobs,
            tissue=tissue,
            journal=journal,
            progress=job.progress,
        )
        facts = dataclasses.replace(SlideFacts.of(slide, digest), path=item.ref.path, stain_doubt=stain_doubt)
        report = make_report(facts, score, model.sha256, options.scoring, seen=seen)
        more = None
        if options.addition is not None:
            with output_errors(paths["report.json"]):
                withdraw(paths["report.json"])
            more = options.addition.make(slide, report, model, item.folder, item.stem, job.progress)
        value = _write(report, slide, paths, made, options, more)
        journal.remove()
    return Scored(Outcome(item.stem, True), item.folder, value)


def _refuse_other_slide(report: Path, slide: Path, digest: str) -> None:
    """Raises InputError where another slide of the same name has its report there: neither may be lost."""
    recorded = read_record(report).get("slide")
    if not isinstance(recorded, dict) or not isinstance(recorded.get("path"), str):
        return
    other = Path(recorded["path"])
    if recorded.get("content_sha256") != digest and other.absolute() != slide.absolute():
        raise InputError(
            f"{report}: expected the report of {slide}, or none. Received: that of another slide, {other}.",
            hint="Choose another --out, give the slide a name in a table (--slides FILE.csv), or replace it (--force).",
        )


_KINDS = ("report.json", "tiles.csv", "heatmap.png", "geojson", "report.html")


def _write(
    report: SlideReport,
    slide: Slide,
    paths: dict[str, Path],
    made: MadeFrom,
    options: ScoreOptions,
    more: Added | None,
) -> dict[str, Any]:
    """Every file whole or not there; report.json goes first and comes last, so that it never vouches for others."""
    columns, outputs = ({}, {}) if more is None else (more.columns, {n: dict(f) for n, f in more.files.items()})
    report = report if more is None else more.report
    picture = heatmap_png(report, slide.overview(max_px=OVERVIEW_PX))
    thumbnail = Size(GALLERY_PX, GALLERY_PX)
    seen = report.score.tissue.without_unknown
    page = report_html(report, picture, lambda box: seen(read_window(slide, box, thumbnail), box))
    contents = {
        "tiles.csv": tiles_csv(report.score, columns).encode(),
        "heatmap.png": picture,
        "geojson": tiles_geojson(report, options.geojson_origin).encode(),
        "report.html": page.encode(),
    }
    with output_errors(paths["report.json"]):
        withdraw(paths["report.json"])
    for kind, data in contents.items():
        write_bytes(paths[kind], data)
        outputs[paths[kind].name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    value = report_json(report, made.to_json(), outputs)
    write_json(paths["report.json"], value)
    return value


def _made_from(slide: Slide, digest: str, model: Predictor, options: ScoreOptions, seen: bool | None) -> MadeFrom:
    return made_from(
        __name__,
        inputs={
            "slide_sha256": digest,
            "slide_mpp": None if slide.mpp is None else [slide.mpp.x, slide.mpp.y],
            "model_sha256": model.sha256,
            "seen_in_training": seen,
        },
        settings=_settings(options),
    )


def _settings(options: ScoreOptions) -> dict[str, Any]:
    scoring = dataclasses.asdict(options.scoring)
    for name in _HOW_FAST:
        del scoring[name]  # how fast, not what
    return {
        "scoring": scoring,
        "tissue": dataclasses.asdict(options.tissue),
        "geojson_origin": options.geojson_origin,
        **({} if options.addition is None else {"addition": options.addition.settings()}),
    }


def _current(paths: dict[str, Path], made: MadeFrom, added: Sequence[str] = ()) -> dict[str, Any] | None:
    """The report on disk, if it was made from the same and all its files are there, unchanged."""
    report = read_record(paths["report.json"])
    try:
        files = {name: entry["sha256"] for name, entry in report["outputs"].items()}
        complete = not report["tiles"]["failed"]  # what could not be read then may be readable now
    except (KeyError, TypeError, AttributeError):
        return None  # none, damaged or of another kind: scored again
    wanted = [*(paths[kind].name for kind in _KINDS[1:]), *added]
    kept = complete and is_finished({**report, FILES: files}, made, paths["report.json"].parent, wanted)
    return report if kept else None


def _note(record: RunRecord, scored: Scored) -> None:
    if scored.report is None:
        return
    if scored.outcome.reason != _KEPT:
        for name, seconds in scored.report["timing"].items():
            step = name.removesuffix("_s")
            record.durations_s[step] = record.durations_s.get(step, 0.0) + seconds
    record.inputs[scored.report["slide"]["path"]] = scored.report["slide"]["content_sha256"]
    for name in ("scored", "glass", "failed"):
        record.counts[name] = record.counts.get(name, 0) + scored.report["tiles"][name]
