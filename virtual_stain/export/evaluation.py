"""A run's held-out figures in a few numbers, for the model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from virtual_stain.errors import VerificationError
from virtual_stain.files import read_json

_TILES = ("n_labelled", "n_patients", "pearson_within_patient", "pearson_pooled", "mae")
_SLIDES = ("n", "mae", "bias", "limits_of_agreement", "pearson")


def held_out_figures(run_dir: Path, best_step: int) -> dict[str, Any] | None:
    """What RUN/evaluation.json says per marker; None when the run was not evaluated with these weights.

    `best_step`: of the weights that are exported; figures of other weights would be somebody else's. Raises
    InputError, VerificationError when the file is there and cannot be understood.
    """
    path = run_dir / "evaluation.json"
    if not path.is_file():
        return None
    value = read_json(path, "the evaluation of a run")
    try:
        if value["best_step"] != best_step:
            return None
        return {
            "held_out": value["held_out"],
            "fold": value["fold"],
            "markers": {
                marker: {
                    "tiles": {name: figures["tiles"][name] for name in _TILES},
                    "slides": {name: figures["slide_agreement"][name] for name in _SLIDES},
                }
                for marker, figures in value["markers"].items()
            },
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise VerificationError(
            f"{path}: expected the figures that `vstain evaluate` writes. Received something else: {error!r}",
            hint=f"Evaluate again: vstain evaluate {run_dir}",
        ) from None
