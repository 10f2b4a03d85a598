"""An evaluation in a few lines for the terminal."""

from __future__ import annotations

from typing import Any

from virtual_stain.evaluation.evaluate import Evaluation
from virtual_stain.markers import parse_marker
from virtual_stain.value_text import ValueText


def summary_lines(result: Evaluation) -> list[str]:
    """Per marker: tiles, slides; then where the files are."""
    lines = []
    shown = ValueText(result.definition)
    for marker, figures in result.figures.items():
        tiles = figures["tiles"]
        lines.append(
            f"{shown.name(parse_marker(marker))}, {tiles['n_labelled']} held-out tiles "
            f"of {tiles['n_patients']} patients: "
            f"r within a patient {_fraction(tiles['pearson_within_patient'])} (mean), "
            f"pooled {_fraction(tiles['pearson_pooled'])}, error {shown.difference(tiles['mae'])}"
        )
        for name, level in (("patients", "patient_agreement"), ("slides", "slide_agreement")):
            lines.append(_agreement(name, figures[level], shown))
        for slide in figures["slides"]:
            lines.append(
                f"  {slide['pair']}: read {shown.text(slide['read_global_ratio'])} (global), counted "
                f"{shown.text(slide['true_ratio'])}; top mean {shown.text(slide['read_top_mean'])}, counted "
                f"{shown.text(slide['true_top_mean'])}; {slide['n_used']} of {slide['n_tiles']} tiles"
            )
        if "classes" in figures:
            met = figures["classes"]["score_agreement"]
            lines.append(f"  score 0 to 3+: read as counted on {met['equal']} of {met['n']} slides")
        interval = figures["interval"]
        if interval["available"]:
            lines.append(f"  interval of a slide reading: from {interval['n_patients']} patients, kept for the bundle")
        else:
            lines.append(f"  no interval of a slide reading: {interval['reason']}")
    lines.append(f"Files: {result.folder}/evaluation.html, evaluation.json, predictions.csv and pictures")
    return lines


def _agreement(name: str, figures: dict[str, Any], shown: ValueText) -> str:
    return (
        f"  {figures['n']} {name}: r {_fraction(figures['pearson'])}, ICC(2,1) {_fraction(figures['icc_2_1'])}, "
        f"error {shown.difference(figures['mae'])}, bias {shown.difference(figures['bias'])}"
    )


def _fraction(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
