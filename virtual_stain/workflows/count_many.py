"""`vstain count SLIDES…`: each slide into a folder of its own, counts.csv over all, and index.html, worst first."""

from __future__ import annotations

import csv
import functools
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from virtual_stain.config import Config
from virtual_stain.counting.quality import QUALITY_SENTENCES
from virtual_stain.counting.region_model import load_region_model
from virtual_stain.counting.stain import FLAG_SENTENCES
from virtual_stain.errors import ConfigError, OutputError
from virtual_stain.files import folder_lock, write_text
from virtual_stain.markers import parse_marker
from virtual_stain.progress import QUIET, Progress, Sparing
from virtual_stain.provenance import Outcome, RunRecord, refuse_foreign_run
from virtual_stain.reuse import MADE_FROM, code_sha256, digest_of, read_record
from virtual_stain.slides.collection import TABLES, Row, found_slides, read_table_of_slides, refuse_equal_names
from virtual_stain.tables import BYTE_ORDER_MARK, find_file, quote_formula
from virtual_stain.workflows import count_slide as stage
from virtual_stain.workflows.count_page import PAGE_NAME
from virtual_stain.workflows.count_slide import CountRequest, count_slide
from virtual_stain.workflows.count_words import headline_of
from virtual_stain.workflows.many import Done, Finished, Status, Task, batch_error, earlier_rows, run_many, telling
from virtual_stain.workflows.many_page import INDEX_NAME, PageRow, many_page
from virtual_stain.workflows.scheduling import open_workers

COUNTS_CSV = "counts.csv"
TABLE_COLUMNS = ("slide", "marker", "mpp", "roi", "cells", "name")
_READ = ("ratio", "standard_error", "positive", "negative", "nuclei", "h_score", "allred")
_COLUMNS = (
    *("slide", "status", "reason", "marker", "value", "unit"),
    *(f"tumour_{name}" for name in _READ),
    *("all_ratio", "all_positive", "all_negative", "her2_score", "tps"),
    *("area_mm2", "area_of", "mpp_x", "mpp_y", "tumour_source", "flags", "warnings", "page", "file"),
)
_SENTENCES = {**QUALITY_SENTENCES, **FLAG_SENTENCES}
_TEXTS = ("slide", "reason", "tumour_source", "flags", "warnings", "page", "file")  # of users: none begins a formula
_RUN = "run.json"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountManyOptions:
    """How to count; the same for every slide of a run."""

    out: Path
    config: Config
    region_model: str | None = None
    """MODULE:NAME."""
    jobs: int = 1
    force: bool = False
    fail_fast: bool = False
    """Begin nothing more after the first slide that fails."""
    scheduler: str | None = None
    """Address of a Dask scheduler, or slurm:…"""
    excel: bool = False
    """Begin counts.csv with a byte order mark, so that spreadsheets read umlauts as they are."""


def is_many(given: Sequence[Path], table: Path | None) -> bool:
    """Whether what the command line names is more than one slide, or may be: a folder, a pattern, a table."""
    if table is not None or len(given) != 1:
        return True
    (path,) = given
    return path.is_dir() or path.suffix.lower() in TABLES or (not path.exists() and any(c in path.name for c in "*?["))


def collect_requests(
    given: Sequence[Path], table: Path | None, common: CountRequest, *, marker_given: bool, say: Say = lambda _: None
) -> tuple[CountRequest, ...]:
    """A request for every slide, each with a folder of its own below `common.out`.

    `common`: what holds for all of them; its slide gives the pixel size alone. A table (a .csv among `given`, or
    `table`) may state marker, mpp, roi, cells and name of each slide. `marker_given`: False where the table must
    state every marker. Raises ConfigError, InputError (all bad rows at once).
    """
    requests: list[CountRequest] = []
    mpp = common.slide.mpp_override
    tables = [] if table is None else [table]
    for path in given:
        if path.suffix.lower() in TABLES:
            tables.append(path)
        else:
            requests += [replace(common, slide=ref) for ref in found_slides(path, say, mpp=mpp)]
    if requests and not marker_given:
        raise ConfigError(
            "expected what the slides are stained for. Received: nothing.",
            hint="--marker ki67, er, pr, her2 or pdl1; of several markers a table with the column marker",
        )
    for path in tables:
        check = functools.partial(_check_row, folder=path.parent, marker_given=marker_given)
        found = read_table_of_slides(path, TABLE_COLUMNS, mpp, check)
        for ref, row in zip(found.refs, found.rows, strict=True):
            requests.append(_of_row(replace(common, slide=ref), row, path.parent))
    if not requests:
        raise ConfigError("expected at least one slide.", hint="vstain count SLIDE… --marker ki67 --out DIR")
    refuse_equal_names(r.slide for r in requests)
    return tuple(
        replace(r, slide=replace(r.slide, virtual=common.slide.virtual), out=common.out / r.slide.stem)
        for r in requests
    )


