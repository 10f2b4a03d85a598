"""`evaluation.html`: one file that opens from disk, with the figures and the pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from virtual_stain.evaluation.bootstrap import MIN_PATIENTS
from virtual_stain.evaluation.cut_offs import MIN_CLASS_PATIENTS, is_shown
from virtual_stain.markers import Marker, ValueDefinition, parse_marker
from virtual_stain.pages import page_environment
from virtual_stain.value_text import ValueText
from virtual_stain.version import __version__

FEW_PATIENTS = 20
"""Patients below which the page says that they are too few: an interval of a reading needs as many."""
_CAPTIONS = {
    "scatter.png": "Tiles (dots) and patients (diamonds, with an interval where there is one), read against counted.",
    "bland_altman.png": "Difference against mean; lines: patients.",
    "calibration.png": "What was counted where the model read so much; on the diagonal it is calibrated.",
    "roc.png": f"Patients in the higher class, at clinical cut-offs with {MIN_CLASS_PATIENTS} patients on each side.",
    "top_global.png": "The hot-spot reading grows with the number of tiles and is biased upward by noise.",
    "label_trust.png": "Tile error by counted cells and by estimated registration error.",
}


def evaluation_html(value: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    """The report's text from the value of `evaluation.json` and PNG bytes by name."""
    environment = page_environment("virtual_stain.evaluation")
    shown = ValueText(ValueDefinition(value["value_definition"]))
    environment.filters |= {"value": shown.text, "gap": shown.number, "percent": _percent, "number": _number}
    environment.filters |= {"span": _span, "gap_span": lambda v: _apart("" if v is None else f"({shown.span(*v)})")}
    pictures = [
        {"caption": text, "url": "data:image/png;base64," + base64.b64encode(plots[name]).decode("ascii")}
        for name, text in _CAPTIONS.items()
    ]
    markers = [
        {
            "label": shown.name(parse_marker(m)),
            "figures": figures,
            "plain": plain_sentence(parse_marker(m), figures, shown),
            # tiles and slides at a cut-off are shown with its patients: they are no further evidence
            "cut_offs": [row["cut_off"] for row in figures["patient_agreement"]["cut_offs"] if is_shown(row)],
        }
        for m, figures in value["markers"].items()
    ]
    return environment.get_template("evaluation.html").render(
        value=value,
        shown=shown,
        markers=markers,
        pictures=pictures,
        version=__version__,
        min_patients=MIN_PATIENTS,
        min_class_patients=MIN_CLASS_PATIENTS,
    )


def plain_sentence(marker: Marker, figures: Mapping[str, Any], shown: ValueText) -> str:
    """One sentence for a clinician: on how many patients, how far off, and what that may be relied on for."""
    found = figures["patient_agreement"]
    n, label = found["n"], shown.name(marker)
    if not n or found["mae"] is None:
        return f"{label}: no patient of this evaluation has both a count and a reading, so nothing is known."
    off = (
        f"In {n} patients that the model had not seen, its {label} reading was off by {shown.difference(found['mae'])}"
    )
    if n < FEW_PATIENTS:
        return (
            f"{off} on average; {n} {'patient is' if n == 1 else 'patients are'} too few to say how far it is off in "
            "the next one."
        )
    limits = found["limits_of_agreement"]
    if limits is None:
        return f"{off} on average."
    return (
        f"{off} on average; for 95 of 100 patients expect it between {_below(limits[0], shown)} and "
        f"{_below(limits[1], shown)} the count."
    )


def _below(difference: float, shown: ValueText) -> str:
    """`5.0 points below`, `3.1 points above`."""
    return f"{shown.difference(abs(difference))} {'below' if difference < 0 else 'above'}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _span(interval: list[float] | None) -> str:
    """`(low to high)`, nothing where there is no interval."""
    return _apart("" if interval is None else f"({interval[0]:.2f} to {interval[1]:.2f})")


def _apart(text: str) -> str:
    """A line of its own below the figure: beside it the tables are wider than a screen."""
    return Markup('<span class="i">{}</span>').format(text) if text else ""
