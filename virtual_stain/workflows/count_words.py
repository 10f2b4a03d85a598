"""A count in words, the same on the terminal, the picture and the page.

Each marker has its own readings: the labelling index of Ki67, percentage, H-score and Allred of ER and PR, the score of
HER2, the TPS of PD-L1. summary.json keeps all numbers of every marker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from virtual_stain.counting.source_words import source_words
from virtual_stain.markers import Marker
from virtual_stain.readings import wilson

_NAMES = {
    Marker.KI67: "labelling index",
    Marker.ER: "positive tumour cells",
    Marker.PR: "positive tumour cells",
    Marker.HER2: "stained tumour cells (1+ to 3+)",
    Marker.PDL1: "tumour proportion score (TPS)",
}
H_SCORE_MARKERS = (Marker.ER, Marker.PR)
"""Where H-score and Allred are used."""
INTERVAL_NOTE = "95 % interval of the number of cells alone (Wilson): errors of the counting are not in it"


@dataclass(frozen=True, slots=True)
class CountLine:
    """One reading as people see it."""

    name: str
    value: str
    note: str = ""


def count_lines(summary: Mapping[str, Any]) -> list[CountLine]:
    """The readings of a count, most important first. `summary`: of summary.json."""
    marker, tumour, nuclei = Marker(summary["marker"]), summary["tumour"], summary["all_nuclei"]
    lines = []
    if marker is Marker.HER2:
        lines += _her2_lines(summary["her2"])
    name = f"{marker.label} {_NAMES[marker]}"
    if tumour["ratio"] is None:
        lines.append(CountLine(name, "–", "no tumour cells were counted"))
    else:
        low, high = wilson(tumour["positive"], tumour["nuclei"])
        cells = f"{tumour['positive']:,} of {tumour['nuclei']:,} tumour cells"
        interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"
        lines.append(CountLine(name, f"{100 * tumour['ratio']:.1f} %", f"{interval}; {cells}"))
        lines += _doubtful_lines(tumour)
        if marker in H_SCORE_MARKERS:
            lines.append(CountLine("H-score", f"{tumour['h_score']:.0f}", "0 to 300"))
            parts = f"proportion {tumour['allred_proportion']} + intensity {tumour['allred_intensity']}"
            lines.append(CountLine("Allred score", f"{tumour['allred']}", parts))
    if nuclei["ratio"] is not None:
        cells = f"{nuclei['positive']:,} of {nuclei['nuclei']:,} nuclei, tumour or not"
        lines.append(CountLine("All nuclei", f"{100 * nuclei['ratio']:.1f} %", cells))
    return lines


def headline_of(summary: Mapping[str, Any]) -> str:
    """The first readings in one line: `Ki67 labelling index 24.0 % (95 % interval …; 12 of 50 tumour cells)`."""
    lines = count_lines(summary)
    first = [_one_line(lines[0])]
    if Marker(summary["marker"]) is Marker.HER2:
        first += [_one_line(line) for line in lines[1:3]]
    if Marker(summary["marker"]) in H_SCORE_MARKERS:
        first += [f"{line.name} {line.value}" for line in lines if line.name in ("H-score", "Allred score")]
    first += [f"{line.name.lower()} {line.value}" for line in lines if line.name == "All nuclei"]
    return " · ".join(first)


def describe_source(summary: Mapping[str, Any]) -> str:
    """What decided about tumour cells, as a sentence's beginning in capitals."""
    text = source_words(str(summary["tumour_source"]))
    return text[:1].upper() + text[1:]


def _one_line(line: CountLine) -> str:
    return f"{line.name} {line.value}" + (f" ({line.note})" if line.note else "")


def _her2_lines(her2: Mapping[str, Any]) -> list[CountLine]:
    if her2["score"] is None:
        return [CountLine("HER2 score", "–", str(her2["reason"]))]
    shares = " / ".join(f"{100 * share:.1f}" for share in her2["fractions"].values())
    return [
        CountLine("HER2 score", str(her2["score"]), str(her2["note"] or "")),
        CountLine("Tumour cells 0 / 1+ / 2+ / 3+", f"{shares} %"),
    ]


def _doubtful_lines(tumour: Mapping[str, Any]) -> list[CountLine]:
    low, high, number = (tumour.get(k) for k in ("ratio_low", "ratio_high", "doubtful_nuclei"))
    if not number or low is None or high is None:
        return []
    note = f"from none to all of the {number:,} doubtful nuclei taken as positive"
    return [CountLine("Range that doubtful nuclei leave", f"{100 * low:.1f} to {100 * high:.1f} %", note)]
