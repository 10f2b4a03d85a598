"""`vstain register PAIRS.csv`: every pair into a folder of its own, and one page that lists them worst first.

One bad pair never stops the others and never disappears; finished pairs are kept when it runs again.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from virtual_stain.errors import BatchError, PairError, RejectedError, VirtualStainError
from virtual_stain.files import folder_lock, make_folder, write_text
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import Outcome, RunRecord, refuse_foreign_run
from virtual_stain.registration.result import FLAGS, Registration
from virtual_stain.reuse import code_sha256, digest_of
from virtual_stain.slides.collection import name_key
from virtual_stain.slides.slide import SlideRef
from virtual_stain.tables import BYTE_ORDER_MARK, quote_formula
from virtual_stain.version import __version__
from virtual_stain.workflows import register_files as stage
from virtual_stain.workflows.many import Finished, Task, run_many, telling
from virtual_stain.workflows.pair_registration import OVERLAY
from virtual_stain.workflows.pair_sides import SWAPPED
from virtual_stain.workflows.register_files import RegistrationJob, register_files
from virtual_stain.workflows.register_page import PAGE_NAME, environment, verdict_word
from virtual_stain.workflows.scheduling import Workers

INDEX_NAME, TABLE_NAME = "index.html", "summary.csv"
_COLUMNS = (
    *("pair", "verdict", "error_median_um", "error_p95_um", "consensus", "overlap", "flags", "reason"),
    *("error_median_he_px0", "error_p95_he_px0"),
)
_ORDER = ("failed", "pending", "reject", "none", "review", "accept")  # worst first
_LISTED = 20
_IN_FLIGHT = 2
_STORED = (
    *("pair", "verdict", "reason", "error_median_um", "error_p95_um", "consensus_fraction", "overlap_fraction"),
    *("flags", "error_median_px0", "error_p95_px0"),
)


@dataclass(frozen=True, slots=True)
class CohortRow:
    """What became of one pair."""

    pair: str
    verdict: str
    """accept, review, reject, "none" without pixel sizes, "failed", or "pending": not begun."""
    reason: str
    error_median_um: float | None = None
    error_p95_um: float | None = None
    consensus_fraction: float | None = None
    overlap_fraction: float | None = None
    flags: tuple[str, ...] = ()
    error_median_px0: float | None = None
    """In H&E level-0 px: all that is known without pixel sizes."""
    error_p95_px0: float | None = None
    error: VirtualStainError | None = None

    @property
    def bad(self) -> bool:
        """Whether a batch that holds it did not fully succeed."""
        return self.verdict in ("failed", "pending", "reject")


def register_one(job: RegistrationJob) -> Finished:
    """Registers in a worker."""
    registration = register_files(job)
    row = _row(job.out.name, registration)
    swapped = any(warning.endswith(SWAPPED) for warning in registration.he.warnings)
    files = tuple(p for p in sorted(job.out.iterdir()) if p.is_file() and not p.name.startswith("."))
    # a pair that looks swapped is warned of every time
    return Finished({n: getattr(row, n) for n in _STORED}, files, ok=not row.bad, is_noted=not swapped)


def register_cohort(
    jobs: Sequence[RegistrationJob],
    out: Path,
    executor: Executor | Workers,
    *,
    excel: bool = False,
    fail_fast: bool = False,
    progress: Progress = QUIET,
) -> list[CohortRow]:
    """Registers every job (each into a folder of its own below `out`), writes index.html, summary.csv and run.json.

    `excel`: the table begins with a byte order mark. `fail_fast`: begins nothing more after the first pair that fails
    or is rejected.

    Returns the rows, worst first. Raises OutputError, and PairError where two jobs share a folder.
    """
    record = RunRecord("register")
    done: list[CohortRow] = []
    rows: list[CohortRow] = []
    with folder_lock(out):
        refuse_foreign_run(out, "register")

        def tell() -> None:
            names = {row.pair for row in done}
            rest = [CohortRow(j.out.name, "pending", "not begun") for j in jobs if j.out.name not in names]
            rows.extend(sorted([*done, *rest], key=_worst_first))
            write_text(out / TABLE_NAME, _marked(table_text(rows), excel))
            write_text(out / INDEX_NAME, _page(out, rows))
            record.outcomes = [Outcome(r.pair, not r.bad, r.reason) for r in rows]
            record.counts = dict(Counter(r.verdict for r in rows))
            record.write(out)

        with telling(tell):
            done.extend(_register_all(jobs, out, executor, progress, fail_fast=fail_fast))
    return rows


def register_share(
    jobs: Sequence[RegistrationJob],
    out: Path,
    executor: Executor | Workers,
    table: str,
    *,
    excel: bool = False,
    progress: Progress = QUIET,
) -> list[CohortRow]:
    """The same for one share of a cohort, beside which others run: writes the table `table` alone, and locks no more
    than the folder of each pair."""
    make_folder(out)
    rows = sorted(_register_all(jobs, out, executor, progress, journal_name=f".done-{table}.jsonl"), key=_worst_first)
    write_text(out / table, _marked(table_text(rows), excel))
    return rows


def _marked(text: str, excel: bool) -> str:
    return BYTE_ORDER_MARK + text if excel else text


def _register_all(
    jobs: Sequence[RegistrationJob], out: Path, executor: Executor | Workers, progress: Progress, **how: Any
) -> Iterator[CohortRow]:
    twice = [name for name, n in Counter(name_key(job.out.name) for job in jobs).items() if n > 1]
    if twice:
        raise PairError(f"expected a name of its own for each pair. Received twice: {', '.join(sorted(twice))}")
    workers = executor if isinstance(executor, Workers) else Workers(executor, _IN_FLIGHT)
    code = code_sha256(stage.__name__)
    tasks = [_task(job, code) for job in jobs]
    force = any(job.force for job in jobs)
    for one in run_many(
        tasks, register_one, workers, out, force=force, progress=progress, label="register", unit="pair", **how
    ):
        if one.ok:
            yield CohortRow(**{**one.row, "flags": tuple(one.row["flags"])})
        else:
            yield CohortRow(one.name, one.status.value, one.reason, error=one.error)


def _task(job: RegistrationJob, code: str) -> Task[RegistrationJob]:
    request = digest_of(
        {
            "code": code,
            "config": job.config.to_dict(),
            "slides": [[str(ref.path.absolute()), ref.mpp_override] for ref in (job.he, job.ihc)],
            "landmarks": None
            if job.landmarks is None
            else [job.landmarks.he_px0.tolist(), job.landmarks.ihc_px0.tolist()],
            "aligned_mpp": job.aligned_mpp,
            "section": job.section,
        }
    )
    absolute = replace(job, he=_absolute(job.he), ihc=_absolute(job.ihc), out=job.out.absolute())
    return Task(job.out.name, absolute, (job.he.path, job.ihc.path), request)


def _absolute(ref: SlideRef) -> SlideRef:
    return replace(ref, path=ref.path.absolute())


def table_text(rows: Sequence[CohortRow]) -> str:
    """summary.csv."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for r in rows:
        numbers = (r.error_median_um, r.error_p95_um, r.consensus_fraction, r.overlap_fraction)
        pixels = (r.error_median_px0, r.error_p95_px0)
        told, told_px0 = (["" if v is None else f"{v:.2f}" for v in some] for some in (numbers, pixels))
        pair, reason = quote_formula(r.pair), quote_formula(r.reason)
        writer.writerow([pair, r.verdict, *told, " ".join(r.flags), reason, *told_px0])
    return stream.getvalue()


