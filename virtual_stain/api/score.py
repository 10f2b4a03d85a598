"""Scoring H&E slides."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtual_stain.api.arguments import (
    Mpp,
    OutputFolder,
    PathLike,
    Settings,
    Tracker,
    config_of,
    progress_of,
    slide_of,
)
from virtual_stain.api.frames import only, read_frame, show_picture
from virtual_stain.api.models import Model
from virtual_stain.config import Config
from virtual_stain.errors import InputError
from virtual_stain.files import read_json
from virtual_stain.scoring.inputs import ScoreInput
from virtual_stain.workflows.score_slides import ScoreOptions, score_slides

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

_SUFFIX = ".report.json"


@dataclass(frozen=True, slots=True)
class Report:
    """What a model reads on an H&E slide. Research use only."""

    value: dict[str, Any]
    """As in <stem>.report.json; docs/scoring.md explains every field."""
    stem: str
    """Beginning of the names of all its files."""
    _out: OutputFolder

    @property
    def folder(self) -> Path:
        """Where the files are; a temporary folder, gone with this object, where no `out` was given."""
        return self._out.path

    @property
    def html(self) -> Path:
        """The report as a page."""
        return self.folder / f"{self.stem}.report.html"

    @property
    def markers(self) -> tuple[str, ...]:
        """What was read: "ki67" …"""
        return tuple(self.value["readings"])

    def reading(self, marker: str | None = None) -> dict[str, Any]:
        """All readings of a marker; without a name, of the only one. Raises ValueError."""
        readings: dict[str, Any] = self.value["readings"]
        found: dict[str, Any] = readings[only(readings, marker, "marker")]
        return found

    @property
    def ratio(self) -> float | None:
        """The only marker's global reading in the unit of the model's value (0–1 for ratios); None: there is none."""
        value: float | None = self.reading()["global_ratio"]
        return value

    @property
    def top_mean(self) -> float | None:
        """Mean of the tiles that read highest, 30 by default: a hot-spot reading, biased upward."""
        value: float | None = self.reading()["top_mean"]
        return value

    @property
    def interval(self) -> tuple[float, float] | None:
        """In which the counted ratio lies, at the level that `reading()["interval"]` states; None: not estimated."""
        found = self.reading()["interval"]
        return None if found is None else (found["low"], found["high"])

    @property
    def flags(self) -> tuple[str, ...]:
        """What makes the reading doubtful, in short words."""
        return tuple(dict.fromkeys(flag for name in self.markers for flag in self.reading(name)["flags"]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """The same in sentences."""
        return tuple(str(warning["message"]) for warning in self.value["warnings"])

    def to_frame(self) -> pandas.DataFrame:
        """One row a tissue tile, the columns of <stem>.tiles.csv."""
        return read_frame(self.folder / f"{self.stem}.tiles.csv")

    def to_geojson(self) -> dict[str, Any]:
        """The tiles as QuPath reads them: a FeatureCollection."""
        value: dict[str, Any] = json.loads((self.folder / f"{self.stem}.geojson").read_text(encoding="utf-8"))
        return value

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draws the heat map on Matplotlib axes."""
        return show_picture(self.folder / f"{self.stem}.heatmap.png", axes, self.stem)


def score(
    slide: PathLike,
    model: Model | PathLike,
    *,
    mpp: Mpp = None,
    out: PathLike | None = None,
    trusted_key: PathLike | None = None,
    config: PathLike | Config | None = None,
    settings: Settings = None,
    jobs: int = 1,
    force: bool = False,
    progress: Tracker = None,
) -> Report:
    """Scores one H&E slide, as `vstain score` does. Research use only.

    Parameters
    ----------
    slide
        The H&E slide.
    model
        A loaded model, or what `load_model` takes. For many slides load it once.
    mpp
        µm per level-0 px, one number or (x, y), in place of what the file says.
    out
        Folder for the files. None: a temporary one.
    trusted_key
        Public key that the bundle must be signed with; a loaded model has been checked already.
    config, settings
        A TOML file, and single settings such as `{"scoring.top_n": 10}`.
    jobs
        Threads that read tiles.
    force
        Score again what is there.
    progress
        A function of (what, done, of how many), or True.

    Returns
    -------
    Report
        `ratio`, `interval`, `top_mean`, `flags`, `to_frame()`, `to_geojson()`, `plot()`, `html`.

    Raises
    ------
    InputError
        A slide that cannot be read, has no tissue or no pixel size.
    ModelError, VerificationError
        The model cannot be used, or answers no numbers.
    OutputError
        The folder cannot be written.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> report = vs.score("he.tiff", "model")
    >>> report.markers, 0 <= report.ratio <= 1
    (('ki67',), True)
    >>> len(report.to_frame()) == report.value["tiles"]["scored"]
    True
    """
    settled, folder, ref = config_of(config, settings), OutputFolder(out), slide_of(slide, mpp)
    options = ScoreOptions(
        model=model.address if isinstance(model, Model) else str(model),
        scoring=settled.scoring,
        tissue=settled.tissue,
        trusted_key=None if trusted_key is None else Path(trusted_key),
        jobs=jobs,
        force=force,
    )
    predictor = model.predictor if isinstance(model, Model) else None
    item = ScoreInput(ref, folder.path)
    scored = score_slides([item], options, predictor=predictor, progress=progress_of(progress))[0]
    if scored.report is None:  # score_slides raises the only slide's own error
        raise InputError(scored.outcome.reason)
    return Report(scored.report, item.stem, folder)


def load_report(path: PathLike) -> Report:
    """A report that `score` or `vstain score` has written.

    Parameters
    ----------
    path
        <stem>.report.json.

    Raises
    ------
    InputError
        There is none, or one that cannot be read.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> written = vs.score("he.tiff", "model", out="scored")
    >>> vs.load_report("scored/he.report.json").ratio == written.ratio
    True
    """
    file = Path(path)
    value = read_json(file, "a report of a scored slide")
    if not file.name.endswith(_SUFFIX) or not isinstance(value, dict) or "readings" not in value:
        raise InputError(f"{file}: expected <stem>{_SUFFIX} of a scored slide. Received: another file.")
    return Report(value, file.name.removesuffix(_SUFFIX), OutputFolder(file.parent))