def _check_row(row: Row, *, folder: Path, marker_given: bool) -> None:
    if not row["marker"] and not marker_given:
        raise ValueError("marker: expected ki67, er, pr, her2 or pdl1 (or --marker for all). Received: nothing")
    if row["marker"]:
        try:
            parse_marker(row["marker"])
        except ConfigError as error:
            raise ValueError(f"marker: {error.message}") from None
    for name in ("roi", "cells"):
        if row[name] and not find_file(folder, row[name]).is_file():
            raise ValueError(f"{name}: expected a file. Received: {row[name]!r}, which is not there")


def _of_row(common: CountRequest, row: Row, folder: Path) -> CountRequest:
    return replace(
        common,
        marker=parse_marker(row["marker"]) if row["marker"] else common.marker,
        roi=find_file(folder, row["roi"]) if row["roi"] else common.roi,
        cells=find_file(folder, row["cells"]) if row["cells"] else common.cells,
    )


def count_many(
    requests: Sequence[CountRequest],
    options: CountManyOptions,
    *,
    progress: Progress = QUIET,
    done: Callable[[Done], None] = lambda _: None,
) -> list[Done]:
    """Counts every slide into `OUT/<name>`, and writes counts.csv, index.html and run.json of all; returns in order.

    Slides that are done are kept. `done` is called after each. Raises OutputError; the only slide's own error; of
    several slides BatchError where some failed, after all are done.
    """
    out = options.out
    results: dict[str, Done] = {}
    names = [r.slide.stem for r in requests]
    sparing = Sparing()
    record = RunRecord("count", config=options.config.to_dict())
    with folder_lock(out):
        refuse_foreign_run(out, "count")
        _refuse_single_count(out)
        earlier = earlier_rows(out, names)

        def tell() -> None:
            _write_table(out, names, results, earlier, options)
            write_text(out / INDEX_NAME, _page(names, results, earlier))
            record.outcomes = [results[n].outcome if n in results else Outcome(n, False, "pending") for n in names]
            record.counts = {"slides": len(names), **Counter(r.status.value for r in results.values())}
            record.write(out)

        with telling(tell):
            for one in _run(requests, options, progress):
                results[one.name] = one
                if sparing.is_due:
                    with sparing.writing():
                        _write_table(out, names, results, earlier, options)
                done(one)
    ordered = [results[name] for name in names]
    if error := batch_error(ordered, "counted", out / INDEX_NAME):
        raise error
    return ordered


def _run(requests: Sequence[CountRequest], options: CountManyOptions, progress: Progress) -> Iterator[Done]:
    jobs = options.jobs
    # few slides on many cores: one after the other, each on all of them
    processes, within = (1, jobs) if len(requests) < jobs and options.scheduler is None else (jobs, 1)
    how = functools.partial(
        _count_one, config=options.config, jobs=within, force=options.force, region_model=options.region_model
    )
    everywhere = options.scheduler is not None  # workers stand in other folders
    same = {"code": code_sha256(stage.__name__), "config": options.config.to_dict()}
    digest = None if options.region_model is not None else digest_of(same)  # its answer is not known before it is asked
    tasks = [_task(r if not everywhere else _absolute(r), digest) for r in requests]
    with open_workers(processes, options.scheduler, stage=stage.__name__) as workers:
        yield from run_many(
            tasks,
            how,
            workers,
            options.out,
            force=options.force,
            fail_fast=options.fail_fast,
            progress=progress,
            label="count",
        )


def _task(request: CountRequest, same: str | None) -> Task[CountRequest]:
    """`same`: digest of what holds for every slide; None: no slide is kept without asking the stage."""
    files = {name: path for name, path in (("roi", request.roi), ("cells", request.cells)) if path is not None}
    digest = None
    if same is not None:
        digest = digest_of(
            {
                "same": same,
                "slide": str(request.slide.path.absolute()),
                "mpp": request.slide.mpp_override,
                "virtual": request.slide.virtual,
                "marker": request.marker.value,
                "files": {name: str(path.absolute()) for name, path in files.items()},
                "geojson_origin": request.geojson_origin,
                "full_overlay": request.full_overlay,
            }
        )
    return Task(request.slide.stem, request, (request.slide.path, *files.values()), digest)


def _absolute(request: CountRequest) -> CountRequest:
    return replace(
        request,
        slide=replace(request.slide, path=request.slide.path.absolute()),
        out=request.out.absolute(),
        roi=None if request.roi is None else request.roi.absolute(),
        cells=None if request.cells is None else request.cells.absolute(),
    )


