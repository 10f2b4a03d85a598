"""`vstain evaluate`: tiles, slides and patients that the run has never seen."""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virtual_stain.config import ScoringSettings
from virtual_stain.dataset.shards import verify_shards
from virtual_stain.dataset.split import recorded_split, require_no_shared_tissue
from virtual_stain.errors import InputError, OutputError
from virtual_stain.evaluation.bootstrap import RESAMPLES
from virtual_stain.evaluation.figures import marker_figures
from virtual_stain.evaluation.held_out import held_out_pairs
from virtual_stain.evaluation.html import evaluation_html
from virtual_stain.evaluation.plots import PICTURES, draw_plots
from virtual_stain.evaluation.predict import TileTable, predict_tiles
from virtual_stain.evaluation.slide_figures import ReadingRule, used_tiles
from virtual_stain.files import (
    folder_lock,
    output_errors,
    read_json,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)
from virtual_stain.markers import ValueDefinition, parse_marker
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import RunRecord
from virtual_stain.records.duplicates import known_duplicates
from virtual_stain.records.manifest import MANIFEST, read_manifest
from virtual_stain.remote import Location, parse_location
from virtual_stain.tables import BYTE_ORDER_MARK
from virtual_stain.training.cross_validation import cross_validation_runs
from virtual_stain.training.run_dir import RunDir, TrainedRun, load_run

_log = logging.getLogger("vstain.evaluate")

