"""count.html: a counted slide on one page that opens from disk, with its pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from virtual_stain.markers import Marker
from virtual_stain.pages import page_environment
from virtual_stain.version import __version__
from virtual_stain.workflows.count_words import INTERVAL_NOTE, count_lines, describe_source

PAGE_NAME = "count.html"
RESEARCH_USE = "Research use only. Not a medical device."
_TEXTS = {
    "detector": "Nuclei found by",
    "searched": "Searched",
    "windows": "Windows read",
    "area_of": "Counts per mm² are of",
    "area_mm2": "Its area, mm²",
    "value_definition": "Value for training",
    "other_objects": "Other objects",
}


def count_page(
    summary: Mapping[str, Any], *, overlay: bytes, full: bytes, stain: bytes, date: str, settings: Mapping[str, Any]
) -> str:
    """The page's text.

    `summary`: of summary.json; `overlay`, `full`: JPEG bytes of overlay.jpg and overlay_full.jpg; `stain`: PNG bytes of
    stain.png; `date`: of the slide's file, ISO 8601; `settings`: of [counting].
    """
    marker = Marker(summary["marker"])
    return (
        page_environment("virtual_stain.workflows")
        .get_template("count.html")
        .render(
            notice=RESEARCH_USE,
            slide=summary["slide"],
            marker=marker,
            lines=count_lines(summary),
            interval_note=INTERVAL_NOTE,
            source=describe_source(summary),
            warnings=summary["warnings"],
            fields=_fields(summary),
            table=_table(summary),
            overlay=_data_url(overlay, "jpeg"),
            full=_data_url(full, "jpeg"),
            stain=_data_url(stain, "png"),
            settings=dict(settings),
            date=date,
            version=__version__,
        )
    )


def _fields(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was counted and how: (name, value)."""
    slide, trust = summary["slide"], summary["trust"]
    rows = [
        ("Slide", f"{slide['name']} ({slide['format']})"),
        ("Pixel size", f"{slide['mpp'][0]:g} × {slide['mpp'][1]:g} µm ({slide['mpp_origin']})"),
    ]
    rows += [(text, _plain(summary[key])) for key, text in _TEXTS.items()]
    if "intensity_cutoffs_dab_od" in summary:
        rows.append(("Cut-offs of 1+, 2+, 3+ (DAB optical density)", _plain(summary["intensity_cutoffs_dab_od"])))
    names = {
        "focus": "Sharpness (focus ratio)",
        "blurred_fraction": "Share of windows out of focus",
        "saturated_fraction": "Share of nuclei black to the camera",
        "unexplained_fraction": "Share of colour that is neither stain",
    }
    return rows + [(text, _plain(trust[key])) for key, text in names.items()]


def _table(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Cells by class: (name, of tumour cells, of all nuclei)."""
    tumour, nuclei = summary["tumour"], summary["all_nuclei"]
    names = {"positive": "positive", "negative": "negative", "nuclei": "together"}
    names |= {"class_1": "1+", "class_2": "2+", "class_3": "3+"}
    return [(text, f"{tumour[key]:,}", f"{nuclei[key]:,}") for key, text in names.items()]


def _plain(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(v) for v in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("_", " ")


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
