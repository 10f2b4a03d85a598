"""The learning curve: tile and slide error against the number of training patients, its law, its plot, its sentence."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from virtual_stain.evaluation.bootstrap import bootstrap_over_patients
from virtual_stain.evaluation.power_law import PowerLaw, fit_power_law
from virtual_stain.evaluation.predict import TileTable
from virtual_stain.evaluation.slide_figures import ReadingRule, patient_figures
from virtual_stain.markers import ValueDefinition, parse_marker
from virtual_stain.training.metrics import mean_within, pearson
from virtual_stain.value_text import ValueText

LEVELS = ("tiles", "slides")


@dataclass(frozen=True, slots=True, eq=False)
class CurvePoint:
    """All patients, each read by a network of so many others."""

    size: int
    tiles: TileTable
    rule: ReadingRule


def curve_figures(points: Sequence[CurvePoint], marker: str) -> dict[str, Any]:
    """JSON-able: per level the error at each size with its interval, and the law through them.

    A patient whose error is not known at every size is left out at all of them: other patients are other errors.
    """
    own = [dataclasses.replace(p, tiles=p.tiles.select(p.tiles.marker == marker)) for p in points]
    found: dict[str, Any] = {
        "sizes": [p.size for p in own],
        "value_definition": own[0].rule.definition.value,
        "r_within": [_r_within(p.tiles) for p in own],
    }
    for level, errors_of in (("tiles", _tile_errors), ("slides", _slide_errors)):
        by_size = [errors_of(p) for p in own]
        known = sorted(set.intersection(*(set(e) for e in by_size)))
        errors = {name: [e[name] for e in by_size] for name in known}
        found[level] = _level([p.size for p in own], errors) if known else None
    return found


def _level(sizes: Sequence[int], errors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    names, table = np.array(list(errors)), np.array(list(errors.values()), np.float64)

    def means(rows: npt.NDArray[np.intp]) -> dict[str, float | None]:
        return {str(size): float(table[rows, i].mean()) for i, size in enumerate(sizes)}

    spans = bootstrap_over_patients(names, means)
    law = fit_power_law(sizes, errors)
    return {
        "n_patients": len(names),
        "sizes": list(sizes),
        "mae": [float(v) for v in table.mean(axis=0)],
        "intervals": [spans[str(size)] for size in sizes],
        "law": dataclasses.asdict(law) | {"falls": law.falls},
    }


def _tile_errors(point: CurvePoint) -> dict[str, float]:
    known = point.tiles.select(point.tiles.labelled)
    wrong = np.abs(known.value - known.truth)
    return {str(p): float(wrong[known.patient == p].mean()) for p in sorted(set(known.patient.tolist()))}


def _slide_errors(point: CurvePoint) -> dict[str, float]:
    return {p.patient: abs(p.error) for p in patient_figures(point.tiles, point.rule) if p.error is not None}


def _r_within(tiles: TileTable) -> float | None:
    known = tiles.select(tiles.labelled)
    return mean_within(known.patient, known.truth, known.value, pearson)


def curve_sentence(marker: str, level: str, found: Mapping[str, Any]) -> str:
    """What a lab wants to know, in a sentence or two; never more than the data say. `found`: of `curve_figures`."""
    name, what = parse_marker(marker).label, "Tile" if level == "tiles" else "Slide"
    figures = found[level]
    if figures is None:
        return f"{name}: no patient's {what.lower()} error is known at every size."
    shown = ValueText(ValueDefinition(found["value_definition"]))
    law = PowerLaw(**{k: v for k, v in figures["law"].items() if k != "falls"})
    last, interval = figures["mae"][-1], figures["intervals"][-1]
    now = (
        f"{name}, {figures['n_patients']} patients read: with {figures['sizes'][-1]} training patients the "
        f"{what.lower()} error is {shown.difference(last)}{_span(shown, interval)}."
    )
    factor = f"{law.doubling:.2f}" + (
        "" if law.doubling_interval is None else " ({:.2f} to {:.2f})".format(*law.doubling_interval)
    )
    if not law.falls:
        return f"{now} Each doubling multiplied it by {factor}: that more patients help is not shown."
    return (
        f"{now} Each doubling multiplied it by {factor}; {2 * figures['sizes'][-1]} patients may be expected to give "
        f"{shown.difference(law.at_double)}{_span(shown, law.at_double_interval)}."
    )


def _span(shown: ValueText, interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({shown.span(interval[0], interval[1])})"


def curve_plot(figures: Mapping[str, Mapping[str, Any]]) -> bytes:
    """PNG: a panel a marker, errors with their intervals against the number of patients, both axes logarithmic."""
    figure = Figure(figsize=(5.6 * len(figures), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (marker, found) in zip(figure.subplots(1, len(figures), squeeze=False)[0], figures.items(), strict=True):
        shown = ValueText(ValueDefinition(found["value_definition"]))
        for level, colour in zip(LEVELS, ("tab:blue", "tab:orange"), strict=True):
            if found[level] is None:
                continue
            sizes, mae = np.array(found[level]["sizes"]), shown.factor * np.array(found[level]["mae"])
            axis.plot(sizes, mae, "o", color=colour, label=level)
            for size, interval in zip(sizes, found[level]["intervals"], strict=True):
                if interval is not None:
                    axis.plot([size, size], [shown.factor * v for v in interval], color=colour, linewidth=1)
            law = found[level]["law"]
            ends = np.array([sizes[0], 2 * sizes[-1]])
            line = shown.factor * law["at_double"] * law["doubling"] ** np.log2(ends / ends[-1])
            axis.plot(ends, line, color=colour, linewidth=1, linestyle="--")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("training patients")
        axis.set_ylabel(f"mean absolute error, {shown.difference_unit}")
        axis.set_title(shown.name(parse_marker(marker)), loc="left", fontsize=11)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()