def error_of(rows: Sequence[CohortRow], out: Path) -> VirtualStainError | None:
    """The error that the command ends with; None when every pair can be used."""
    bad = [r for r in rows if r.bad]
    if not bad:
        return None
    lines = [f"  - {r.pair}: {r.reason}" for r in bad[:_LISTED]]
    if len(bad) > _LISTED:
        lines.append(f"  … and {len(bad) - _LISTED} more")
    text = f"{len(bad)} of {len(rows)} pairs cannot be used:\n" + "\n".join(lines)
    hint = f"{out / INDEX_NAME} shows them, worst first; --landmarks FILE gives a pair a start by hand."
    if len(bad) < len(rows):
        return BatchError(text, hint=hint)
    first = bad[0].error
    return RejectedError(text, hint=hint) if first is None else type(first)(text, hint=first.hint)


def _row(pair: str, r: Registration) -> CohortRow:
    return CohortRow(
        pair=pair,
        verdict=verdict_word(r),
        reason=r.reason(),
        error_median_um=r.error_median_um,
        error_p95_um=r.error_p95_um,
        error_median_px0=r.error_median_px0,
        error_p95_px0=r.error_p95_px0,
        consensus_fraction=r.consensus_fraction,
        overlap_fraction=r.overlap_fraction,
        flags=r.flags,
    )


def _worst_first(row: CohortRow) -> tuple[int, float, str]:
    # rows without a verdict have no µm, all others do where anything is known: units never meet
    known = row.error_median_um if row.error_median_um is not None else row.error_median_px0
    return _ORDER.index(row.verdict), -(math.inf if known is None else known), row.pair


def _page(out: Path, rows: Sequence[CohortRow]) -> str:
    counted = Counter(r.verdict for r in rows)
    return (
        environment()
        .get_template("registrations.html")
        .render(
            rows=[_shown(out, r) for r in rows],
            counts=[(word, counted[word]) for word in _ORDER if counted[word]],
            version=__version__,
        )
    )


def _shown(out: Path, row: CohortRow) -> dict[str, Any]:
    def link(name: str) -> str | None:
        # what an earlier run left does not belong to a pair that failed now
        there = row.verdict != "failed" and (out / row.pair / name).exists()
        return f"{quote(row.pair)}/{name}" if there else None

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    def error(um: float | None, px0: float | None) -> str:
        return f"{px0:.2f} px" if um is None and px0 is not None else number(um)

    return {
        "pair": row.pair,
        "verdict": row.verdict,
        "reason": row.reason,
        "flags": [FLAGS.get(flag, flag) for flag in row.flags],
        "median": error(row.error_median_um, row.error_median_px0),
        "p95": error(row.error_p95_um, row.error_p95_px0),
        "consensus": number(row.consensus_fraction),
        "overlap": number(row.overlap_fraction),
        "page": link(PAGE_NAME),
        "overlay": link(OVERLAY),
    }
