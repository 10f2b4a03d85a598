"""`vstain panel`: several markers of one lesion → panel.json, panel.html, run.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.errors import OutputError
from virtual_stain.files import folder_lock, write_json, write_text
from virtual_stain.provenance import RunRecord, refuse_foreign_run
from virtual_stain.report.panel.evidence import Panel, collect
from virtual_stain.report.panel.page import INDETERMINATE, panel_html, panel_json
from virtual_stain.report.panel.rules import Finding, apply_rules, load_rule_sets


@dataclass(frozen=True, slots=True)
class PanelRequest:
    """What goes on the page."""

    files: tuple[Path, ...]
    """Reports of `vstain score`, summaries of `vstain count`."""
    given: tuple[str, ...]
    """MARKER=VALUE."""
    out: Path
    reading: str = "global_ratio"
    title: str = ""
    force: bool = False


def make_panel(request: PanelRequest) -> tuple[Panel, tuple[Finding, ...]]:
    """Writes the panel. Raises InputError, ConfigError (see `collect`), OutputError (another panel lies there)."""
    panel = collect(request.files, request.given, reading=request.reading)
    findings = tuple(f for rules in load_rule_sets() if (f := apply_rules(rules, panel)) is not None)
    value = panel_json(panel, findings, request.reading)
    title = request.title or ", ".join(dict.fromkeys(e.slide for e in panel.evidence if e.slide)) or "Panel"
    out = request.out
    with folder_lock(out):
        refuse_foreign_run(out, "panel")
        record = RunRecord("panel", extra={"reading": request.reading})
        record.inputs = {e.source: e.source_sha256 for e in panel.evidence if e.source_sha256}
        if (out / "panel.json").exists() and not request.force:
            raise OutputError(
                f"{out / 'panel.json'}: a panel lies here already.",
                hint="Replace it with --force, or choose another --out.",
            )
        write_text(out / "panel.html", panel_html(panel, findings, title))
        record.write(out)
        write_json(out / "panel.json", value)  # last: it vouches for the rest
    return panel, findings


def panel_lines(panel: Panel, findings: Sequence[Finding]) -> list[str]:
    """What the command prints."""
    lines = []
    for e in panel.evidence:
        shown = (
            f"{e.value * 100:.1f} %" if e.value is not None else e.score or (f"ISH {e.ish}" if e.ish else "no reading")
        )
        interval = "" if e.interval is None else f" ({e.interval[0] * 100:.1f}–{e.interval[1] * 100:.1f} %)"
        lines.append(f"{e.marker.label:6} {shown}{interval}, {e.origin}")
    for f in findings:
        outcome = f.outcome or f"{INDETERMINATE}: {', or '.join(f.possible)}"
        lines.append(f"{f.rules.title}: {outcome}")
        lines += [f"  {reason}" for reason in f.reasons]
    return lines
