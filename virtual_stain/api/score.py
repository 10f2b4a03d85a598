"""Scoring H&E slides."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtual_stain.api.arguments import (
    HasFolder,
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
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import ScoreOptions

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

_SUFFIX = ".report.json"


@dataclass(frozen=True, slots=True)
class Report(HasFolder):
    """The readings of a model on an H&E slide. Research use only."""

    value: dict[str, Any]
    """The content of `<stem>.report.json`. `docs/scoring.md` explains every field."""
    stem: str
    """Beginning of the names of all files of this report."""
    _out: OutputFolder

    @property
    def html(self) -> Path:
        """The report as a page."""
        return self.folder / f"{self.stem}.report.html"

    @property
    def markers(self) -> tuple[str, ...]:
        """Markers that were read, such as "ki67"."""
        return tuple(self.value["readings"])

    def reading(self, marker: str | None = None) -> dict[str, Any]:
        """All readings of a marker. The name may be left out if there is one marker. Raises ValueError."""
        readings: dict[str, Any] = self.value["readings"]
        found: dict[str, Any] = readings[only(readings, marker, "marker")]
        return found

    @property
    def ratio(self) -> float | None:
        """Global reading of the only marker, in the unit of the model (0–1 for ratios). None if there is no reading."""
        value: float | None = self.reading()["global_ratio"]
        return value

    @property
    def top_mean(self) -> float | None:
        """Mean of the highest tiles, 30 by default. It is a hot-spot reading and biased upward."""
        value: float | None = self.reading()["top_mean"]
        return value

    @property
    def interval(self) -> tuple[float, float] | None:
        """Interval of the counted ratio, at the level that `reading()["interval"]` states. None if not estimated."""
        found = self.reading()["interval"]
        return None if found is None else (found["low"], found["high"])

    @property
    def flags(self) -> tuple[str, ...]:
        """Reasons to doubt the reading, as short words."""
        return tuple(dict.fromkeys(flag for name in self.markers for flag in self.reading(name)["flags"]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to doubt the reading, as sentences."""
        return tuple(str(warning["message"]) for warning in self.value["warnings"])

    def to_frame(self) -> pandas.DataFrame:
        """A table with one row for each tissue tile and the columns of `<stem>.tiles.csv`."""
        return read_frame(self.folder / f"{self.stem}.tiles.csv")

    def to_geojson(self) -> dict[str, Any]:
        """The tiles as a GeoJSON FeatureCollection that QuPath reads."""
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
        A loaded model, or anything that `load_model` takes. For many slides, load the model once.
    mpp
        Pixel size in µm per level-0 px, one number or (x, y). It replaces what the file states.
    out
        Folder for the files. None: a temporary folder.
    trusted_key
        File of a public key. A bundle that was not signed with the matching private key is refused. A loaded model
        has been checked already.
    config, settings
        A TOML file, and single settings that change it, such as `{"scoring.top_n": 10}`.
    jobs
        Number of threads that read tiles.
    force
        Score again, even if the result is there.
    progress
        A function that is called as (what, done, total), or True for a bar on stderr. None: quiet.

    Returns
    -------
    Report
        `ratio`, `interval`, `top_mean`, `flags`, `to_frame()`, `to_geojson()`, `plot()`, `html`.

    Raises
    ------
    InputError
        The slide cannot be read, or it has no tissue or no pixel size.
    ModelError, VerificationError
        The model cannot be used, or its answers are not numbers.
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
    """Loads a report that `score` or `vstain score` has written.

    Parameters
    ----------
    path
        The file `<stem>.report.json`.

    Raises
    ------
    InputError
        There is no report, or it cannot be read.

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
