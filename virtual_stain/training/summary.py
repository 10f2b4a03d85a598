"""An evaluation in a few lines for the terminal."""

from __future__ import annotations

from virtual_stain.markers import parse_marker
from virtual_stain.training.evaluate import Evaluation


def summary_lines(result: Evaluation) -> list[str]:
    """Per marker: tiles, slides; then where the files are."""
    lines = []
    for marker, figures in result.figures.items():
        tiles = figures["tiles"]
        lines.append(
            f"{parse_marker(marker).label}, {tiles['n_labelled']} held-out tiles of {tiles['n_patients']} patients: "
            f"r within a patient {_fraction(tiles['pearson_within_patient'])} (mean), "
            f"pooled {_fraction(tiles['pearson_pooled'])}, error {_points(tiles['mae'])}"
        )
        for slide in figures["slides"]:
            lines.append(
                f"  {slide['pair']}: read {_percent(slide['read_global_ratio'])} (global ratio), counted "
                f"{_percent(slide['true_ratio'])}; top mean {_percent(slide['read_top_mean'])}, counted "
                f"{_percent(slide['true_top_mean'])}; {slide['n_used']} of {slide['n_tiles']} tiles"
            )
    lines.append(f"Files: {result.folder}/evaluation.json, predictions.csv, scatter.png, bland_altman.png")
    return lines


def _fraction(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} points"
