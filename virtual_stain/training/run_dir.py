"""The folder of a run: what lies where, what it says of itself, and how its model comes back.

run.json            resolved configuration, versions, manifest's sha256, patients per side, summary
best.h5             weights of the best validation (averaged weights), the ones that are used
last.h5             everything to go on from: weights, optimizer, averages, position
history.csv         one line every few steps and one a validation
tensorboard/        the same for TensorBoard
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from virtual_stain.config import Config
from virtual_stain.config.load import config_from_dict
from virtual_stain.errors import InputError, ModelError
from virtual_stain.files import read_json
from virtual_stain.markers import ValueDefinition, parse_marker
from virtual_stain.model.build import BuildOptions, Network
from virtual_stain.model.of_path import network_of_path
from virtual_stain.model.value import ValueOutput, value_output
from virtual_stain.training.checkpoint import assign, read_checkpoint

BEST = "best.h5"


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths below a run's folder."""

    path: Path

    @property
    def run_json(self) -> Path:
        return self.path / "run.json"

    @property
    def best(self) -> Path:
        return self.path / BEST

    @property
    def last(self) -> Path:
        return self.path / "last.h5"

    @property
    def history(self) -> Path:
        return self.path / "history.csv"

    @property
    def evaluation(self) -> tuple[Path, ...]:
        """What `vstain evaluate` writes here; the first one says that the others are whole."""
        names = (
            "evaluation.json", "evaluation.html", "predictions.csv",
            "scatter.png", "bland_altman.png", "calibration.png", "roc.png",
        )  # fmt: skip
        return tuple(self.path / name for name in names)

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A finished (or stopped) run with its best weights."""

    path: Path
    model: keras.Model
    """uint8[B, crop, crop, 3] → {"ki67": float32[B], "ki67_tumour_cells": float32[B], …} of a crop."""
    card: dict[str, Any]
    """JSON-able; everything that a bundle must know, see `run_card`."""
    config: Config
    network: Network
    data: dict[str, Any]
    """What the run recorded of its records: folder, manifest's sha256, fold, patients per side."""


def load_run(run_dir: Path, precision: str = "float32") -> TrainedRun:
    """The model with its best weights, and its card.

    `precision`: in what the layers multiply; float32 is the same everywhere, whatever the run was trained in.
    Raises InputError when the folder is no run, ModelError when it has no usable weights yet.
    """
    paths = RunDir(run_dir)
    record = read_run_json(run_dir)
    if not paths.best.is_file():
        raise ModelError(
            f"{run_dir}: the run has no weights to use yet: nothing has been validated.",
            hint=f"Go on with it: vstain fit {record['data']['records']} --out {run_dir} --resume",
        )
    config = config_from_dict(record["config"])
    markers = tuple(parse_marker(m) for m in record["data"]["markers"])
    groups, state = read_checkpoint(paths.best)
    options = BuildOptions(
        seed=config.training.seed,
        precision=precision,
        load_weights=False,
        support=state.get("support", {}),
        value=_value_of(record),
    )
    network = network_of_path(config.model, markers, options)
    assign(network.weights, groups["weights"], paths.best)
    card = run_card(record, state)
    card["training"]["map"] = network.geometry.to_dict()
    return TrainedRun(run_dir, network.model, card, config, network, record["data"])


def _value_of(record: Mapping[str, Any]) -> ValueOutput:
    data = record["data"]
    mpp = float(data["tiling"]["window_um"]) / int(data["tiling"]["tile_px"])
    return value_output(ValueDefinition(data["value_definition"]), int(record["config"]["model"]["crop_px"]), mpp)


def read_run_json(run_dir: Path) -> dict[str, Any]:
    """`run.json` of a training run. Raises InputError when there is none or it is another command's."""
    record = read_json(run_dir / "run.json", "the record of a training run")
    if not isinstance(record, dict) or record.get("command") != "fit" or "data" not in record:
        raise InputError(
            f"{run_dir}: expected the folder of a training run. Received: one that holds no run of `vstain fit`.",
            hint="Give the folder that was passed to `vstain fit --out`.",
        )
    return record


def _network(model: Mapping[str, Any]) -> dict[str, Any]:
    """What kind of network it is."""
    if model.get("path") == "indirect":  # there is one generator: what [model] says of a trunk is not used
        return {"path": "indirect", "kind": "small_generator", "head": "dense", "trunk_end": None}
    found = {"kind": model["kind"], "head": model.get("head", "pooled"), "trunk_end": model.get("trunk_end")}
    return {"path": "direct", **found}


def run_card(record: Mapping[str, Any], best_state: Mapping[str, Any]) -> dict[str, Any]:
    """The model card's facts from `run.json` and the state beside the best weights."""
    data, config = record["data"], record["config"]
    patients = data["patients"]
    return {
        "markers": list(data["markers"]),
        "value_definition": data["value_definition"],
        "tiling": dict(data["tiling"]),
        "crop_px": config["model"]["crop_px"],
        "crop_weights": config["model"].get("crop_weights", "equal"),
        "thresholds": {
            "min_tissue_fraction": config["model"]["min_tissue_fraction"],
            "min_tumour_cells": config["model"]["min_expected_tumour_cells"],
        },
        "patient_key_fingerprint": data["patient_key_fingerprint"],
        "training_range": data.get("training_range"),
        # the checkpoint was chosen on the validation patients: a figure on them is no evidence either
        "training_patient_ids": sorted([*patients["train"], *patients["validation"]]),
        "training_slide_hashes": sorted(data["seen_slides"]),
        "training": {
            **_network(config["model"]),
            "weights": config["model"]["weights"],
            "recipe": config["training"]["recipe"],
            "fold": data["fold"],
            "manifest_sha256": data["manifest_sha256"],
            "accept_unreviewed": data["accept_unreviewed"],
            "n_patients": {side: len(ids) for side, ids in patients.items()},
            "n_tiles": dict(data["n_tiles"]),
            "best_step": best_state["step"],
            "best_validation_loss": best_state["validation_loss"],
            "validation": best_state["validation"],
            "verdict": (record.get("summary") or {}).get("verdict", ""),
            "software": dict(record["software"]),
        },
    }
