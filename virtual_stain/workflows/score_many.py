"""`vstain score` over many: `score_slides` here, or a task a slide on a cluster; and index.html, worst first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ConfigError, ModelError, UnsuitableError, VerificationError
from virtual_stain.files import folder_lock, make_folder, write_text
from virtual_stain.markers import parse_marker
from virtual_stain.progress import QUIET, Progress, Sparing
from virtual_stain.provenance import Outcome, RunRecord, refuse_foreign_run
from virtual_stain.report.headline import headline_text
from virtual_stain.report.table import SCORES_CSV
from virtual_stain.scoring.inputs import ScoreInput
from virtual_stain.scoring.open_model import open_predictor
from virtual_stain.scoring.predictor import Predictor
from virtual_stain.workflows import score_slides as stage
from virtual_stain.workflows.many import Done, Finished, Task, batch_error, run_many, telling
from virtual_stain.workflows.many_page import INDEX_NAME, PageRow, many_page
from virtual_stain.workflows.scheduling import open_workers
from virtual_stain.workflows.score_slides import Scored, ScoreOptions, score_one, score_slides
from virtual_stain.workflows.score_table import earlier_reports, write_table
from virtual_stain.workflows.score_words import doubts, model_doubt

Report = Mapping[str, Any]


def score_many(
    inputs: Sequence[ScoreInput],
    options: ScoreOptions,
    *,
    scheduler: str | None = None,
    progress: Progress = QUIET,
    done: Callable[[Scored], None] = lambda _: None,
) -> None:
    """Scores every slide here, or at `scheduler` (an address, or slurm:…), one task a slide.

    Of several slides in one folder also index.html. Raises as `score_slides` does.
    """
    rows: dict[tuple[Path, str], PageRow] = {}

    def note(scored: Scored) -> None:
        rows[scored.folder, scored.outcome.name] = page_row(scored)
        done(scored)

    def tell() -> None:
        stems: dict[Path, list[str]] = {}
        for item in inputs:
            stems.setdefault(item.folder, []).append(item.stem)
        for folder, mine in stems.items():
            if rows and (len(mine) > 1 or (folder / INDEX_NAME).exists()):
                write_index(folder, [rows.get((folder, stem), _pending(stem)) for stem in mine])

    with telling(tell):
        if scheduler is None:
            score_slides(inputs, options, progress=progress, done=note)
        else:
            _score_on_cluster(inputs, options, scheduler, progress, note)


def write_index(folder: Path, rows: Sequence[PageRow]) -> None:
    """index.html of `rows` and of the reports of earlier runs in the folder."""
    names = {row.name for row in rows}
    earlier = [_of_report(stem, report) for stem, report in earlier_reports(folder, names).items()]
    everything = [*rows, *earlier]
    title = f"Scores of {len(everything)} slide{'s' * (len(everything) != 1)}"
    write_text(folder / INDEX_NAME, many_page(title, everything, SCORES_CSV))


def page_row(scored: Scored) -> PageRow:
    """What the index says of a slide."""
    if scored.report is None:
        return PageRow(scored.outcome.name, "failed", notes=(scored.outcome.reason,))
    return _of_report(scored.outcome.name, scored.report)


def _of_report(stem: str, report: Report) -> PageRow:
    parts = []
    for marker, reading in report["readings"].items():
        score = reading.get("her2", {}).get("score")
        parts += [f"{parse_marker(marker).label} score {score}"] if score else []
        parts.append(headline_text(marker, reading))
    one = Scored(Outcome(stem, True), Path(), dict(report))
    notes = tuple(text.strip().removeprefix("doubtful: ") for text in doubts(one))
    page, picture = f"{stem}.report.html", f"{stem}.heatmap.png"
    return PageRow(stem, "doubtful" if notes else "good", "; ".join(parts), notes, page, picture, model_doubt(report))


def _pending(stem: str) -> PageRow:
    return PageRow(stem, "pending", notes=("not begun: the run was stopped",))


@dataclass(frozen=True, slots=True)
class _Work:
    """What a worker needs to score a slide."""

    item: ScoreInput
    options: ScoreOptions


def _score_on_cluster(
    inputs: Sequence[ScoreInput],
    options: ScoreOptions,
    scheduler: str,
    progress: Progress,
    done: Callable[[Scored], None],
) -> None:
    folders = list(dict.fromkeys(i.folder for i in inputs))
    if len(folders) > 1:
        raise ConfigError("--scheduler: expected one folder for all results. Received: none.", hint="--out DIR")
    (folder,) = folders
    make_folder(folder)
    absolute = replace(options, model=_everywhere(options.model))
    tasks = [_task(item, absolute) for item in inputs]
    record = RunRecord("score", extra={"model": options.model})
    ended: list[Done] = []
    scored: dict[str, Scored] = {}
    with folder_lock(folder):
        refuse_foreign_run(folder, "score")
        sparing, card = Sparing(), None
        earlier = earlier_reports(folder, {i.stem for i in inputs})

        def table() -> None:
            if card is not None and (len(inputs) > 1 or (folder / SCORES_CSV).exists()):
                known = [i for i in inputs if i.stem in scored]
                order = [*known, *(i for i in inputs if i.stem not in scored)]
                write_table(folder, order, [scored[i.stem] for i in known], card, earlier, excel=options.excel)

        def tell() -> None:
            table()
            record.outcomes = [one.outcome for one in ended]
            record.write(folder, tensorflow=True)

        with telling(tell), open_workers(1, scheduler, stage=stage.__name__, gpu=True) as workers:
            for one in run_many(
                tasks,
                _score_on_worker,
                workers,
                folder,
                force=options.force,
                fail_fast=options.fail_fast,
                progress=progress,
                label="score",
            ):
                _raise_what_is_no_slides(one)
                ended.append(one)
                card = one.row.get("card", card)
                if one.ok:
                    record.extra["model_sha256"] = one.row["sha256"]
                reason = one.row.get("reason", one.reason)
                result = Scored(Outcome(one.name, one.ok, reason), folder, one.row.get("report"))
                if one.ok or one.error is not None:  # the others were not begun
                    scored[one.name] = result
                    done(result)
                if sparing.is_due:
                    with sparing.writing():
                        table()
    if error := batch_error(ended, "scored", folder / INDEX_NAME):
        raise error


def _raise_what_is_no_slides(one: Done) -> None:
    """The model's errors would be every slide's."""
    error = one.error
    if isinstance(error, ModelError | VerificationError | ConfigError) and not isinstance(error, UnsuitableError):
        raise error


def _everywhere(model: str) -> str:
    return model if "://" in model else str(Path(model).absolute())


def _task(item: ScoreInput, options: ScoreOptions) -> Task[_Work]:
    moved = ScoreInput(replace(item.ref, path=item.ref.path.absolute()), item.folder.absolute())
    return Task(item.stem, _Work(moved, options), (item.ref.path,))


def _score_on_worker(work: _Work) -> Finished:
    options = work.options
    model = _model(options.model, options.scoring, options.trusted_key)
    scored = score_one(work.item, replace(options, jobs=1), model)
    return Finished(
        {"report": scored.report, "reason": scored.outcome.reason, "card": model.card, "sha256": model.sha256}
    )


@functools.lru_cache(maxsize=1)
def _model(model: str, settings: ScoringSettings, trusted_key: Path | None) -> Predictor:
    """Loaded once per worker."""
    return open_predictor(model, settings, trusted_key)
