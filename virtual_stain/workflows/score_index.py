"""index.html of scored slides: those of a run and those of earlier runs in the folder, worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from virtual_stain.files import write_text
from virtual_stain.markers import parse_marker
from virtual_stain.provenance import Outcome
from virtual_stain.report.headline import headline_text
from virtual_stain.report.table import SCORES_CSV
from virtual_stain.workflows.many_page import INDEX_NAME, PageRow, many_page
from virtual_stain.workflows.score_slides import Scored
from virtual_stain.workflows.score_words import doubts, model_doubt


def write_index(folder: Path, rows: Sequence[PageRow], earlier: Mapping[str, Mapping[str, Any]]) -> None:
    """index.html of `rows` and of the reports that earlier runs left in the folder: name → value of report.json."""
    everything = [*rows, *(_of_report(stem, report) for stem, report in earlier.items())]
    title = f"Scores of {len(everything)} slide{'s' * (len(everything) != 1)}"
    write_text(folder / INDEX_NAME, many_page(title, everything, SCORES_CSV))


def page_row(scored: Scored) -> PageRow:
    """What the index says of a slide."""
    if scored.report is None:
        old = f"{scored.outcome.name}.report.json"
        stale = (f"{old} is of an earlier run",) if (scored.folder / old).is_file() else ()
        return PageRow(scored.outcome.name, "failed", notes=(scored.outcome.reason, *stale))
    return _of_report(scored.outcome.name, scored.report)


def pending_row(stem: str) -> PageRow:
    """Of a slide that was not begun."""
    return PageRow(stem, "pending", notes=("not begun: the run was stopped",))


def _of_report(stem: str, report: Mapping[str, Any]) -> PageRow:
    parts = []
    for marker, reading in report["readings"].items():
        score = reading.get("her2", {}).get("score")
        parts += [f"{parse_marker(marker).label} score {score}"] if score else []
        parts.append(headline_text(marker, reading))
    one = Scored(Outcome(stem, True), Path(), dict(report))
    notes = tuple(text.strip().removeprefix("doubtful: ") for text in doubts(one))
    page, picture = f"{stem}.report.html", f"{stem}.heatmap.png"
    return PageRow(stem, "doubtful" if notes else "good", "; ".join(parts), notes, page, picture, model_doubt(report))
