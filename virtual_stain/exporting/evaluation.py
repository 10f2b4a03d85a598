"""A run's held-out figures in a few numbers, for the model card, and the interval of its slide readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtual_stain.errors import InputError, VerificationError
from virtual_stain.files import read_json, sha256_file
from virtual_stain.training.cross_validation import cross_validation_runs
from virtual_stain.training.run_dir import BEST

_TILES = ("n_labelled", "n_patients", "pearson_within_patient", "pearson_pooled", "mae")
_AGREEMENT = ("n", "mae", "bias", "limits_of_agreement", "pearson", "icc_2_1", "calibration", "cut_offs", "intervals")
_CLASSES = ("slide_mae", "score_agreement")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What an evaluation says that goes into a bundle."""

    figures: dict[str, Any] | None
    """For the card; None: the run was not evaluated with these weights."""
    intervals: dict[str, Any] = field(default_factory=dict)
    """Marker → payload of `virtual_stain.intervals`."""


def exported_run(folder: Path) -> Path:
    """The run whose weights are exported: `folder` itself, or fold 0 of a cross-validation.

    The folds' networks are equally good guesses, and the one is taken that no figure has chosen: the best of K would
    be better on paper only. Raises InputError for a cross-validation that is not finished.
    """
    runs = cross_validation_runs(folder)
    return folder if runs is None else runs[0]


def held_out(run_dir: Path) -> HeldOut:
    """The evaluation of the whole cross-validation where the run is a fold of one, else the run's own.

    Only where every network that it read with still has the weights of then (sha256 of best.h5): figures of other
    weights would be somebody else's. Raises InputError, VerificationError when a file cannot be understood.
    """
    for folder in (run_dir.resolve().parent, run_dir):
        path = folder / "evaluation.json"
        if not path.is_file() or (folder != run_dir and not _is_fold_of(run_dir, folder)):
            continue
        found = _read(path, run_dir)
        if found.figures is not None:
            return found
    return HeldOut(None)


def _is_fold_of(run_dir: Path, folder: Path) -> bool:
    try:
        runs = cross_validation_runs(folder)
    except InputError:
        return False  # unfinished, or another command's folder
    return runs is not None and run_dir.resolve() in [run.resolve() for run in runs]


def _read(path: Path, run_dir: Path) -> HeldOut:
    value = read_json(path, "the evaluation of a run")
    try:
        weights = {run["name"]: run["best_sha256"] for run in value["runs"]}
        folder = run_dir.resolve().parent
        if path.parent == run_dir and len(weights) == 1:  # its own, whatever the folder was called then
            weights = dict.fromkeys([run_dir.resolve().name], *weights.values())
        if run_dir.resolve().name not in weights or any(
            not (folder / name / BEST).is_file() or sha256_file(folder / name / BEST) != digest
            for name, digest in weights.items()
        ):
            return HeldOut(None)
        figures = {
            "held_out": value["held_out"],
            "fold": value["fold"],
            "duplicate_tissue": value["duplicate_tissue"],
            "markers": {marker: _short(found) for marker, found in value["markers"].items()},
        }
        return HeldOut(figures, {marker: found["interval"] for marker, found in value["markers"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise VerificationError(
            f"{path}: expected the figures that `vstain evaluate` writes. Received something else: {error!r}",
            hint=f"Evaluate again: vstain evaluate {path.parent}",
        ) from None


def _short(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "tiles": {name: found["tiles"][name] for name in _TILES},
        "slides": {name: found["slide_agreement"][name] for name in _AGREEMENT},
        "patients": {name: found["patient_agreement"][name] for name in _AGREEMENT},
        "interval_check": found["interval_check"],
        **({"classes": {k: found["classes"][k] for k in _CLASSES}} if "classes" in found else {}),
    }
