"""Two evaluated runs on the same held-out tiles: direct and indirect path, and what the difference is worth.

The two readings of a tile share its label and its patient. So the difference is resampled as a whole, over patients.
Scores of picture similarity (FID, SSIM, PSNR) are not computed: they rank virtual stains wrongly.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.errors import InputError
from virtual_stain.evaluation.bootstrap import MIN_PATIENTS, RESAMPLES, bootstrap_over_patients
from virtual_stain.evaluation.statistics import calibration_line
from virtual_stain.files import read_json, sha256_file, write_json
from virtual_stain.markers import parse_marker
from virtual_stain.training.cross_validation import cross_validation_runs
from virtual_stain.training.metrics import Values, mean_absolute_error, mean_within, pearson
from virtual_stain.training.run_dir import RunDir

COMPARISON = "comparison.json"
LEAKAGE_R = 0.05
"""The indirect path sees the same H&E as the direct one. Where its r is better by more than this, something leaks."""
_READINGS = ("direct", "indirect", "mean")
Key = tuple[str, str, int, int]
Label = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """An evaluated run."""

    folder: Path
    path: str
    """"direct" or "indirect"."""
    facts: Mapping[str, Any]
    tiles: Mapping[Key, tuple[str, Label, float]]
    """(marker, pair, col, row) → patient, label (positive cells, tumour cells) and reading of a labelled tile."""


def compare_paths(run: Path, other: Path, *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Compares two evaluated runs, one of each path, and writes comparison.json into `run`.

    Both must have read the same patients and tiles by networks of the same folds, with the same labels. Raises
    InputError where they have not, and where a run is not evaluated.
    """
    found = {one.path: one for one in (_evaluated(run), _evaluated(other))}
    if set(found) != {"direct", "indirect"}:
        raise InputError(
            f"{other}: expected a run of the other path beside {run}. Received: two of the {next(iter(found))} path."
        )
    direct, indirect = found["direct"], found["indirect"]
    keys = _shared_tiles(direct, indirect)
    value = {
        "direct": _of_run(direct),
        "indirect": _of_run(indirect),
        "markers": {
            marker: _figures(direct, indirect, [k for k in keys if k[0] == marker], resamples)
            for marker in sorted({k[0] for k in keys})
        },
    }
    write_json(run / COMPARISON, value)
    return value


def comparison_lines(value: Mapping[str, Any]) -> list[str]:
    """The comparison for people: a line for each reading, the difference, and the alarm."""
    lines = []
    for marker, figures in value["markers"].items():
        lines.append(
            f"{parse_marker(marker).label}, both paths on the same {figures['n_tiles']} tiles of "
            f"{figures['n_patients']} patients:"
        )
        for name in _READINGS:
            one = figures[name]
            lines.append(
                f"  {name:8} r within a patient {_text(one['r_within'])}, pooled {_text(one['r_pooled'])}, "
                f"error {_text(one['mae'])}, bias {_text(one['bias'], '+.3f')}, slope {_text(one['slope'])}"
            )
        for name, label in (("r_within", "r within a patient"), ("mae", "error")):
            low_high = figures["difference_interval"][name]
            shown = (
                f"no interval below {MIN_PATIENTS} patients"
                if low_high is None
                else f"95 % interval {low_high[0]:+.3f} to {low_high[1]:+.3f}, over patients"
            )
            lines.append(f"  indirect − direct, {label}: {_text(figures['difference'][name], '+.3f')} ({shown})")
        if figures["leakage_alarm"]:
            lines.append(f"  LEAKAGE ALARM: {figures['leakage_alarm']}")
    return lines


def _text(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)


def _evaluated(run: Path) -> _Evaluated:
    for name in ("evaluation.json", "predictions.csv"):
        if not (run / name).is_file():
            raise InputError(
                f"{run}: expected an evaluated run, with {name}.", hint=f"Evaluate it first: vstain evaluate {run}"
            )
    facts = read_json(run / "evaluation.json", "an evaluation")
    runs = cross_validation_runs(run) or [run]
    weights = [sha256_file(RunDir(one).best) for one in runs]
    if [one["best_sha256"] for one in facts["runs"]] != weights:
        raise InputError(
            f"{run}: its evaluation is of other weights than lie there now.", hint=f"vstain evaluate {run}"
        )
    if facts["value_definition"] != "positive_ratio":
        raise InputError(
            f"{run}: expected readings of the positive ratio. Received: {facts['value_definition']}, which has no "
            "indirect path."
        )
    settings = read_json(runs[0] / "run.json", "the record of a run")["config"]["model"]
    return _Evaluated(run, settings.get("path", "direct"), facts, _labelled(run / "predictions.csv"))


