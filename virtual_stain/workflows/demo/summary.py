"""The demo's result as text, as demo.json and as one picture of real output."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from virtual_stain.files import write_json
from virtual_stain.workflows.demo.indirect import indirect_lines
from virtual_stain.workflows.demo.run import DemoResult, ReadingCheck


def write_result(result: DemoResult) -> Path:
    """Writes `out`/demo.json and returns its path; NaN becomes null."""
    path = result.out / "demo.json"
    value = {k: v for k, v in dataclasses.asdict(result).items() if k != "out"}
    write_json(path, _plain(value))
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def summary_text(result: DemoResult) -> str:
    """What `vstain demo` prints at its end."""
    indirect = [] if result.indirect is None else ["\n".join(indirect_lines(result.indirect))]
    parts = [_labels(result), _prediction(result), _readings(result), *indirect, _costs(result), _places(result)]
    return "\n\n".join(parts)


def _labels(result: DemoResult) -> str:
    worst = max(result.registration, key=lambda r: r.p90_um)
    median = float(np.median([r.median_um for r in result.registration]))
    covered = float(np.mean([r.below_stated_p95 for r in result.registration]))
    lines = [
        "Labels against the truth",
        f"  registration   median {median:.1f} µm over {len(result.registration)} pairs; "
        f"worst pair {worst.pair}: p90 {worst.p90_um:.1f} µm (goal ≤ 15); "
        f"{covered:.0%} of landmarks below the stated p95",
    ]
    lines += [
        f"  counting       {c.pair}: F1 {c.f1:.3f} at 6 µm (goal ≥ 0.85), precision {c.precision:.3f}, "
        f"recall {c.recall:.3f}, right class {c.class_agreement:.1%}"
        for c in result.counting
    ]
    ratios = result.tile_ratios
    if ratios is not None:
        lines.append(
            f"  tile labels    {ratios.n_tiles} tiles: mean absolute error {100 * ratios.mae:.1f} points (goal ≤ 5), "
            f"bias {100 * ratios.bias:+.1f}, r {ratios.r:.3f}; of whole slides bias {100 * ratios.slide_bias:+.1f}"
        )
    return "\n".join(lines)


def _prediction(result: DemoResult) -> str:
    p = result.prediction
    if p is None:
        return "No prediction."
    each = ", ".join(f"{name} {r:.2f}" for name, r in p.per_patient_r.items())
    full = result.plan == "full"
    goal = f"goal ≥ {0.8 * result.ceiling_within_r:.2f} = 0.8 × ceiling" if full else "goal ≥ 0.35"
    lines = [
        "Reading Ki67 from H&E alone, on patients that the training has never seen",
        f"  tile r within patient, mean   {p.within_r:.3f} ({goal}); {each}",
        f"  tile r pooled                 {p.pooled_r:.3f}; mean absolute error {100 * p.mae:.1f} points, "
        f"{p.n_tiles} tiles",
        f"  ceiling: ridge on the true nuclear statistics   {result.ceiling_within_r:.3f} within, "
        f"{result.ceiling_pooled_r:.3f} pooled",
        f"  labels permuted, head refitted 20 times         {result.permuted_r:+.3f} (goal within ±0.1); "
        f"same refit, true labels: {_number(result.unpermuted_r)}",
    ]
    if result.plan == "small":
        lines.append("  This demo only shows that the installation works: its model has learned nothing.")
    elif not full:
        lines.append(
            "  This model is under-trained: minutes on two cores, from random weights. Do not judge slides by it."
        )
    return "\n".join(lines)


def _readings(result: DemoResult) -> str:
    lines = ["Held-out slides as `vstain score` reports them (read / true, per cent)"]
    for r in result.readings:
        lines.append(
            f"  {r.pair}: global ratio {_percent(r.global_ratio)} / {_percent(r.true_global_ratio)} "
            f"(error {_points(r.global_ratio, r.true_global_ratio)} points"
            f"{_ridge(r)}); "
            f"top-30 mean {_percent(r.top_mean)} / {_percent(r.true_top_mean)} of realised counts, "
            f"{_percent(r.true_top_field_mean)} of the noise-free field"
        )
    return "\n".join(lines)


def _ridge(reading: ReadingCheck) -> str:
    """The offset of a patient is not in the H&E slide: the regression on the true nuclei has one, too."""
    if reading.ridge_global_ratio is None:
        return ""
    return f", ridge on the true nuclei {_points(reading.ridge_global_ratio, reading.true_global_ratio)}"


def _costs(result: DemoResult) -> str:
    lines = ["Time"]
    lines += [f"  {seconds:7.1f} s  {name}" for name, seconds in result.seconds.items()]
    lines.append(f"  {sum(result.seconds.values()):7.1f} s  in all; peak memory {result.peak_gb:.1f} GB")
    return "\n".join(lines)


def _places(result: DemoResult) -> str:
    out = result.out
    worst = max(result.registration, key=lambda r: r.p90_um).pair
    lines = [
        "Look at",
        f"  {out / 'flow.png'}                  the flow, in one picture of this run's output",
        f"  {out / 'records' / 'summary.html'}   the records",
        f"  {out / 'records' / 'work' / worst / 'overlay.jpg'}   the worst registration",
        f"  {out / 'run' / 'scatter.png'}        held-out tiles",
    ]
    lines += [f"  {r.report}   report of {r.pair}" for r in result.readings]
    lines.append(f"  {out / 'demo.json'}   all of the above as numbers")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f}"


def _points(read: float | None, true: float) -> str:
    return "none" if read is None else f"{100 * (read - true):+.1f}"
