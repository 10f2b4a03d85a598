"""One slide in, its report out: the stage of `vstain score`, which keeps a report that would come out the same."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtual_stain.config import ScoringSettings, TissueSettings
from virtual_stain.errors import InputError
from virtual_stain.exporting.card import seen_in_training
from virtual_stain.files import output_errors, write_bytes, write_json
from virtual_stain.geometry import Size
from virtual_stain.patients import PatientKey, existing_key
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import Outcome
from virtual_stain.report.geojson import tiles_geojson
from virtual_stain.report.heatmap import OVERVIEW_PX, heatmap_png
from virtual_stain.report.html import GALLERY_PX, report_html
from virtual_stain.report.report import SlideFacts, SlideReport, make_report, report_json, tiles_csv
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

ALREADY = "already scored"
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


def load_model(model: str, settings: ScoringSettings, trusted_key: Path | None) -> Predictor:
    """Here and not where a run begins: what computes a reading belongs to the code that a report is made from.

    Raises ConfigError, ModelError, VerificationError, InputError.
    """
    return open_predictor(model, settings, trusted_key)


def look_ahead(inputs: Sequence[ScoreInput], options: ScoreOptions) -> Ahead:
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
class ScoreJob:
    """What is the same for every slide of a run."""

    model: Predictor
    options: ScoreOptions
    key: PatientKey | None
    stager: Stager
    ahead: Ahead
    progress: Progress = QUIET


def score_one(item: ScoreInput, options: ScoreOptions, model: Predictor, progress: Progress = QUIET) -> Scored:
    """Scores one slide of a run whose folder another process keeps: writes the slide's own files alone.

    Raises what the slide, the model or the disk raises.
    """
    if options.addition is not None:
        options.addition.require(model)
    with look_ahead([item], options) as ahead, Stager([item.ref], options.stage, progress.say) as stager:
        return score_item(item, ScoreJob(model, options, existing_key(), stager, ahead, progress))


def score_item(item: ScoreInput, job: ScoreJob) -> Scored:
    """Scores one slide, or finds that its report is current. Raises what the slide, the model or the disk raises."""
    with job.stager.local(item.ref) as ref:
        return _score_one(item, ref, job)


def _score_one(item: ScoreInput, ref: SlideRef, job: ScoreJob) -> Scored:
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
            return Scored(Outcome(item.stem, True, ALREADY), item.folder, done)
        if not options.force:
            _refuse_other_slide(paths["report.json"], item.ref.path, digest)
        tissue = (known and known.tissue) or locate_tissue(slide, options.tissue)
        looks = None if known is None else known.looks
        stain_doubt = require_he(slide, tissue, looks=looks, any_stain=options.scoring.any_stain)
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


def report_files(item: ScoreInput, report: dict[str, Any]) -> tuple[Path, ...]:
    """All files of a scored slide; `report`: the value of its report.json."""
    return tuple(item.folder / name for name in (f"{item.stem}.{_KINDS[0]}", *report["outputs"]))


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
        settings=score_settings(options),
    )


def score_settings(options: ScoreOptions) -> dict[str, Any]:
    """Settings that a report depends on."""
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
