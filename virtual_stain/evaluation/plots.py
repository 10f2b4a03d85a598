"""Pictures of an evaluation: per cent or cells per mm², one colour a patient; PNG bytes, for files and the report."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from virtual_stain.evaluation.cut_offs import MIN_CLASS_PATIENTS, cut_offs_of, is_shown
from virtual_stain.evaluation.predict import TileTable
from virtual_stain.evaluation.statistics import roc_points
from virtual_stain.intervals import slide_interval
from virtual_stain.markers import Marker, ValueDefinition, parse_marker
from virtual_stain.training.metrics import Values
from virtual_stain.value_text import ValueText

PICTURES = ("scatter.png", "bland_altman.png", "calibration.png", "roc.png")
"""Written beside evaluation.json; the report shows "top_global.png" and "label_trust.png" too."""
_MANY_PATIENTS = 10  # more colours than this nobody tells apart
_GREY = "0.55"
_LEAST_RANGE = 5.0  # of the axes, per cent or cells per mm²


def draw_plots(tiles: TileTable, figures: dict[str, Any], definition: ValueDefinition) -> dict[str, bytes]:
    """File name → PNG bytes, a panel a marker."""
    known, shown = tiles.select(tiles.labelled), ValueText(definition)
    return {
        "scatter.png": _panels(known, figures, shown, _scatter),
        "bland_altman.png": _panels(known, figures, shown, _bland_altman),
        "calibration.png": _panels(known, figures, shown, _calibration),
        "roc.png": _panels(known, figures, shown, _roc),
        "top_global.png": _panels(known, figures, shown, _top_and_global),
        "label_trust.png": _panels(known, figures, shown, _label_trust),
    }


def _panels(known: TileTable, figures: dict[str, Any], shown: ValueText, draw: Any) -> bytes:
    figure = Figure(figsize=(5.6 * len(figures), 5.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, marker in zip(figure.subplots(1, len(figures), squeeze=False)[0], figures, strict=True):
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(shown.name(parse_marker(marker)), loc="left", fontsize=11)
        draw(axis, known.select(known.marker == marker), figures[marker], parse_marker(marker), shown)
        if axis.get_legend_handles_labels()[0]:  # below: inside there is no corner that is free every time
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=8, frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def _scatter(axis: Axes, part: TileTable, figures: dict[str, Any], marker: Marker, shown: ValueText) -> None:
    f = shown.factor
    patients = sorted(set(part.patient.tolist()))
    for index, patient in enumerate(patients):
        chosen = part.patient == patient
        few = len(patients) <= _MANY_PATIENTS
        label = f"patient {patient[:8]}…, {int(chosen.sum())} tiles" if few else None
        axis.scatter(
            f * part.truth[chosen], f * part.value[chosen],
            s=14, alpha=0.6, color=colormaps["tab10"](index % 10), lw=0, label=label,
        )  # fmt: skip
    points = _known(figures["patients"])
    for row in points:
        found = slide_interval(figures["interval"], row["read_global_ratio"])
        if found.low is not None and found.high is not None:
            low, high = f * found.low, f * found.high
            axis.plot([f * row["true_ratio"]] * 2, [low, high], color="0.2", lw=1, alpha=0.6)
    axis.scatter(
        [f * p["true_ratio"] for p in points], [f * p["read_global_ratio"] for p in points],
        s=55, marker="D", facecolor="white", edgecolor="black", lw=1.3, label="patients", zorder=3,
    )  # fmt: skip
    _square(axis, np.concatenate([part.truth, part.value]), shown)
    axis.set_xlabel(f"counted on IHC, {shown.unit}")
    axis.set_ylabel(f"read from H&E, {shown.unit}")


def _bland_altman(axis: Axes, part: TileTable, figures: dict[str, Any], marker: Marker, shown: ValueText) -> None:
    f = shown.factor
    axis.scatter(
        f / 2 * (part.truth + part.value), f * (part.value - part.truth), s=10, alpha=0.35, lw=0, color="tab:blue",
        label="tiles",
    )  # fmt: skip
    points = _known(figures["patients"])
    axis.scatter(
        [f / 2 * (p["true_ratio"] + p["read_global_ratio"]) for p in points], [f * p["error"] for p in points],
        s=55, marker="D", facecolor="white", edgecolor="black", lw=1.3, label="patients", zorder=3,
    )  # fmt: skip
    found = figures["patient_agreement"]
    if found["limits_of_agreement"] is not None:
        names = ("patients: mean", "patients: mean ± 1.96 sd", None)
        for value, style, name in zip(
            (found["bias"], *found["limits_of_agreement"]), ("-", "--", "--"), names, strict=True
        ):
            axis.axhline(f * value, color="0.3", ls=style, lw=1, label=name)
            axis.annotate(f"{f * value:+,.{shown.decimals}f}", (1, f * value), xycoords=("axes fraction", "data"),
                          xytext=(-4, 3), textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    axis.set_xlabel(f"mean of counted and read, {shown.unit}")
    axis.set_ylabel(f"read − counted, {shown.difference_unit}")


def _calibration(axis: Axes, part: TileTable, figures: dict[str, Any], marker: Marker, shown: ValueText) -> None:
    f = shown.factor
    bins = figures["tiles"]["calibration"]["bins"]
    axis.plot([f * b["read_mean"] for b in bins], [f * b["true_mean"] for b in bins], "o-", ms=5, label="tiles, bins")
    points = _known(figures["patients"])
    axis.scatter(
        [f * p["read_global_ratio"] for p in points], [f * p["true_ratio"] for p in points],
        s=40, marker="D", facecolor="white", edgecolor="black", lw=1.1, label="patients", zorder=3,
    )  # fmt: skip
    line = figures["patient_agreement"]["calibration"]
    if line["slope"] is not None:
        ends = np.array([choose(p["read_global_ratio"] for p in points) for choose in (min, max)])
        label = f"patients: counted = {f * line['intercept']:,.{shown.decimals}f} + {line['slope']:.2f} · read"
        axis.plot(f * ends, f * (line["intercept"] + line["slope"] * ends), color="0.3", lw=1, label=label)
    values = [b[k] for b in bins for k in ("read_mean", "true_mean")]
    _square(axis, np.array(values + [p[k] for p in points for k in ("true_ratio", "read_global_ratio")]), shown)
    axis.set_xlabel(f"read, {shown.unit}")
    axis.set_ylabel(f"counted, {shown.unit}")


def _roc(axis: Axes, part: TileTable, figures: dict[str, Any], marker: Marker, shown: ValueText) -> None:
    points = _known(figures["patients"])
    truth = np.array([p["true_ratio"] for p in points])
    read = np.array([p["read_global_ratio"] for p in points])
    rows = {row["cut_off"]: row for row in figures["patient_agreement"]["cut_offs"]}
    drawn = 0
    for cut in cut_offs_of(marker, shown.definition):
        row = rows[cut.fraction]
        if row["auc"] is None or not is_shown(row):
            continue
        interval = row["auc_interval"]
        between = "" if interval is None else f" ({interval[0]:.2f}–{interval[1]:.2f})"
        x, y = roc_points(cut.higher(truth), read)
        axis.plot(x, y, lw=1.6, label=f"{cut.label}: AUC {row['auc']:.2f}{between}")
        drawn += 1
    if not drawn:
        usual = shown.definition is ValueDefinition.POSITIVE_RATIO
        few = f"no cut-off has {MIN_CLASS_PATIENTS} held-out\npatients on both sides"
        text = few if usual else "no clinical cut-offs\nfor this value"
        axis.text(0.5, 0.5, text, ha="center", va="center", color=_GREY)
    axis.plot([0, 1], [0, 1], color="0.8", lw=0.8, zorder=0)
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axis.set_xlabel("1 − specificity (patients)")
    axis.set_ylabel("sensitivity")


def _top_and_global(axis: Axes, part: TileTable, figures: dict[str, Any], marker: Marker, shown: ValueText) -> None:
    f = shown.factor
    slides = [s for s in figures["slides"] if s["true_ratio"] is not None and s["read_top_mean"] is not None]
    truth = [f * s["true_ratio"] for s in slides]
    for key, mark, name in (
        ("read_global_ratio", "D", "global reading"),
        ("read_top_mean", "^", "mean of the top tiles"),
    ):
        axis.scatter(truth, [f * s[key] for s in slides], marker=mark, s=40, alpha=0.8, label=f"{name}, read")
    known = [s for s in slides if s["true_top_mean"] is not None]
    axis.scatter(
        [f * s["true_ratio"] for s in known], [f * s["true_top_mean"] for s in known],
        marker="_", s=70, color="0.3", label="mean of the top tiles, counted",
    )  # fmt: skip
    values = [s[k] for s in slides for k in ("true_ratio", "read_global_ratio", "read_top_mean")]
    _square(axis, np.array([v for v in values if v is not None]), shown)
    axis.set_xlabel(f"counted on the whole slide, {shown.unit}")
    axis.set_ylabel(f"slide reading, {shown.unit}")


def _label_trust(axis: Axes, part: TileTable, figures: dict[str, Any], marker: Marker, shown: ValueText) -> None:
    f = shown.factor
    trust = figures["label_trust"]
    names, position = [], 0
    for key, unit, colour in (("by_cells", "cells", "tab:blue"), ("by_registration_um", "µm", "tab:orange")):
        for row in trust[key]:
            interval = row["mae_interval"]
            spread = None
            if interval is not None:
                # a percentile interval need not hold the figure itself
                spread = [[f * max(row["mae"] - interval[0], 0)], [f * max(interval[1] - row["mae"], 0)]]
            axis.bar(position, f * row["mae"], yerr=spread, color=colour, width=0.7, capsize=3)
            axis.plot([position - 0.35, position + 0.35], [f * row["label_error"]] * 2, color="black", lw=1.5)
            upper = "…" if row["to"] is None else f"–{row['to']:g}"
            names.append(f"{row['from']:g}{upper}\n{unit}\nn={row['n_tiles']}")
            position += 1
        position += 1
        names.append("")
    axis.set_xticks(range(len(names)), names, fontsize=7)
    axis.set_ylabel(f"tile error (mean absolute), {shown.difference_unit}; line: the label's own")


def _known(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r for r in rows if r["error"] is not None]


def _square(axis: Axes, values: Values, shown: ValueText) -> None:
    top = shown.factor * float(values.max(initial=_LEAST_RANGE / shown.factor)) * 1.05
    axis.plot([0, top], [0, top], color="0.75", lw=1, zorder=0)
    axis.set(xlim=(0, top), ylim=(0, top), aspect="equal")
