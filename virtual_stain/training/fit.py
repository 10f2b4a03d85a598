"""`vstain fit`: records → a run folder with the weights that the validation patients chose."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtual_stain.config import Config, TrainingSettings
from virtual_stain.dataset.folds import FoldPlan
from virtual_stain.dataset.pipeline import TrainingOrder, tile_batches, training_batches
from virtual_stain.dataset.shards import reading_errors, require_intensities, verify_ihc_shards, verify_shards
from virtual_stain.dataset.split import equal_labels
from virtual_stain.errors import ConfigError, InputError, ModelError
from virtual_stain.files import folder_lock, output_errors
from virtual_stain.model.build import BuildOptions, set_starting_outputs
from virtual_stain.model.of_path import network_of_path
from virtual_stain.model.precision import resolve_precision
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import RunRecord
from virtual_stain.records.duplicates import known_duplicates
from virtual_stain.records.verify import require_scale
from virtual_stain.remote import Location
from virtual_stain.training.distribution import Distribution, open_distribution
from virtual_stain.training.fit_svr import fit_svr
from virtual_stain.training.identity import claim, describe_data, drop_evaluation, other_code
from virtual_stain.training.inputs import RunInputs, read_inputs
from virtual_stain.training.loop import Job, Trainer
from virtual_stain.training.recipes import make_recipe
from virtual_stain.training.run_dir import RunDir, read_run_json
from virtual_stain.training.training_range import measure_training_range
from virtual_stain.training.verdict import verdict
from virtual_stain.training.watchdog import NAN_BATCH

_log = logging.getLogger("vstain.fit")

_BEGINNING, _GOING_ON, _FINISHED = 1.0, 2.0, 3.0  # what the first process tells the others


@dataclass(frozen=True, slots=True)
class FitResult:
    """How a run ended."""

    run_dir: Path
    steps: int
    best_step: int
    best_validation_loss: float
    seconds: float
    reason: str
    """Why it stopped, in words."""
    verdict: str = ""
    """A sentence where the validation patients were read hardly better than by the training mean."""


def fit(
    records_dir: Location,
    run_dir: Path,
    config: Config,
    *,
    fold: int = 0,
    plan: FoldPlan | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress = QUIET,
) -> FitResult:
    """Trains on the patients outside folds `fold` (test) and `fold` + 1 (validation); see docs/training.md.

    `plan`: other folds than the manifest's. A finished run of the same configuration and records is left as it is.
    Raises ConfigError, InputError, VerificationError (shards, tissue on two sides), ModelError (weights, NaN),
    OutputError (the folder is another run's), and KeyboardInterrupt after Ctrl-C, with everything saved.
    """
    together = open_distribution(config.training.distribute)  # before anything else of TensorFlow
    inputs = read_inputs(records_dir, config, fold, plan)
    paths = RunDir(run_dir)
    data = describe_data(records_dir, inputs.manifest, inputs.split, config.model.weights)
    if not together.chief:
        return _follow(inputs, paths, together, progress)
    with folder_lock(run_dir):
        record = claim(paths, config, data, resume=resume, force=force)
        if record is not None and other_code(record, data):
            progress.say(f"{run_dir}: other code than this version's began this run; --force begins anew.")
        data["equal_labels"] = equal_labels(inputs.manifest, inputs.split)
        for sentence in data["equal_labels"]:  # a fault of the data: told whatever is asked of progress
            _log.warning("%s", sentence)
        if record is not None and record.get("status") == "finished":
            together.of_chief(_FINISHED)
            progress.say(f"{run_dir}: this run is finished; nothing to do (--force begins anew).")
            return _result(run_dir, record["summary"])
        if inputs.other_tiling:
            progress.say(inputs.other_tiling)
        verify_shards(records_dir, inputs.split.train + inputs.split.validation, progress)
        if inputs.ihc is not None:
            verify_ihc_shards(records_dir, inputs.split.train)
            for pair in inputs.ihc.left_out:
                progress.say(f"{pair}: its two stains could not be told apart; its densities teach nothing.")
        require_scale(records_dir, inputs.manifest, inputs.split.train + inputs.split.validation)
        require_intensities(records_dir, inputs.split, inputs.spec.markers)
        data["duplicate_tissue"] = known_duplicates(records_dir, data["manifest_sha256"])
        if data["duplicate_tissue"] is None:
            progress.say(
                "Nobody has looked for the same tissue under two patients in these records: "
                f"vstain records verify {records_dir} does, and this run will say that it is not known."
            )
        data["training_range"] = (record or {"data": {}})["data"].get("training_range") or measure_training_range(
            records_dir, inputs.split.train, progress
        )
        if config.model.head == "svr":
            return _close_svr(_start_record(paths, config, data), paths, fit_svr(inputs, paths, progress))
        going_on = record is not None and paths.last.is_file()
        together.of_chief(_GOING_ON if going_on else _BEGINNING)
        trainer = Trainer(_job(inputs, paths, load_weights=not going_on, distribution=together), progress)
        if going_on:
            trainer.restore()
            progress.say(f"Going on from step {trainer.state.step}.")
        return _train(trainer, paths, config, data, records_dir)


def _follow(inputs: RunInputs, paths: RunDir, together: Distribution, progress: Progress) -> FitResult:
    """Another process than the first: trains its part of every batch, writes nothing. The folder must be shared."""
    told = together.of_chief(0.0)
    if told == _FINISHED:
        return _result(paths.path, read_run_json(paths.path)["summary"])
    trainer = Trainer(_job(inputs, paths, load_weights=told != _GOING_ON, distribution=together), progress)
    if told == _GOING_ON:
        trainer.restore()
    with reading_errors(inputs.records):
        reason = trainer.run()
    return _result(paths.path, _summary(trainer, reason))


def _require_equal_parts(settings: TrainingSettings, together: Distribution) -> None:
    size = settings.batch_size // settings.micro_batches
    if size % together.replicas:
        raise ConfigError(
            f"training: expected batches of {size} crops to divide evenly among {together.replicas} devices. "
            "Received: a remainder.",
            hint="Change training.batch_size or training.micro_batch_size.",
        )


def _job(inputs: RunInputs, paths: RunDir, *, load_weights: bool, distribution: Distribution | None = None) -> Job:
    together = distribution or Distribution()
    config, split, spec = inputs.config, inputs.split, inputs.spec
    settings = config.training
    steps_per_epoch = sum(p.n_records for p in split.train) / settings.batch_size
    recipe = make_recipe(settings, steps_per_epoch)
    options = BuildOptions(
        seed=settings.seed,
        precision=resolve_precision(settings.precision),
        freeze_batch_norm=recipe.freeze_batch_norm,
        load_weights=load_weights,
        value=inputs.value,
    )
    _require_equal_parts(settings, together)
    with together.strategy.scope():
        network = network_of_path(config.model, spec.markers, options)
        set_starting_outputs(network, inputs.constant_outputs)
    return Job(
        network=network,
        recipe=recipe,
        settings=settings,
        loss=inputs.loss,
        paths=paths,
        steps_per_epoch=steps_per_epoch,
        batches_from=lambda step: training_batches(
            inputs.records, split.train, spec, _order(config, step, together), inputs.ihc
        ),
        validation_tiles=tile_batches(
            inputs.records,
            split.validation,
            spec,
            inputs.validation_batch_tiles,
            max_tiles=settings.validation_tiles,
        ),
        constant=inputs.constant_outputs,
        augment=config.augment,
        distribution=together,
    )


def _order(config: Config, step: int, together: Distribution) -> TrainingOrder:
    return TrainingOrder(
        batch_size=config.training.batch_size,
        seed=config.training.seed,
        shuffle_tiles=config.training.shuffle_tiles,
        augment=config.augment,
        start_step=step,
        sampling=config.training.sampling,
        balance=config.training.balance,
        worker=together.worker,
        workers=together.workers,
    )


def _train(trainer: Trainer, paths: RunDir, config: Config, data: dict[str, Any], records: Location) -> FitResult:
    run = _start_record(paths, config, data)
    try:
        with reading_errors(records):
            reason = trainer.run()
    except KeyboardInterrupt:
        _close(run, paths, trainer, "interrupted", "interrupted; --resume goes on")
        raise
    except (InputError, ModelError) as error:
        _close(run, paths, trainer, "failed", error.message)
        raise
    return _result(paths.path, _close(run, paths, trainer, "finished", reason))


def _start_record(paths: RunDir, config: Config, data: dict[str, Any]) -> RunRecord:
    drop_evaluation(paths)
    with output_errors(paths.path):
        (paths.path / NAN_BATCH).unlink(missing_ok=True)  # of an earlier attempt
    run = RunRecord("fit", config=config.to_dict(), inputs={"manifest.json": data["manifest_sha256"]})
    run.extra = {"status": "running", "data": data}
    run.write(paths.path, tensorflow=True)
    return run


def _close_svr(run: RunRecord, paths: RunDir, summary: dict[str, Any]) -> FitResult:
    run.counts = {f"tiles_{side}": n for side, n in run.extra["data"]["n_tiles"].items()}
    run.durations_s = {"training": summary["seconds"]}
    run.extra |= {"status": "finished", "summary": summary}
    run.write(paths.path, tensorflow=True)
    return _result(paths.path, summary)


def _close(run: RunRecord, paths: RunDir, trainer: Trainer, status: str, reason: str) -> dict[str, Any]:
    state = trainer.state
    summary = _summary(trainer, reason)
    run.counts = {f"tiles_{side}": n for side, n in run.extra["data"]["n_tiles"].items()}
    run.durations_s = {"training": state.seconds}
    run.extra |= {"status": status, "summary": summary}
    run.write(paths.path, tensorflow=True)
    return summary


def _summary(trainer: Trainer, reason: str) -> dict[str, Any]:
    state = trainer.state
    found = verdict(state.best_loss, state.constant_loss, state.best_tile_r)
    return {
        "steps": state.step,
        "best_step": state.best_step,
        "best_validation_loss": state.best_loss,
        "constant_validation_loss": state.constant_loss,
        "learned": found.learned,
        "verdict": found.sentence,
        "seconds": round(state.seconds, 1),
        "precision": resolve_precision(trainer.job.settings.precision),
        "devices": trainer.job.distribution.replicas,
        "reason": reason,
    }


def _result(run_dir: Path, summary: dict[str, Any]) -> FitResult:
    return FitResult(
        run_dir=run_dir,
        steps=summary["steps"],
        best_step=summary["best_step"],
        best_validation_loss=summary["best_validation_loss"],
        seconds=summary["seconds"],
        reason=summary["reason"],
        verdict=summary.get("verdict", ""),
    )
