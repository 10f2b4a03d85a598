"""`vstain fit --cv K`: one run a fold, so that every patient is read once by a network that has never seen it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from virtual_stain.config import Config
from virtual_stain.dataset.folds import plan_folds, require_every_fold
from virtual_stain.errors import InputError, OutputError
from virtual_stain.files import folder_lock, read_json, sha256_file
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import RunRecord, refuse_foreign_run
from virtual_stain.records.manifest import MANIFEST, read_manifest
from virtual_stain.remote import Location
from virtual_stain.training.fit import FitResult, fit
from virtual_stain.training.identity import drop_evaluation
from virtual_stain.training.run_dir import RunDir

COMMAND = "fit --cv"


def fit_cross_validated(
    records_dir: Location,
    out: Path,
    config: Config,
    *,
    n_folds: int | None = None,
    sites: Mapping[str, str] | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress = QUIET,
) -> list[FitResult]:
    """Trains `out`/fold-0, fold-1 … and writes `out`/run.json; finished folds are left as they are.

    `n_folds`: None = the manifest's. `sites`: pair → site, whole sites then share a fold. Raises what `fit` and
    `plan_folds` raise, OutputError for a folder of another plan.
    """
    manifest = read_manifest(records_dir)
    plan = plan_folds(manifest, n_folds, sites)
    require_every_fold(plan.apply(manifest), config.training.validation_patients)
    digest = sha256_file(records_dir / MANIFEST)
    described = {"manifest_sha256": digest, "n_folds": plan.n_folds, "folds": plan.folds, "grouped": plan.grouped}
    refuse_foreign_run(out, COMMAND)
    if (out / "run.json").exists() and not force:
        before = read_json(out / "run.json", "the record of a cross-validation")
        changed = [key for key, value in described.items() if before.get(key) != value]
        if changed:
            raise OutputError(
                f"{out}: this folder holds a cross-validation that differs in {', '.join(changed)}.",
                hint="Choose another --out, or --force to begin anew here.",
            )
    with folder_lock(out):
        record = RunRecord(COMMAND, config=config.to_dict(), inputs={MANIFEST: digest})
        record.extra = {"status": "running", "runs": [_name(k) for k in range(plan.n_folds)]} | described
        record.write(out, tensorflow=True)
        if force or not all(_status(out / _name(k)) == "finished" for k in range(plan.n_folds)):
            drop_evaluation(RunDir(out))  # of networks that are about to be trained anew
        results = []
        for fold in range(plan.n_folds):
            progress.say(f"── fold {fold} of {plan.n_folds}")
            going_on = resume and (out / _name(fold) / "run.json").is_file()
            results.append(
                fit(
                    records_dir, out / _name(fold), config,
                    fold=fold, plan=plan, resume=going_on, force=force, progress=progress,
                )
            )  # fmt: skip
        record.extra["status"] = "finished"
        record.write(out, tensorflow=True)
    return results


def cross_validation_runs(folder: Path) -> list[Path] | None:
    """The runs below the folder of a cross-validation, fold by fold; None where it is no such folder.

    Raises InputError when a fold is not finished: figures over some patients would pass for all.
    """
    path = folder / "run.json"
    record: Any = read_json(path, "the record of a run") if path.is_file() else None
    if not isinstance(record, dict) or record.get("command") != COMMAND:
        return None
    runs = [folder / str(name) for name in record["runs"]]
    open_ones = [run.name for run in runs if _status(run) != "finished"]
    if open_ones:
        raise InputError(
            f"{folder}: expected every fold to be trained to its end. Received unfinished: {', '.join(open_ones)}",
            hint="Go on with it: the same vstain fit --cv command with --resume.",
        )
    return runs


def _status(run: Path) -> str:
    path = run / "run.json"
    return str(read_json(path, "the record of a run").get("status")) if path.is_file() else "missing"


def _name(fold: int) -> str:
    return f"fold-{fold}"