def _count_one(request: CountRequest, *, config: Config, jobs: int, force: bool, region_model: str | None) -> Finished:
    """Runs in a worker."""
    model = None if region_model is None or request.roi is not None else _region_model(region_model)
    summary = count_slide(request, config, jobs=jobs, force=force, region_model=model)
    files = tuple(p for p in sorted(request.out.iterdir()) if p.is_file() and not p.name.startswith("."))
    return Finished(_row(request, summary), files)


_region_model = functools.cache(load_region_model)  # once per worker


def _row(request: CountRequest, summary: dict[str, Any]) -> dict[str, Any]:
    """What counts.csv and the page say of a counted slide; JSON values."""
    tumour, nuclei, mpp = summary["tumour"], summary["all_nuclei"], summary["slide"]["mpp"]
    flags = [*summary["trust"]["flags"], *summary["stain"]["flags"]]
    return {
        "marker": summary["marker"],
        "value": summary["value"]["value"],
        "unit": summary["value"]["unit"],
        **{f"tumour_{name}": tumour.get(name) for name in _READ},
        **{f"all_{name}": nuclei.get(name) for name in ("ratio", "positive", "negative")},
        "her2_score": summary.get("her2", {}).get("score"),
        "tps": summary.get("pdl1", {}).get("tps"),
        "area_mm2": summary["area_mm2"],
        "area_of": summary["area_of"],
        "mpp_x": mpp[0],
        "mpp_y": mpp[1],
        "tumour_source": summary["tumour_source"],
        "flags": ";".join(dict.fromkeys(flags)),
        "warnings": " | ".join(summary["warnings"]),
        "page": f"{request.slide.stem}/{PAGE_NAME}",
        "file": request.slide.path.name,
        "headline": headline_of(summary),
    }


def _write_table(
    out: Path,
    names: Sequence[str],
    results: dict[str, Done],
    earlier: dict[str, dict[str, Any]],
    options: CountManyOptions,
) -> None:
    """A row for every slide of the run, in its order; those of earlier runs follow."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for name in names:
        writer.writerow(_quoted(_table_row(name, results.get(name))))
    for name, row in earlier.items():
        writer.writerow(_quoted({"slide": name, "status": "earlier", **row}))
    write_text(out / COUNTS_CSV, (BYTE_ORDER_MARK if options.excel else "") + text.getvalue())


def _table_row(name: str, result: Done | None) -> dict[str, Any]:
    if result is None:
        return {"slide": name, "status": Status.PENDING.value}
    status = "ok" if result.ok else result.status.value
    return {"slide": name, "status": status, "reason": " ".join(result.reason.split()), **result.row}


def _quoted(row: dict[str, Any]) -> dict[str, Any]:
    return {k: quote_formula(v) if isinstance(v, str) and k in _TEXTS else v for k, v in row.items()}


def _page(names: Sequence[str], results: dict[str, Done], earlier: dict[str, dict[str, Any]]) -> str:
    rows = [_page_row(name, results.get(name)) for name in names]
    rows += [_counted(name, row) for name, row in earlier.items()]
    return many_page(f"Count of {len(rows)} slide{'s' * (len(rows) != 1)}", rows, COUNTS_CSV)


def _page_row(name: str, result: Done | None) -> PageRow:
    if result is None or result.status is Status.PENDING:
        return PageRow(name, "pending", notes=("not begun: the run was stopped",))
    return _counted(name, result.row) if result.ok else PageRow(name, "failed", notes=(result.reason,))


def _counted(name: str, row: dict[str, Any]) -> PageRow:
    notes = tuple(note for note in str(row["warnings"]).split(" | ") if note)
    return PageRow(
        name,
        "doubtful" if notes or row["value"] is None else "good",
        str(row["headline"]),
        notes,
        page=str(row["page"]),
        picture=f"{name}/overlay.jpg",
    )


def _refuse_single_count(out: Path) -> None:
    """Raises OutputError where the folder is that of one counted slide: its run.json would be lost."""
    found = read_record(out / _RUN)
    if MADE_FROM in found or "identity" in found:
        raise OutputError(
            f"{out}: expected a new folder, or one of several counted slides. Received: that of one counted slide.",
            hint="Choose another folder with --out.",
        )


def told(one: Done) -> str:
    """What the console says of a slide."""
    if not one.ok:
        return f"{one.name}: not counted: {one.reason}"
    first = f"{one.name}: {one.row['headline']}{f' [{one.reason}]' if one.reason else ''}"
    doubts = [_SENTENCES.get(flag, flag) for flag in str(one.row["flags"]).split(";") if flag]
    return "\n".join([first, *(f"  doubtful: {sentence}" for sentence in doubts)])
