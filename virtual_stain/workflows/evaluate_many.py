"""`vstain evaluate RUN… [DIR…]`: every run on its own held-out patients or on each folder of records.

Each evaluation stands in a folder of its own; evaluations.csv and index.html tell of all.
"""

from __future__ import annotations

import csv
import functools
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ConfigError, InputError, OutputError
from virtual_stain.evaluation import evaluate as stage
from virtual_stain.evaluation.evaluate import Evaluation, evaluate
from virtual_stain.evaluation.summary import summary_lines
from virtual_stain.files import folder_lock, read_json, write_text
from virtual_stain.markers import parse_marker
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import Outcome, RunRecord, refuse_foreign_run
from virtual_stain.remote import Location, parse_location
from virtual_stain.reuse import code_sha256, digest_of
from virtual_stain.slides.collection import told_apart
from virtual_stain.slides.slide import SlideRef
from virtual_stain.tables import BYTE_ORDER_MARK, quote_formula
from virtual_stain.training.run_dir import RunDir
from virtual_stain.value_text import ValueText
from virtual_stain.workflows.many import Done, Finished, Status, Task, batch_error, earlier_rows, run_many, telling
from virtual_stain.workflows.many_page import INDEX_NAME, PageRow, many_page
from virtual_stain.workflows.scheduling import open_workers

EVALUATIONS_CSV = "evaluations.csv"
_TILES = ("n_labelled", "n_patients", "pearson_within_patient", "pearson_pooled", "mae")
_AGREEMENT = ("n", "pearson", "icc_2_1", "mae", "bias")
_LEVELS = ("slide_agreement", "patient_agreement")
_COLUMNS = (
    *("evaluation", "status", "reason", "run", "records", "marker", "value_definition"),
    *(f"tiles_{name}" for name in _TILES),
    *(f"{level.removesuffix('_agreement')}s_{name}" for level in _LEVELS for name in _AGREEMENT),
    "page",
)
_RUNS = ("fit", "fit --cv")


@dataclass(frozen=True, slots=True)
class EvaluationWork:
    """One run and the records that it reads; travels to a worker."""

    run: Path
    records: Location | None
    """None: those that it was trained on."""
    out: Path
    scoring: ScoringSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateManyOptions:
    """How to evaluate; the same for every run."""

    out: Path
    scoring: ScoringSettings
    force: bool = False
    fail_fast: bool = False
    scheduler: str | None = None
    excel: bool = False
    """Begin evaluations.csv with a byte order mark, so that spreadsheets read umlauts as they are."""


def is_run(place: Location) -> bool:
    """Whether a folder is that of a training or of a cross-validation."""
    if not isinstance(place, Path) or not (place / "run.json").is_file():
        return False
    try:
        record = read_json(place / "run.json", "the record of a run")
    except InputError:
        return False
    return isinstance(record, dict) and record.get("command") in _RUNS


def planned(
    runs: Sequence[Path], records: Sequence[Location], options: EvaluateManyOptions
) -> dict[str, EvaluationWork]:
    """name → evaluation: every run on every folder of records, or on its own held-out patients without any.

    Named after the run and, where there are several folders, the records; equal names get their folders in front.
    Raises ConfigError where names cannot be told apart.
    """
    of_runs = _names([run.absolute() for run in runs])
    of_records = _names([Path(str(place)).absolute() for place in records]) or [""]
    places: list[Location | None] = list(records) or [None]
    found: dict[str, EvaluationWork] = {}
    for run, run_name in zip(runs, of_runs, strict=True):
        for place, place_name in zip(places, of_records, strict=True):
            name = "-".join(word for word in (run_name, place_name if len(records) > 1 else "") if word)
            if name in found:
                raise ConfigError(f"expected different runs and records. Received twice: {name}")
            found[name] = EvaluationWork(
                run.absolute(), _everywhere(place), options.out.absolute() / name, options.scoring
            )
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    return [ref.stem for ref in told_apart([SlideRef(path, None, path.name) for path in paths])]


def _everywhere(place: Location | None) -> Location | None:
    return place.absolute() if isinstance(place, Path) else place


def evaluate_many(
    runs: Sequence[Path],
    records: Sequence[Location],
    options: EvaluateManyOptions,
    *,
    progress: Progress = QUIET,
    done: Callable[[Done], None] = lambda _: None,
) -> list[Done]:
    """Evaluates each into `OUT/<name>`, and writes evaluations.csv, index.html and run.json of all.

    What is done is kept. Raises OutputError; the only one's own error; BatchError where some of several failed.
    """
    out = options.out
    works = planned(runs, records, options)
    results: dict[str, Done] = {}
    record = RunRecord("evaluate")
    with folder_lock(out):
        refuse_foreign_run(out, "evaluate")
        if (out / "evaluation.json").exists():
            raise OutputError(
                f"{out}: expected a new folder, or one of several evaluations. Received: that of one evaluation.",
                hint="Choose another folder with --out.",
            )
        if not options.force:
            _refuse_others(out, works)
        earlier = earlier_rows(out, works)

        def tell() -> None:
            write_text(out / EVALUATIONS_CSV, _table(list(works), results, earlier, excel=options.excel))
            rows = [_page_row(name, results.get(name)) for name in works]
            rows += [_evaluated(name, row) for name, row in earlier.items()]
            title = f"{len(rows)} evaluation{'s' * (len(rows) != 1)}"
            write_text(out / INDEX_NAME, many_page(title, rows, EVALUATIONS_CSV, noun="evaluation"))
            record.outcomes = [results[n].outcome if n in results else Outcome(n, False, "pending") for n in works]
            record.counts = {"evaluations": len(works), **Counter(r.status.value for r in results.values())}
            record.write(out, tensorflow=True)

        same = digest_of({"code": code_sha256(stage.__name__), "top_n": options.scoring.top_n})
        tasks = [_task(name, work, same) for name, work in works.items()]
        with telling(tell), open_workers(1, options.scheduler, stage=stage.__name__, gpu=True) as workers:
            how = functools.partial(_evaluate_one, progress=QUIET if options.scheduler else progress)
            for one in run_many(
                tasks, how, workers, out, force=options.force, fail_fast=options.fail_fast, label="evaluate", unit="run"
            ):
                results[one.name] = one
                done(one)
    ordered = [results[name] for name in works]
    if error := batch_error(ordered, "evaluated", out / INDEX_NAME, noun="runs"):
        raise error
    return ordered


