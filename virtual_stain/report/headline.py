"""The readings of a slide in the order in which every output shows them: terminal, picture, page and report.

First the global ratio with its interval, then the mean of the top tiles with its bias, then the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virtual_stain.markers import ValueDefinition, parse_marker
from virtual_stain.value_text import ValueText

TOP_BIAS = "a hot-spot reading, biased upward"
NO_INTERVAL = "there is no interval"
"""How the warning begins, after the marker's name."""
NO_TILE = "no tile carries a reading"
_WORDS = {
    "pixel_size": "pixel size contradicted",
    "not_he": "not an H&E slide",
    "perhaps_not_he": "perhaps not an H&E slide",
    "slide_seen_in_training": "the model was trained on this slide",
    "low_tissue": "little tissue",
    "tissue_mask": "tissue mask doubtful",
    "coarse_pixels": "pixels coarser than the model's",
    "overlapping_windows": "windows overlap",
    "failed_tiles": "tiles could not be read",
    "top_mean_biased": "top mean biased upward",
    "no_valid_tiles": NO_TILE,
    "no_expected_cells": "no tumour cells expected",
    "stain_outside_training": "stain unlike the training slides",
    "focus_outside_training": "sharpness unlike the training slides",
    "model_evidence_weak": "model little or never evaluated",
    "tissue_outside_training": "tissue unlike the training slides",
}
_FEWER = re.compile(r"fewer_than_(\d+)_(\w+)")


@dataclass(frozen=True, slots=True)
class Line:
    """One reading as people see it."""

    name: str
    value: str
    """With its unit; a dash where there is none."""
    note: str = ""
    """Interval, bias, or why there is no value."""


def headline(marker: str, reading: Mapping[str, Any], no_interval: str = "") -> list[Line]:
    """The readings of one marker, most important first.

    `reading`: as in report.json; `no_interval`: why there is none, where that is known.
    """
    shown = ValueText(ValueDefinition(reading["value_definition"]))
    is_ratio = shown.definition.is_ratio
    ratio = "global ratio, weighted by expected cells" if is_ratio else "cells per mm² of tissue"
    lines = _her2_lines(reading)
    lines.append(Line(_capital(ratio), shown.text(reading["global_ratio"]), _interval(reading, shown, no_interval)))
    top_n, n_tiles = reading["top_n"], reading["n_tiles"]
    if n_tiles > top_n:
        name, note = f"Mean of the top {top_n} tiles", f"{TOP_BIAS}; it grows with the number of tiles"
    else:
        name = f"Mean of the top {n_tiles} tiles" if n_tiles else "Mean of the top tiles"
        note = "of all tiles: there are too few for a hot-spot reading" if n_tiles else NO_TILE
    lines.append(Line(name, shown.text(reading["top_mean"]), note))
    if (calibrated := (reading.get("interval") or {}).get("calibrated")) is not None:
        lines.append(Line("Calibrated global ratio", shown.text(calibrated)))
    lines.append(Line("Global mean", shown.text(reading["global_mean"]), f"unweighted, {n_tiles} tiles"))
    if quantiles := reading["quantiles"]:
        between = f"{shown.span(quantiles['p05'], quantiles['p95'])} {shown.unit}"
        lines.append(Line("Median tile", shown.text(quantiles["p50"]), f"nine of ten tiles: {between}"))
    cells = reading["expected_tumour_cells"]
    lines.append(Line("Expected tumour cells", "–" if cells is None else f"{cells:,.0f}"))
    return lines


def headline_text(marker: str, reading: Mapping[str, Any]) -> str:
    """The first readings in one line, for the terminal and above the picture.

    `Ki67 global ratio 28.7 % (90 % interval 20.1 to 38.2 %), top 30 tiles 41.0 % (a hot-spot reading, biased upward)`.
    """
    text = lead_text(marker, reading)
    if reading["n_tiles"] > reading["top_n"]:
        shown = ValueText(ValueDefinition(reading["value_definition"]))
        text += f", top {reading['top_n']} tiles {shown.text(reading['top_mean'])} ({TOP_BIAS})"
    return text


def lead_text(marker: str, reading: Mapping[str, Any]) -> str:
    """The global ratio with its interval: `Ki67 global ratio 28.7 % (90 % interval 20.1 to 38.2 %)`."""
    shown = ValueText(ValueDefinition(reading["value_definition"]))
    label = shown.name(parse_marker(marker))
    if reading["global_mean"] is None:
        return f"{label}: {NO_TILE}"
    whole = "global ratio" if shown.definition.is_ratio else "over all tissue"
    interval = reading.get("interval")
    between = "no interval"
    if interval is not None:
        span = f"{shown.span(interval['low'], interval['high'])} {shown.unit}"
        between = f"{100 * interval['level']:.0f} % interval {span}"
    return f"{label} {whole} {shown.text(reading['global_ratio'])} ({between})"


def no_interval_reason(report: Mapping[str, Any], marker: str) -> str:
    """Why a marker's reading has no interval, from the warnings of its report.json; empty where nothing says so."""
    shown = ValueText(ValueDefinition(report["readings"][marker]["value_definition"]))
    begin = f"{shown.name(parse_marker(marker))}: {NO_INTERVAL}: "
    for warning in report["warnings"]:
        if warning["code"] == "no_interval" and warning["message"].startswith(begin):
            return str(warning["message"].removeprefix(begin).rstrip("."))
    return ""


def flag_words(flags: Sequence[str]) -> list[str]:
    """Flags of a reading in short words, for places without room for the report's sentences."""
    return [_flag_word(flag) for flag in flags]


def _flag_word(flag: str) -> str:
    if found := _FEWER.fullmatch(flag):
        return f"fewer than {int(found[1]):,} {found[2].replace('_', ' ')}"
    return _WORDS.get(flag, flag.replace("_", " "))


def _interval(reading: Mapping[str, Any], shown: ValueText, why_none: str) -> str:
    interval = reading.get("interval")
    if interval is not None:
        span = f"{shown.span(interval['low'], interval['high'])} {shown.unit}"
        return f"{100 * interval['level']:.0f} % interval of the global ratio for a new patient: {span}"
    return f"no interval: {why_none}" if why_none else "no interval: the warnings say why"


def _her2_lines(reading: Mapping[str, Any]) -> list[Line]:
    her2 = reading.get("her2")
    if not her2:
        return []
    score = her2.get("score")
    note = (her2.get("reason") if score is None else her2.get("note")) or ""
    lines = [Line("HER2 score", score or "–", note)]
    if fractions := her2.get("fractions"):
        shares = " / ".join(f"{100 * f:.1f}" for f in fractions.values())
        lines.append(Line("Tumour cells 0 / 1+ / 2+ / 3+", f"{shares} %"))
    return lines


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
