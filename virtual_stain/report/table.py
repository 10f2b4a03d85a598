"""One table over all slides of a run: scores.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from virtual_stain.exporting.card import ModelCard
from virtual_stain.markers import Marker, ValueDefinition, parse_marker
from virtual_stain.provenance import Outcome
from virtual_stain.scoring.inputs import ScoreInput
from virtual_stain.tables import quote_formula
from virtual_stain.value_text import ValueText

SCORES_CSV = "scores.csv"
_VALUES = ("global_ratio", "global_mean", "top_mean", "top_n", "n_tiles", "expected_tumour_cells")
_FIRST = ("slide", "status", "reason")
_TEXTS = ("slide", "reason", "model", "model_version", "report")  # of users: no number begins like a formula
_LAST = ("value_definition", "tissue_mm2", "mpp_x", "mpp_y", "model", "model_version", "model_sha256", "report")


class SlideResult(Protocol):
    """What became of one slide."""

    @property
    def outcome(self) -> Outcome: ...

    @property
    def report(self) -> Mapping[str, Any] | None:
        """The value of its report.json."""


def scores_csv(
    items: Sequence[ScoreInput],
    results: Sequence[SlideResult],
    card: ModelCard,
    earlier: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """A row for every slide of the run, in its order: status ok, failed or pending; empty: no value.

    Values are what `value_definition` of their row says: fractions 0–1, or cells per mm².

    `results`: of the first slides of `items`; the others are pending. Slides are named as their files are; the reasons
    stand in one line each. `earlier`: stem → report.json of other slides in the folder; they follow as status earlier,
    with the model that read them.
    """
    shown = ValueText(card.value_definition)
    markers = {m.value: shown.column(m) for m in card.markers}
    columns = list(_FIRST)
    for marker, prefix in markers.items():
        columns += [f"{prefix}_{name}" for name in (*_VALUES, "interval_low", "interval_high", "flags")]
        columns += [f"{prefix}_score"] if parse_marker(marker).has_intensities else []
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, *_LAST], lineterminator="\n")
    writer.writeheader()
    for index, item in enumerate(items):
        writer.writerow(_quoted(_row(item, results[index] if index < len(results) else None, markers)))
    for stem, report in (earlier or {}).items():
        writer.writerow(_quoted({"slide": stem, "status": "earlier"} | _values(stem, report, markers)))
    return text.getvalue()


def _quoted(row: dict[str, object]) -> dict[str, object]:
    return {k: quote_formula(v) if isinstance(v, str) and k in _TEXTS else v for k, v in row.items()}


def _row(item: ScoreInput, result: SlideResult | None, markers: Mapping[str, str]) -> dict[str, object]:
    row: dict[str, object] = {"slide": item.stem, "status": "pending"}
    if result is None:
        return row
    row |= {"status": "ok" if result.outcome.ok else "failed", "reason": " ".join(result.outcome.reason.split())}
    return row if result.report is None else row | _values(item.stem, result.report, markers)


def _values(stem: str, report: Mapping[str, Any], markers: Mapping[str, str]) -> dict[str, object]:
    row: dict[str, object] = {}
    for marker, prefix in markers.items():
        reading = report["readings"].get(marker, {})
        if reading and ValueText(ValueDefinition(reading["value_definition"])).column(Marker(marker)) != prefix:
            continue  # an earlier model's: another value must not stand in this one's column
        row |= {f"{prefix}_{name}": _plain(reading.get(name)) for name in _VALUES}
        interval = reading.get("interval") or {}
        row |= {f"{prefix}_interval_{side}": _plain(interval.get(side)) for side in ("low", "high")}
        row[f"{prefix}_flags"] = ";".join(reading.get("flags", ()))
        if parse_marker(marker).has_intensities:
            row[f"{prefix}_score"] = _plain(reading.get("her2", {}).get("score"))
    slide, model = report["slide"], report["model"]
    definitions = dict.fromkeys(r["value_definition"] for r in report["readings"].values())
    row["value_definition"] = ";".join(definitions)
    row |= {name: _plain(slide[name]) for name in ("tissue_mm2", "mpp_x", "mpp_y")}
    row |= {"model": model["name"], "model_version": model["version"], "model_sha256": model["sha256"]}
    return row | {"report": f"{stem}.report.json"}


def _plain(value: object) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