def _refuse_others(out: Path, works: dict[str, EvaluationWork]) -> None:
    """Raises OutputError where another run of the same name has its evaluation there."""
    for name, row in earlier_rows(out, ()).items():
        work = works.get(name)
        if work is not None and [row["run"], row["records"]] != _places(work):
            raise OutputError(
                f"{work.out}: expected the evaluation of {work.run}, or none. Received: that of {row['run']}.",
                hint="Choose another --out, or replace it with --force.",
            )


def _places(work: EvaluationWork) -> list[str]:
    return [str(work.run), "" if work.records is None else str(work.records)]


def _task(name: str, work: EvaluationWork, same: str) -> Task[EvaluationWork]:
    inputs = _inputs(work)
    request = None if inputs is None else digest_of([same, *_places(work)])
    return Task(name, work, inputs or (), request)


def _inputs(work: EvaluationWork) -> tuple[Path, ...] | None:
    """All files that the evaluation reads; None where that cannot be told from here."""
    try:
        parts = [work.run, *(p for p in sorted(work.run.glob("fold-*")) if p.is_dir())]
        found = [path for part in parts for path in (part / "run.json", RunDir(part).best) if path.is_file()]
        record = read_json(parts[-1] / "run.json", "the record of a run")
        place = parse_location(record["data"]["records"]) if work.records is None else work.records
    except (InputError, KeyError, TypeError):
        return None
    if not isinstance(place, Path) or not place.is_dir():
        return None
    return (*found, *(p for p in sorted(place.iterdir()) if p.suffix in (".tfrecord", ".json")))


def _evaluate_one(work: EvaluationWork, *, progress: Progress) -> Finished:
    """Runs in a worker."""
    result = evaluate(work.run, work.records, work.out, scoring=work.scoring, progress=progress)
    files = tuple(p for p in sorted(work.out.iterdir()) if p.is_file() and not p.name.startswith("."))
    return Finished(_row(work, result), files)


def _row(work: EvaluationWork, result: Evaluation) -> dict[str, Any]:
    """JSON values."""
    shown = ValueText(result.definition)
    markers = {}
    headlines = []
    for marker, figures in result.figures.items():
        row = {f"tiles_{name}": figures["tiles"][name] for name in _TILES}
        for level in _LEVELS:
            row |= {f"{level.removesuffix('_agreement')}s_{n}": figures[level][n] for n in _AGREEMENT}
        markers[marker] = row
        within = figures["tiles"]["pearson_within_patient"]
        headlines.append(
            f"{shown.name(parse_marker(marker))}: r within a patient {'–' if within is None else f'{within:.2f}'}, "
            f"error of a slide {shown.difference(figures['slide_agreement']['mae'])}"
        )
    run, records = _places(work)
    return {
        "run": run,
        "records": records,
        "value_definition": result.definition.value,
        "markers": markers,
        "headline": "; ".join(headlines),
        "lines": summary_lines(result),
    }


def _table(names: Sequence[str], results: dict[str, Done], earlier: dict[str, dict[str, Any]], *, excel: bool) -> str:
    """A row for every evaluation and marker."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for name in names:
        one = results.get(name)
        if one is None or not one.ok:
            status, reason = (Status.PENDING.value, "") if one is None else (one.status.value, one.reason)
            writer.writerow(
                {"evaluation": quote_formula(name), "status": status, "reason": quote_formula(" ".join(reason.split()))}
            )
        else:
            writer.writerows(_rows(name, "ok", one.row))
    for name, row in earlier.items():
        writer.writerows(_rows(name, "earlier", row))
    return (BYTE_ORDER_MARK if excel else "") + text.getvalue()


def _rows(name: str, status: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    first = {"evaluation": quote_formula(name), "status": status, "page": quote_formula(f"{name}/evaluation.html")}
    first |= {key: row[key] for key in ("run", "records", "value_definition")}
    return [
        {**first, "marker": marker, **{k: "" if v is None else f"{v:.6g}" for k, v in figures.items()}}
        for marker, figures in row["markers"].items()
    ]


def _page_row(name: str, one: Done | None) -> PageRow:
    if one is None or one.status is Status.PENDING:
        return PageRow(name, "pending", notes=("not begun: the run was stopped",))
    return _evaluated(name, one.row) if one.ok else PageRow(name, "failed", notes=(one.reason,))


def _evaluated(name: str, row: dict[str, Any]) -> PageRow:
    return PageRow(name, "good", row["headline"], page=f"{name}/evaluation.html", picture=f"{name}/scatter.png")


def told(one: Done) -> str:
    """What the console says of an evaluation."""
    if not one.ok:
        return f"{one.name}: not evaluated: {one.reason}"
    return "\n".join([f"{one.name}{' [kept]' if one.status is Status.KEPT else ''}:", *one.row["lines"]])
