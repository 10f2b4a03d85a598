"""A panel as panel.json for programs and panel.html for people; the page opens from disk."""

from __future__ import annotations

from typing import Any

from virtual_stain.pages import page_environment
from virtual_stain.report.notes import RESEARCH_USE
from virtual_stain.report.panel.evidence import Evidence, Panel
from virtual_stain.report.panel.rules import Finding
from virtual_stain.version import __version__

SCHEMA_VERSION = 1
INDETERMINATE = "indeterminate"


def panel_json(panel: Panel, findings: tuple[Finding, ...], reading: str) -> dict[str, Any]:
    """The value of panel.json: fractions 0–1; what is not known is null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "notice": RESEARCH_USE,
        "reading": reading,
        "evidence": {e.marker.value: _evidence_json(e) for e in panel.evidence},
        "findings": {f.rules.id: _finding_json(f) for f in findings},
        "warnings": list(panel.warnings),
        "software": {"virtual-stain": __version__},
    }


def panel_html(panel: Panel, findings: tuple[Finding, ...], title: str) -> str:
    """One page with everything inside: readings on their scales with the cut-offs, then the classes with citations."""
    environment = page_environment("virtual_stain.report.panel")
    environment.filters["percent"] = lambda v: f"{v * 100:.1f} %"
    rules = [f.rules for f in findings]
    return environment.get_template("panel.html").render(
        title=title,
        notice=RESEARCH_USE,
        evidence=[{"e": e, "cutoffs": sorted({c for r in rules for c in r.cutoffs(e.marker)})} for e in panel.evidence],
        findings=findings,
        indeterminate=INDETERMINATE,
        warnings=panel.warnings,
        version=__version__,
    )


def _evidence_json(e: Evidence) -> dict[str, Any]:
    return {
        "origin": e.origin,
        "value": e.value,
        "interval": None if e.interval is None else {"low": e.interval[0], "high": e.interval[1]},
        "interval_note": e.interval_note,
        "score": e.score,
        "ish": e.ish,
        "slide": e.slide,
        "slide_sha256": e.slide_sha256 or None,
        "source": e.source,
        "source_sha256": e.source_sha256 or None,
        "flags": list(e.flags),
    }


def _finding_json(f: Finding) -> dict[str, Any]:
    return {
        "version": f.rules.version,
        "title": f.rules.title,
        "citation": f.rules.citation,
        "source_read": f.rules.read,
        "class": f.outcome or INDETERMINATE,
        "possible": list(f.possible),
        "reasons": list(f.reasons),
    }
