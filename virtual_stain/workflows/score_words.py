"""What people are told of scored slides: a line and its doubts for each, and the failures at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from virtual_stain.markers import parse_marker
from virtual_stain.report.headline import headline_text

if TYPE_CHECKING:
    from virtual_stain.workflows.score_slides import Scored

_NO_DOUBT = frozenset({"top_mean_biased"})  # holds for every slide


def summary(scored: Scored) -> str:
    """One line for people."""
    name = scored.outcome.name
    if scored.report is None:
        return f"{name}: not scored"
    parts = []
    for marker, reading in scored.report["readings"].items():
        if score := reading.get("her2", {}).get("score"):
            note = reading["her2"]["note"]
            parts.append(f"{parse_marker(marker).label} score {score}" + (f" ({note})" if note else ""))
        parts.append(headline_text(marker, reading))
    note = f" [{scored.outcome.reason}]" if scored.outcome.reason else ""
    return f"{name}: {'; '.join(parts)}{note} → {scored.folder / (name + '.report.html')}"


def told(scored: Scored) -> str:
    """What the console says of a slide: its readings, and what makes them doubtful."""
    return "\n".join([summary(scored), *_indirect(scored), *doubts(scored)])


def _indirect(scored: Scored) -> list[str]:
    """The readings of the indirect path, where it was taken."""
    found = None if scored.report is None else scored.report.get("virtual")
    if not found:
        return []
    counted, expected = (
        "none" if found[name] is None else f"{100 * found[name]:.1f} %" for name in ("counted", "expected")
    )
    return [f"  indirect path: {counted} counted on the drawn picture, {expected} expected, {found['tiles']} tiles"]


def doubts(scored: Scored) -> list[str]:
    """One line for each flag that makes the slide's readings doubtful, with its sentence; [] where none does."""
    if scored.report is None:
        return []
    flags = {flag for reading in scored.report["readings"].values() for flag in reading["flags"]} - _NO_DOUBT
    flags |= set(scored.report.get("virtual", {}).get("flags", ()))
    notes = [note for note in scored.report["warnings"] if note["code"] in flags]
    return [f"  doubtful: {note['code']}: {note['message']}" for note in notes]


def model_doubt(report: Mapping[str, Any]) -> str:
    """What the report says of a model that was little or never evaluated; "" where that is no doubt."""
    evidence = report.get("model_evidence", {})  # none in reports of earlier versions
    return " ".join(evidence["sentences"]) if evidence.get("is_weak") else ""
