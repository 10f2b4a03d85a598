"""Pictures of an evaluation: read against true, and Bland–Altman. Per cent, one colour a patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from virtual_stain.files import replacing
from virtual_stain.markers import parse_marker
from virtual_stain.training.metrics import limits_of_agreement
from virtual_stain.training.predict import TileTable

_MANY_PATIENTS = 10  # more colours than this nobody tells apart


def write_scatter(path: Path, tiles: TileTable) -> None:
    """Tiles, read ratio against counted ratio, a panel a marker. Raises OutputError."""
    known = tiles.select(tiles.labelled)
    figure, axes = _panels(known)
    for axis, marker in axes:
        part = known.select(known.marker == marker)
        x, y = 100 * part.truth, 100 * part.ratio
        _points(axis, part, x, y)
        top = float(max(x.max(initial=5), y.max(initial=5)) * 1.05)
        axis.plot([0, top], [0, top], color="0.6", lw=1, zorder=0)
        axis.set(xlim=(0, top), ylim=(0, top), aspect="equal")
        axis.set_xlabel(f"{parse_marker(marker).label} counted on the IHC tile, %")
        axis.set_ylabel("read from the H&E tile, %")
        _legend(axis)
    _save(figure, path)


def write_bland_altman(path: Path, tiles: TileTable, figures: dict[str, Any]) -> None:
    """Difference against mean: small points are tiles, large ones slides (global ratio). Raises OutputError."""
    known = tiles.select(tiles.labelled)
    figure, axes = _panels(known)
    for axis, marker in axes:
        part = known.select(known.marker == marker)
        _points(axis, part, 50 * (part.truth + part.ratio), 100 * (part.ratio - part.truth))
        slides = [s for s in figures[marker]["slides"] if s["error"] is not None]
        axis.scatter(
            [50 * (s["true_ratio"] + s["read_global_ratio"]) for s in slides],
            [100 * s["error"] for s in slides],
            s=70, marker="D", facecolor="none", edgecolor="black", lw=1.4, label="slides",
        )  # fmt: skip
        limits = limits_of_agreement(part.truth, part.ratio)
        names = ("tiles: mean", "tiles: mean ± 1.96 sd", None)
        for value, style, name in zip(limits or (), ("-", "--", "--"), names, strict=False):
            axis.axhline(100 * value, color="0.4", ls=style, lw=1, label=name)
            axis.annotate(f"{100 * value:+.1f}", (1, 100 * value), xycoords=("axes fraction", "data"),
                          xytext=(-4, 3), textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
        axis.axhline(0, color="0.8", lw=0.8, zorder=0)
        axis.set_xlabel("mean of counted and read, %")
        axis.set_ylabel("read − counted, points")
        _legend(axis)
    _save(figure, path)


def _panels(tiles: TileTable) -> tuple[Figure, list[tuple[Axes, str]]]:
    markers = sorted(set(tiles.marker.tolist()))
    figure = Figure(figsize=(5.4 * len(markers), 5.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(markers), squeeze=False)[0]
    return figure, list(zip(axes, markers, strict=True))


def _points(axis: Axes, tiles: TileTable, x: np.ndarray, y: np.ndarray) -> None:
    patients = sorted(set(tiles.patient.tolist()))
    colours = colormaps["tab10"]
    for index, patient in enumerate(patients):
        chosen = tiles.patient == patient
        few = len(patients) <= _MANY_PATIENTS
        label = f"patient {patient[:8]}…, {int(chosen.sum())} tiles" if few else None
        axis.scatter(x[chosen], y[chosen], s=14, alpha=0.6, color=colours(index % 10), lw=0, label=label)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(axis: Axes) -> None:
    # below the axes: inside there is no corner that is free in every evaluation
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=8, frameon=False)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
