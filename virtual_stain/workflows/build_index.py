"""records.csv and index.html of `build-records`: every pair of the table, worst first on the page."""

from __future__ import annotations

import csv
import io
from typing import Any

from virtual_stain.counting.stain import FLAG_SENTENCES
from virtual_stain.files import write_text
from virtual_stain.markers import ValueDefinition
from virtual_stain.pairs import StainPair
from virtual_stain.registration.result import FLAGS
from virtual_stain.tables import BYTE_ORDER_MARK, quote_formula
from virtual_stain.value_text import ValueText
from virtual_stain.workflows.build_run import BuildRun
from virtual_stain.workflows.many_page import INDEX_NAME, PageRow, many_page
from virtual_stain.workflows.pair import WORK
from virtual_stain.workflows.pair_registration import OVERLAY

RECORDS_CSV = "records.csv"
_COLUMNS = (
    *("pair", "status", "reason", "marker", "fold", "verdict", "error_median_um", "error_p95_um"),
    *("tiles", "records", "records_with_value", "positive", "negative", "flags"),
)
_STATES = {"ok": "good", "failed": "failed", "pending": "pending", "review": "doubtful", "left_out": "doubtful"}


def write_index(run: BuildRun, *, excel: bool) -> None:
    """Writes both into the folder of the run. Raises OutputError."""
    write_text(run.out / RECORDS_CSV, (BYTE_ORDER_MARK if excel else "") + _table(run))
    rows = [_page_row(run, pair) for pair in run.pairs]
    title = f"Records of {len(rows)} pair{'s' * (len(rows) != 1)}"
    write_text(run.out / INDEX_NAME, many_page(title, rows, RECORDS_CSV, noun="pair"))


def _status(run: BuildRun, pair: str) -> str:
    """ok, failed, pending (not finished), review (waits for a person) or left_out (a person rejected all of it)."""
    if pair in run.failed:
        return "failed"
    if pair in run.pending:
        return "review"
    if pair in run.entries:
        return "ok"
    return "left_out" if pair in run.left_out else "pending"


def _table(run: BuildRun) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for pair in run.pairs:
        writer.writerow(_row(run, pair))
    return text.getvalue()


def _row(run: BuildRun, pair: StainPair) -> dict[str, Any]:
    row: dict[str, Any] = {
        "pair": quote_formula(pair.pair),
        "status": _status(run, pair.pair),
        "reason": quote_formula(" ".join(run.reason(pair).split())),
        "marker": pair.marker.value,
    }
    prepared, entry = run.prepared.get(pair.pair), run.entries.get(pair.pair)
    if prepared is not None:
        row |= {
            "verdict": prepared.verdict,
            "error_median_um": _number(prepared.error_median_um),
            "error_p95_um": _number(prepared.error_p95_um),
            "tiles": prepared.n_tiles,
            "flags": ";".join((*prepared.registration_flags, *prepared.stain_flags)),
        }
    if entry is not None:
        row |= {
            "fold": entry.fold,
            "records": entry.n_records,
            "records_with_value": entry.n_ratio,
            "positive": entry.positive,
            "negative": entry.negative,
        }
    return row


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _page_row(run: BuildRun, pair: StainPair) -> PageRow:
    name, state = pair.pair, _STATES[_status(run, pair.pair)]
    prepared, entry = run.prepared.get(name), run.entries.get(name)
    notes = [run.reason(pair)] if run.reason(pair) else []
    headline = ""
    if prepared is not None:
        notes += [FLAGS.get(flag, flag) for flag in prepared.registration_flags]
        notes += [FLAG_SENTENCES.get(flag, flag) for flag in prepared.stain_flags]
        if prepared.verdict == "review":
            notes.append("the registration is uncertain")
    if entry is not None:
        shown = ValueText(ValueDefinition(run.config.counting.value_definition))
        headline = f"{shown.name(pair.marker)}: {entry.n_records} records, {entry.n_ratio} of them with a value"
        state = "doubtful" if notes else state
    there = prepared is not None and (run.out / WORK / name / OVERLAY).exists()
    return PageRow(name, state, headline, tuple(notes), picture=f"{WORK}/{name}/{OVERLAY}" if there else None)