def _labelled(path: Path) -> dict[Key, tuple[str, Label, float]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return {
            (row["marker"], row["pair"], int(row["col"]), int(row["row"])): (
                row["patient_id"],
                (float(row["label_positive"]), float(row["label_tumour_cells"])),
                float(row["ratio"]),
            )
            for row in csv.DictReader(stream)
            if float(row["label_weight"]) > 0 and row["label_ratio"] and row["ratio"]
        }


def _shared_tiles(direct: _Evaluated, indirect: _Evaluated) -> list[Key]:
    """All labelled tiles, sorted. Raises InputError where the two runs did not read the same ones."""
    folds = [sorted(run["fold"] for run in one.facts["runs"]) for one in (direct, indirect)]
    same = set(direct.tiles) == set(indirect.tiles) and all(
        direct.tiles[k][:2] == indirect.tiles[k][:2] for k in direct.tiles
    )
    if not same or folds[0] != folds[1] or not direct.tiles:
        raise InputError(
            f"{direct.folder}, {indirect.folder}: expected readings of the same tiles, labels and folds. Received: "
            f"{len(direct.tiles)} and {len(indirect.tiles)} labelled tiles, folds {folds[0]} and {folds[1]}.",
            hint="Train and evaluate both on the same records: build-records … --set labels.keep_ihc=true",
        )
    return sorted(direct.tiles)


def _figures(direct: _Evaluated, indirect: _Evaluated, keys: list[Key], resamples: int) -> dict[str, Any]:
    patients = np.array([direct.tiles[k][0] for k in keys])
    truth = np.array([direct.tiles[k][1][0] / direct.tiles[k][1][1] for k in keys])
    read = {one.path: np.array([one.tiles[k][2] for k in keys]) for one in (direct, indirect)}
    read["mean"] = (read["direct"] + read["indirect"]) / 2

    def difference(rows: npt.NDArray[np.intp]) -> dict[str, float | None]:
        # a patient that is drawn twice is one patient: r within it stays the same, its weight in the mean is lost
        before, after = (_of_reading(patients[rows], truth[rows], read[n][rows]) for n in ("direct", "indirect"))
        return {name: _less(after[name], before[name]) for name in ("r_within", "r_pooled", "mae", "bias")}

    found = difference(np.arange(len(keys)))
    return {
        "n_tiles": len(keys),
        "n_patients": len(set(patients.tolist())),
        **{name: _of_reading(patients, truth, read[name]) for name in _READINGS},
        "difference": found,
        "difference_interval": bootstrap_over_patients(patients, difference, resamples=resamples),
        "leakage_alarm": _alarm(found),
    }


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _alarm(difference: Mapping[str, float | None]) -> str | None:
    better = [v for v in (difference["r_within"], difference["r_pooled"]) if v is not None and v > LEAKAGE_R]
    if not better:
        return None
    return (
        f"the indirect path's r is better by {max(better):.2f}, more than {LEAKAGE_R:g}. It sees the same H&E as the "
        "direct path, so either the direct model is under-trained, or something of the IHC slide leaks. Explain it "
        "before anybody uses the figure."
    )


def _of_reading(patients: npt.NDArray[np.str_], truth: Values, read: Values) -> dict[str, float | None]:
    line = calibration_line(truth, read)
    return {
        "r_within": mean_within(patients, truth, read, pearson),
        "r_pooled": pearson(truth, read),
        "mae": mean_absolute_error(truth, read),
        "bias": float(np.mean(read - truth)),
        "slope": None if line is None else line[1],
    }


def _of_run(one: _Evaluated) -> dict[str, Any]:
    return {"run": one.folder.resolve().name, "runs": list(one.facts["runs"])}
