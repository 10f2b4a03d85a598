"""`vstain evaluate`: tiles and slides of patients that the run has never seen."""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virtual_stain.config import ScoringSettings
from virtual_stain.dataset.shards import verify_shards
from virtual_stain.errors import InputError, OutputError
from virtual_stain.files import folder_lock, output_errors, read_json, sha256_file, write_json, write_text
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import RunRecord
from virtual_stain.records.manifest import MANIFEST, read_manifest
from virtual_stain.training.held_out import held_out_pairs
from virtual_stain.training.metrics import limits_of_agreement, mean_absolute_error, mean_within, pearson, per_group
from virtual_stain.training.plots import write_bland_altman, write_scatter
from virtual_stain.training.predict import TileTable, predict_tiles
from virtual_stain.training.run_dir import TrainedRun, load_run
from virtual_stain.training.slide_figures import ReadingRule, SlideFigures, slide_figures, used_tiles

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluation.json` says, and where it lies."""

    folder: Path
    figures: dict[str, Any]
    """marker → {"tiles": {…}, "slides": [{…}], "slide_agreement": {…}}; fractions, None where there is no value."""
    tiles: TileTable


def evaluate(
    run_dir: Path,
    records_dir: Path | None = None,
    out: Path | None = None,
    *,
    scoring: ScoringSettings | None = None,
    progress: Progress = QUIET,
) -> Evaluation:
    """Reads the held-out tiles and writes evaluation.json, predictions.csv, scatter.png and bland_altman.png.

    `records_dir`: None = the records of the training, of which only the test fold is read. `out`: default the run's
    folder, for other records `evaluation-<name>` in it. Raises InputError for patients that are not held out,
    ModelError, VerificationError, OutputError.
    """
    run = load_run(run_dir)
    records = _records_of(run) if records_dir is None else records_dir
    manifest = read_manifest(records)
    pairs = held_out_pairs(run, records, manifest)
    verify_shards(records, pairs, progress)
    digest = sha256_file(records / MANIFEST)
    own = digest == run.data["manifest_sha256"]
    folder = out or (run_dir if own else run_dir / f"evaluation-{records.resolve().name}")
    _refuse_other_run(folder, run_dir)
    record = RunRecord("evaluate", config=run.config.to_dict(), inputs={MANIFEST: digest})
    tiles = predict_tiles(run, records, pairs, progress)
    rule = ReadingRule(
        min_tissue_fraction=run.card["thresholds"]["min_tissue_fraction"],
        min_tumour_cells=run.card["thresholds"]["min_tumour_cells"],
        top_n=(scoring or ScoringSettings()).top_n,
    )
    figures = {m: marker_figures(tiles.select(tiles.marker == m), rule) for m in sorted(set(tiles.marker.tolist()))}
    record.counts = {"tiles": len(tiles)}
    with folder_lock(folder):
        _refuse_other_run(folder, run_dir)
        _write(folder, run, tiles, rule, figures, own=own)
        if folder.resolve() != run_dir.resolve():  # the run's own folder keeps the record of its training
            record.write(folder, tensorflow=True)
    return Evaluation(folder, figures, tiles)


def _refuse_other_run(folder: Path, run_dir: Path) -> None:
    """Raises OutputError when `folder` holds the record of a command that is no evaluation, this run's excepted."""
    path = folder / "run.json"
    if folder.resolve() == run_dir.resolve() or not path.exists():
        return
    try:
        record = read_json(path, "the record of an evaluation")
    except InputError as error:
        raise OutputError(f"{folder}: this folder belongs to another command: {error}", hint=_ANOTHER) from error
    if not isinstance(record, dict) or record.get("command") != "evaluate":
        raise OutputError(f"{folder}: this folder belongs to another command.", hint=_ANOTHER)


_ANOTHER = "Choose another --out."


def _records_of(run: TrainedRun) -> Path:
    records = Path(run.data["records"])
    if not (records / MANIFEST).is_file():
        raise InputError(
            f"{run.path}: its records are no longer at {records}.",
            hint=f"Name the folder: vstain evaluate {run.path} DIR",
        )
    return records


def marker_figures(tiles: TileTable, rule: ReadingRule) -> dict[str, Any]:
    """Tile and slide figures of one marker, JSON-able."""
    known = tiles.select(tiles.labelled)
    counted = tiles.select(tiles.usable > 0)
    slides = slide_figures(tiles, rule)
    return {
        "tiles": {
            "n": len(tiles),
            "n_labelled": len(known),
            "n_patients": len(set(known.patient.tolist())),
            "pearson_within_patient": mean_within(known.patient, known.truth, known.ratio, pearson),
            "pearson_per_patient": per_group(known.patient, known.truth, known.ratio, pearson),
            "pearson_pooled": pearson(known.truth, known.ratio),
            "mae": mean_absolute_error(known.truth, known.ratio),
            "tumour_cells_pearson": pearson(counted.cells, counted.expected_cells),
            "tumour_cells_mae": mean_absolute_error(counted.cells, counted.expected_cells),
        },
        "slides": [dataclasses.asdict(s) | {"error": s.error} for s in slides],
        "slide_agreement": _agreement(slides),
    }


def _agreement(slides: list[SlideFigures]) -> dict[str, Any]:
    known = [(s.true_ratio, s.read_global_ratio) for s in slides if s.error is not None]
    truth, read = np.array([k[0] for k in known], np.float64), np.array([k[1] for k in known], np.float64)
    limits = limits_of_agreement(truth, read)
    return {
        "n": len(known),
        "mae": mean_absolute_error(truth, read),
        "pearson": pearson(truth, read),
        "bias": None if limits is None else limits[0],
        "limits_of_agreement": None if limits is None else list(limits[1:]),
    }


def _write(
    folder: Path, run: TrainedRun, tiles: TileTable, rule: ReadingRule, figures: dict[str, Any], *, own: bool
) -> None:
    with output_errors(folder):
        (folder / "evaluation.json").unlink(missing_ok=True)  # the old one must not stand beside new predictions
    write_text(folder / "predictions.csv", predictions_csv(tiles, rule))
    write_scatter(folder / "scatter.png", tiles)
    write_bland_altman(folder / "bland_altman.png", tiles, figures)
    value = {
        "schema_version": SCHEMA_VERSION,
        "run": run.path.name,
        "fold": run.data["fold"],
        "held_out": "test fold of the run's records" if own else "other records, no patient or slide of the training",
        "best_step": run.card["training"]["best_step"],
        "rule": dataclasses.asdict(rule),
        "markers": figures,
    }
    write_json(folder / "evaluation.json", value)  # last: where it stands, the rest is whole


def predictions_csv(tiles: TileTable, rule: ReadingRule) -> str:
    """One line a tile; empty where there is no value. Fractions, cells."""
    columns = (
        "pair", "patient_id", "marker", "col", "row", "tissue_fraction", "label_weight", "label_positive",
        "label_tumour_cells", "label_ratio", "ratio", "tumour_cells", "used",
    )  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    used, truth = used_tiles(tiles, rule), tiles.truth
    for i in range(len(tiles)):
        writer.writerow(
            [
                tiles.pair[i], tiles.patient[i], tiles.marker[i], tiles.col[i], tiles.row[i],
                f"{tiles.tissue_fraction[i]:.4f}", f"{tiles.weight[i]:g}", f"{tiles.positive[i]:.0f}",
                f"{tiles.cells[i]:.0f}", _number(truth[i]), _number(tiles.ratio[i]),
                f"{tiles.expected_cells[i]:.2f}", int(used[i]),
            ]
        )  # fmt: skip
    return text.getvalue()


def _number(value: float) -> str:
    return f"{value:.6f}" if np.isfinite(value) else ""
