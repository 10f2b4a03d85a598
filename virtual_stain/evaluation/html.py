"""`evaluation.html`: one file that opens from disk, with the figures and the pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from virtual_stain.evaluation.bootstrap import MIN_PATIENTS
from virtual_stain.markers import ValueDefinition, parse_marker
from virtual_stain.pages import page_environment
from virtual_stain.value_text import ValueText
from virtual_stain.version import __version__

_CAPTIONS = {
    "scatter.png": "Tiles (dots) and patients (diamonds, with an interval where there is one), read against counted.",
    "bland_altman.png": "Difference against mean; lines: patients.",
    "calibration.png": "What was counted where the model read so much; on the diagonal it is calibrated.",
    "roc.png": "Patients in the higher class at the clinical cut-offs.",
    "top_global.png": "The hot-spot reading grows with the number of tiles and is biased upward by noise.",
    "label_trust.png": "Tile error by counted cells and by estimated registration error.",
}


def evaluation_html(value: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    """The report's text from the value of `evaluation.json` and PNG bytes by name."""
    environment = page_environment("virtual_stain.evaluation")
    shown = ValueText(ValueDefinition(value["value_definition"]))
    environment.filters |= {"value": shown.text, "gap": shown.number, "percent": _percent, "number": _number}
    environment.filters |= {"span": _span, "gap_span": lambda v: "" if v is None else f" ({shown.span(*v)})"}
    pictures = [
        {"caption": text, "url": "data:image/png;base64," + base64.b64encode(plots[name]).decode("ascii")}
        for name, text in _CAPTIONS.items()
    ]
    markers = [{"label": shown.name(parse_marker(m)), "figures": figures} for m, figures in value["markers"].items()]
    return environment.get_template("evaluation.html").render(
        value=value, shown=shown, markers=markers, pictures=pictures, version=__version__, min_patients=MIN_PATIENTS
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _span(interval: list[float] | None) -> str:
    """` (low to high)`, nothing where there is no interval."""
    return "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
