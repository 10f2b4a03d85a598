"""Training, evaluation and export. TensorFlow is loaded when one of them is called."""

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
    """A sentence where the run has learned nothing that the training mean does not say."""

    def keras_model(self) -> keras.Model:
        """The network with its best weights: uint8[B, C, C, 3] RGB crops → {"ki67": float32[B], …}, 0–1 for ratios.

        Raises InputError where the folder holds no run, ModelError where nothing has been validated yet.
        """
        from virtual_stain.training.run_dir import load_run as load

        model: keras.Model = load(self.folder).model
        return model

    def to_frame(self) -> pandas.DataFrame:
        """The history: a row every few steps and one a validation."""
        return read_frame(self.folder / "history.csv")


@dataclass(frozen=True, slots=True)
class Evaluated:
    """How a run read patients that it has never seen."""

    folder: Path
    figures: dict[str, Any]
    """marker → what evaluation.json says; docs/evaluation.md explains every figure."""

    def tile_correlation(self, marker: str | None = None) -> float | None:
        """Pearson's r of the tiles within a patient, mean over patients; None where there is none."""
        value: float | None = self.figures[only(self.figures, marker, "marker")]["tiles"]["pearson_within_patient"]
        return value

    def to_frame(self) -> pandas.DataFrame:
        """One row a held-out tile, the columns of predictions.csv."""
        return read_frame(self.folder / "predictions.csv")

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draws read against counted tiles on Matplotlib axes."""
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
    """Trains a model on records, as `vstain fit` does. Patients are never on two sides.

    Parameters
    ----------
    records
        A folder of records, or s3://bucket/folder.
    out
        Folder of the run.
    fold
        Test fold; the next one chooses the checkpoint, the rest trains.
    cross_validate
        Number of folds, each of which is the test fold of a run of its own; `fold` is not used then.
    config, settings
        A TOML file (`configs/` holds recommended ones), and single settings such as `{"training.max_steps": 500}`.
    resume
        Go on with an interrupted run.
    force
        Begin anew in a folder of another run.
    progress
        A function of (what, done, of how many), or True.

    Raises
    ------
    ConfigError, InputError, VerificationError
        Before the first step.
    ModelError
        Weights that cannot be had, or a loss that is no number.

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
    told = progress_of(progress)
    if cross_validate is not None:
        results = fit_cross_validated(
            place, folder, settled, n_folds=cross_validate, resume=resume, force=force, progress=told
        )
        return Run(folder, " ".join(dict.fromkeys(r.verdict for r in results if r.verdict)))
    done = fit_one(place, folder, settled, fold=fold, resume=resume, force=force, progress=told)
    return Run(folder, done.verdict)


def load_run(folder: PathLike) -> Run:
    """A run that `fit` or `vstain fit` has written: `load_run("run").keras_model()` is its network.

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
    """Reads patients that the run has never seen, as `vstain evaluate` does.

    Parameters
    ----------
    run
        A run, a cross-validation, or the folder of one.
    records
        Other records, refused where a patient of them was trained on. None: the test fold of the run's own.
    out
        Folder for the files. None: the run's.
    progress
        A function of (what, done, of how many), or True.

    Raises
    ------
    InputError
        Patients that are not held out.
    ModelError, VerificationError, OutputError
        Weights, shards or a folder that cannot be used.

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
    """Exports a run as the next version of a model, as `vstain export` does; returns the version's folder.

    Parameters
    ----------
    run
        A run, or the folder of one.
    out
        The model's folder.
    version
        1 or higher; None: the next free one. A version that is there is never overwritten.
    name
        The model's name for TF Serving. None: the name of `out`.
    progress
        A function of (what, done, of how many), or True.

    Raises
    ------
    ConfigError, InputError, ModelError, OutputError
        A version below 1; a folder that holds no run or no weights; a version that is there.

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
