"""`vstain fit --learning-curve`: how many patients do I need? Cross-validations on nested subsets, and a power law."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from virtual_stain.config import Config
from virtual_stain.dataset.folds import FoldPlan, plan_folds
from virtual_stain.dataset.split import split_by_patient
from virtual_stain.errors import ConfigError
from virtual_stain.files import folder_lock, sha256_file, write_bytes, write_json
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import RunRecord, refuse_foreign_run
from virtual_stain.records.manifest import MANIFEST, read_manifest
from virtual_stain.remote import Location

COMMAND = "fit --learning-curve"
JSON, PICTURE = "learning_curve.json", "learning_curve.png"


def learning_curve(
    records_dir: Location,
    out: Path,
    config: Config,
    sizes: Sequence[int],
    *,
    n_folds: int | None = None,
    sites: Mapping[str, str] | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress = QUIET,
) -> list[str]:
    """Cross-validates `out`/patients-4, patients-8 … and writes learning_curve.json and .png; returns its sentences.

    `sizes`: numbers of training patients; of every fold the fewer are a part of the more, and the test and validation
    patients stay the same. Raises ConfigError for sizes that a fold cannot give, and what `fit` and `evaluate` raise.
    """
    from virtual_stain.evaluation.curve import LEVELS, CurvePoint, curve_figures, curve_plot, curve_sentence
    from virtual_stain.evaluation.evaluate import evaluate
    from virtual_stain.training.cross_validation import fit_cross_validated

    plan = plan_folds(read_manifest(records_dir), n_folds, sites)
    ordered = _checked(sizes, plan, records_dir, config)
    refuse_foreign_run(out, COMMAND)
    points = []
    with folder_lock(out):
        digest = sha256_file(records_dir / MANIFEST)
        record = RunRecord(COMMAND, config=config.to_dict(), inputs={MANIFEST: digest})
        record.extra = {"sizes": ordered, "n_folds": plan.n_folds}
        record.write(out, tensorflow=True)
        for size in ordered:
            progress.say(f"── {size} training patients")
            folder = out / f"patients-{size}"
            fit_cross_validated(
                records_dir, folder, _of_size(config, size),
                n_folds=plan.n_folds, sites=sites, resume=resume, force=force, progress=progress,
            )  # fmt: skip
            found = evaluate(folder, progress=progress)
            points.append(CurvePoint(size, found.tiles, found.rule))
        figures = {marker: curve_figures(points, marker) for marker in read_manifest(records_dir).markers}
        write_bytes(out / PICTURE, curve_plot(figures))
        write_json(out / JSON, {"schema_version": 1, "n_folds": plan.n_folds, "markers": figures})
    sentences = [curve_sentence(marker, level, found) for marker, found in figures.items() for level in LEVELS]
    return [*sentences, f"The plot: {out / PICTURE}"]


def asked_for(text: str, n_folds: int | None) -> list[int]:
    """`4,8,16` → numbers of patients. Raises ConfigError, also without a number of folds."""
    if n_folds is None:
        raise ConfigError("--learning-curve needs --cv K: an error is that of patients whom no network has seen.")
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--learning-curve: expected numbers of patients, as 4,8,16. Received: {text!r}") from None


def _of_size(config: Config, size: int) -> Config:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, max_patients=size))


def _checked(sizes: Sequence[int], plan: FoldPlan, records: Location, config: Config) -> list[int]:
    ordered = sorted(set(sizes))
    manifest = plan.apply(read_manifest(records))
    share = config.training.validation_patients
    splits = [split_by_patient(manifest, fold, share) for fold in range(plan.n_folds)]
    most = min(len({p.patient_id for p in split.train if p.n_ratio}) for split in splits)
    if len(ordered) < 3 or ordered[0] < 1 or ordered[-1] > most:
        raise ConfigError(
            f"--learning-curve: expected at least 3 different numbers of patients from 1 to {most}, which is what the "
            f"smallest training side of {plan.n_folds} folds holds. Received: {', '.join(map(str, sizes))}",
            hint="More folds (--cv) or a smaller training.validation_patients leave more to train on.",
        )
    return ordered
