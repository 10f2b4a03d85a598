"""scores.csv over all slides of a folder, those of earlier runs included."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtual_stain.errors import InputError
from virtual_stain.exporting.card import ModelCard
from virtual_stain.files import read_json, write_text
from virtual_stain.report.table import SCORES_CSV, scores_csv
from virtual_stain.scoring.inputs import ScoreInput
from virtual_stain.tables import BYTE_ORDER_MARK

if TYPE_CHECKING:
    from virtual_stain.workflows.score_slides import Scored


def write_table(
    folder: Path,
    items: Sequence[ScoreInput],
    results: Sequence[Scored],
    card: ModelCard,
    earlier: dict[str, dict[str, Any]],
    *,
    excel: bool,
) -> None:
    """Writes scores.csv; `results`: of the first of `items`."""
    mark = BYTE_ORDER_MARK if excel else ""
    write_text(folder / SCORES_CSV, mark + scores_csv(items, results, card, earlier))


def earlier_reports(folder: Path, stems: set[str]) -> dict[str, dict[str, Any]]:
    """Reports of earlier runs in the folder: the table tells of every slide there, not of the last run alone."""
    found = {}
    for path in sorted(folder.glob("*.report.json")):
        stem = path.name.removesuffix(".report.json")
        if stem not in stems:
            with contextlib.suppress(InputError):
                found[stem] = read_json(path, "a report")
    return found
