"""Training, evaluation and export. TensorFlow is loaded when one of the functions is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtual_stain.api.arguments import PathLike, Settings, Tracker, config_of, progress_of
from virtual_stain.api.frames import only, read_frame, show_picture
from virtual_stain.config import Config
from virtual_stain.errors import ConfigError
from virtual_stain.remote import parse_location

if TYPE_CHECKING:
    import keras
    import pandas
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Run:
    """A training run, or the runs of a cross-validation."""

    folder: Path
    verdict: str = ""
    """A sentence if the run has learned no more than the training mean, otherwise empty."""

    def keras_model(self) -> keras.Model:
        """The network with its best weights.

        It takes crops, uint8[B, C, C, 3], RGB, and returns {"ki67": float32[B], …}. Ratios are 0–1. Raises InputError
        if the folder holds no run, and ModelError if nothing has been validated yet.
        """
        from virtual_stain.training.run_dir import load_run as load

        model: keras.Model = load(self.folder).model
        return model

    def to_frame(self) -> pandas.DataFrame:
        """A table of the history, with a row every few steps and a row for each validation."""
        return read_frame(self.folder / "history.csv")


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The readings of a run on patients that it has never seen, with their figures."""

    folder: Path
    figures: dict[str, Any]
    """For each marker the content of evaluation.json. `docs/evaluation.md` explains every figure."""

    def tile_correlation(self, marker: str | None = None) -> float | None:
        """Pearson's r of the tiles within a patient, as a mean over patients. None if there is none."""
        value: float | None = self.figures[only(self.figures, marker, "marker")]["tiles"]["pearson_within_patient"]
        return value

    def to_frame(self) -> pandas.DataFrame:
        """A table with one row for each held-out tile and the columns of predictions.csv."""
        return read_frame(self.folder / "predictions.csv")

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draws the reading of each tile against its counted value on Matplotlib axes."""
        return show_picture(self.folder / "scatter.png", axes, "held-out tiles")


def fit(
    records: PathLike,
    out: PathLike,
    *,
    fold: int = 0,
    cross_validate: int | None = None,
    config: PathLike | Config | None = None,
    settings: Settings = None,
    resume: bool = False,
    force: bool = False,
    progress: Tracker = None,
) -> Run:
    """Trains a model on records, as `vstain fit` does. No patient is used for both training and testing.

    Parameters
    ----------
    records
        A folder of records, or s3://bucket/folder.
    out
        Folder of the run.
    fold
        The fold for testing. The next fold chooses the checkpoint, and the rest trains.
    cross_validate
        Number of folds of a cross-validation. Each is the test fold of a run of its own, and `fold` is not used.
    config, settings
        A TOML file (`configs/` holds recommended ones), and single settings such as `{"training.max_steps": 500}`.
    resume
        Continue an interrupted run.
    force
        Begin anew in the folder of another run.
    progress
        A function that is called as (what, done, total), or True for a bar on stderr. None: quiet.

    Raises
    ------
    ConfigError, InputError, VerificationError
        A setting, the records or their files are wrong. Raised before the first step.
    ModelError
        The pre-trained weights cannot be loaded, or the loss is not a number.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> run = vs.fit("records", "run", config="tiny.toml")
    >>> run.keras_model().input_shape
    (None, 64, 64, 3)
    """
    from virtual_stain.training.cross_validation import fit_cross_validated
    from virtual_stain.training.fit import fit as fit_one

    place, folder, settled = parse_location(str(records)), Path(out), config_of(config, settings)
    shown = progress_of(progress)
    if cross_validate is not None:
        results = fit_cross_validated(
            place, folder, settled, n_folds=cross_validate, resume=resume, force=force, progress=shown
        )
        return Run(folder, " ".join(dict.fromkeys(r.verdict for r in results if r.verdict)))
    done = fit_one(place, folder, settled, fold=fold, resume=resume, force=force, progress=shown)
    return Run(folder, done.verdict)


def load_run(folder: PathLike) -> Run:
    """Loads a run that `fit` or `vstain fit` has written. Its network is `load_run("run").keras_model()`.

    Raises
    ------
    InputError
        The folder holds no run.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> sorted(vs.load_run("run").keras_model().output)
    ['ki67', 'ki67_tumour_cells']
    """
    from virtual_stain.training.run_dir import read_run_json

    read_run_json(Path(folder))
    return Run(Path(folder))


def evaluate(
    run: Run | PathLike, records: PathLike | None = None, *, out: PathLike | None = None, progress: Tracker = None
) -> Evaluated:
    """Reads patients that the run has never seen and compares with their labels, as `vstain evaluate` does.

    Parameters
    ----------
    run
        A run or a cross-validation, or its folder.
    records
        Other records. They are refused if the run was trained on one of their patients. None: the test fold of the
        run's own records.
    out
        Folder for the files. None: the folder of the run.
    progress
        A function that is called as (what, done, total), or True for a bar on stderr. None: quiet.

    Raises
    ------
    InputError
        Some patients are not held out.
    ModelError, VerificationError, OutputError
        The weights, the shards or the folder cannot be used.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> list(vs.evaluate("run").figures)
    ['ki67']
    """
    from virtual_stain.evaluation.evaluate import evaluate as read

    place = None if records is None else parse_location(str(records))
    result = read(_folder(run), place, None if out is None else Path(out), progress=progress_of(progress))
    return Evaluated(result.folder, result.figures)


def export(
    run: Run | PathLike, out: PathLike, *, version: int | None = None, name: str | None = None, progress: Tracker = None
) -> Path:
    """Exports a run as the next version of a model, as `vstain export` does. Returns the folder of the version.

    Parameters
    ----------
    run
        A run, or its folder.
    out
        Folder of the model, which holds all its versions.
    version
        Version number, 1 or higher. None: the next free one. An existing version is never overwritten.
    name
        Name of the model in TF Serving. None: the name of `out`.
    progress
        A function that is called as (what, done, total), or True for a bar on stderr. None: quiet.

    Raises
    ------
    ConfigError, InputError, ModelError, OutputError
        The version is below 1 or exists already, or the folder holds no run or no weights.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> vs.export("run", "exported").name
    '1'
    """
    from virtual_stain.workflows.export_model import export_model

    if version is not None and version < 1:
        raise ConfigError(f"version: expected 1 or higher. Received: {version}")
    return export_model(_folder(run), Path(out), version=version, name=name, progress=progress_of(progress)).folder


def _folder(run: Run | PathLike) -> Path:
    return run.folder if isinstance(run, Run) else Path(run)