SCHEMA_VERSION = 3


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluation.json` says, and where it lies."""

    folder: Path
    figures: dict[str, Any]
    """marker → see docs/evaluation.md; in the unit of the value, None where there is none."""
    tiles: TileTable
    rule: ReadingRule

    @property
    def definition(self) -> ValueDefinition:
        """What the values mean."""
        return self.rule.definition


@dataclass(frozen=True, slots=True)
class _Read:
    """Tiles that networks have read which have never seen them."""

    tiles: TileTable
    rule: ReadingRule
    facts: dict[str, Any]
    manifest_sha256: str
    config: dict[str, Any]
    own: bool


def evaluate(
    run_dir: Path,
    records_dir: Location | None = None,
    out: Path | None = None,
    *,
    scoring: ScoringSettings | None = None,
    resamples: int = RESAMPLES,
    excel: bool = False,
    progress: Progress = QUIET,
) -> Evaluation:
    """Reads the held-out tiles and writes evaluation.json, evaluation.html, predictions.csv and the pictures.

    `run_dir`: a run, or the folder of a cross-validation, of which every fold reads its own patients. `records_dir`:
    None = the records of the training, of which only the test fold is read. `out`: default the run's folder, for
    other records `evaluation-<name>` in it. `excel`: predictions.csv begins with a byte order mark.

    Raises InputError for patients that are not held out, ModelError, VerificationError (shards, tissue on two sides),
    OutputError.
    """
    top_n = (scoring or ScoringSettings()).top_n
    runs = cross_validation_runs(run_dir)
    if runs is None:
        read = _read_run(run_dir, records_dir, top_n, progress)
    else:
        if records_dir is not None:
            raise InputError(
                f"{run_dir}: a cross-validation is evaluated on its own records.",
                hint=f"Other records are read by one network: vstain evaluate {runs[0]} {records_dir}",
            )
        read = _joined([_read_run(run, None, top_n, progress) for run in runs])
    name = "" if records_dir is None else f"evaluation-{records_dir.resolve().name}"
    folder = out or (run_dir if read.own else run_dir / name)
    _refuse_other_run(folder, run_dir)
    record = RunRecord("evaluate", config=read.config, inputs={MANIFEST: read.manifest_sha256})
    record.counts = {"tiles": len(read.tiles)}
    markers = sorted(set(read.tiles.marker.tolist()))
    figures = {
        m: marker_figures(read.tiles.select(read.tiles.marker == m), read.rule, resamples=resamples) for m in markers
    }
    with folder_lock(folder):
        _refuse_other_run(folder, run_dir)
        _write(folder, run_dir.name, read, figures, excel=excel)
        if folder.resolve() != run_dir.resolve():  # the run's own folder keeps the record of its training
            record.write(folder, tensorflow=True)
    return Evaluation(folder, figures, read.tiles, read.rule)


def _read_run(run_dir: Path, records_dir: Location | None, top_n: int, progress: Progress) -> _Read:
    run, best_sha256 = _loaded(run_dir)
    for sentence in run.data.get("equal_labels") or ():
        _log.warning("%s: %s", run_dir, sentence)
    records = _records_of(run) if records_dir is None else records_dir
    manifest = read_manifest(records)
    pairs = held_out_pairs(run, records, manifest)
    verify_shards(records, pairs, progress)
    digest = sha256_file(records / MANIFEST)
    own = digest == run.data["manifest_sha256"]
    duplicates = known_duplicates(records, digest)
    if own:  # found after the training: fit would have refused
        split = recorded_split(manifest, int(run.data["fold"]), run.data["patients"])
        require_no_shared_tissue(records, split, duplicates)
    rule = ReadingRule(
        min_tissue_fraction=run.card["thresholds"]["min_tissue_fraction"],
        min_tumour_cells=run.card["thresholds"]["min_tumour_cells"],
        top_n=top_n,
        definition=ValueDefinition(run.card["value_definition"]),
    )
    best_step = run.card["training"]["best_step"]
    facts = {
        "kind": "run",
        "fold": run.data["fold"],
        "held_out": "test fold of the run's records" if own else "other records, no patient or slide of the training",
        "best_step": best_step,
        "runs": [
            {
                "name": run.path.resolve().name,
                "fold": run.data["fold"],
                "best_step": best_step,
                "best_sha256": best_sha256,
            }
        ],
        "duplicate_tissue": duplicates,
    }
    return _Read(predict_tiles(run, records, pairs, progress), rule, facts, digest, run.config.to_dict(), own)


def _loaded(run_dir: Path) -> tuple[TrainedRun, str]:
    """The run and the sha256 of the very weights that it reads with: a training under way may replace them."""
    best = RunDir(run_dir).best
    while True:
        before = sha256_file(best) if best.is_file() else ""
        run = load_run(run_dir)
        if sha256_file(best) == before:
            return run, before


def _joined(parts: list[_Read]) -> _Read:
    """The folds of a cross-validation as one: every patient read by the network that has not seen it."""
    first = parts[0]
    facts = first.facts | {
        "kind": "cross-validation",
        "fold": None,
        "held_out": "every patient, read by the network of the fold that has not seen it",
        "best_step": None,
        "runs": [run for part in parts for run in part.facts["runs"]],
    }
    return dataclasses.replace(first, tiles=TileTable.joined([p.tiles for p in parts]), facts=facts)


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


def _records_of(run: TrainedRun) -> Location:
    records = parse_location(run.data["records"])
    if not (records / MANIFEST).is_file():
        raise InputError(
            f"{run.path}: its records are no longer at {records}.",
            hint=f"Name the folder: vstain evaluate {run.path} DIR",
        )
    return records


def _write(folder: Path, name: str, read: _Read, figures: dict[str, Any], *, excel: bool) -> None:
    with output_errors(folder):
        (folder / "evaluation.json").unlink(missing_ok=True)  # the old one must not stand beside new predictions
    predictions = predictions_csv(read.tiles, read.rule)
    write_text(folder / "predictions.csv", BYTE_ORDER_MARK + predictions if excel else predictions)
    plots = draw_plots(read.tiles, figures, read.rule.definition)
    for picture in PICTURES:
        write_bytes(folder / picture, plots[picture])
    value = {
        "schema_version": SCHEMA_VERSION,
        "run": name,
        **read.facts,
        "value_definition": read.rule.definition.value,
        "unit": read.rule.definition.unit,
        "rule": {k: v for k, v in dataclasses.asdict(read.rule).items() if k != "definition"},
        "markers": figures,
    }
    write_text(folder / "evaluation.html", evaluation_html(value, plots))
    write_json(folder / "evaluation.json", value)  # last: where it stands, the rest is whole


def predictions_csv(tiles: TileTable, rule: ReadingRule) -> str:
    """One line a tile; empty where there is no value. Fractions or cells per mm², cells.

    Where a marker has intensities: counted cells (`label_class_`) and read shares (`class_`) of 1+, 2+ and 3+.
    """
    name = "ratio" if rule.definition.is_ratio else "cells_per_mm2"
    columns: tuple[str, ...] = (
        "pair", "patient_id", "marker", "col", "row", "tissue_fraction", "label_weight", "label_positive",
        "label_tumour_cells", f"label_{name}", name, "tumour_cells", "used", "fold",
    )  # fmt: skip
    with_intensities = any(parse_marker(m).has_intensities for m in set(tiles.marker.tolist()))
    if with_intensities:
        columns += tuple(f"{kind}{intensity}" for kind in ("label_class_", "class_") for intensity in (1, 2, 3))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    used, truth = used_tiles(tiles, rule), tiles.truth
    for i in range(len(tiles)):
        writer.writerow(
            [
                tiles.pair[i], tiles.patient[i], tiles.marker[i], tiles.col[i], tiles.row[i],
                f"{tiles.tissue_fraction[i]:.4f}", f"{tiles.weight[i]:g}", f"{tiles.positive[i]:.0f}",
                f"{tiles.cells[i]:.0f}", _number(truth[i]), _number(tiles.value[i]),
                f"{tiles.expected_cells[i]:.2f}", int(used[i]), tiles.fold[i],
                *([_number(v, ".0f") for v in tiles.intensities[i]] if with_intensities else []),
                *([_number(v) for v in tiles.intensity_shares[i]] if with_intensities else []),
            ]
        )  # fmt: skip
    return text.getvalue()


def _number(value: float, form: str = ".6f") -> str:
    return format(value, form) if np.isfinite(value) else ""
