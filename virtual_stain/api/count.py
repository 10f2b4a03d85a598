"""Counting the cells of an IHC slide."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from virtual_stain.api.arguments import (
    Mpp,
    OutputFolder,
    PathLike,
    Settings,
    Tracker,
    config_of,
    progress_of,
    slide_of,
    written_picture,
)
from virtual_stain.api.frames import read_frame, show_picture
from virtual_stain.config import Config
from virtual_stain.markers import parse_marker
from virtual_stain.workflows.count_slide import CountRequest, count_slide
from virtual_stain.workflows.count_summary import title_of

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted on an IHC slide."""

    summary: dict[str, Any]
    """As in summary.json; docs/counting.md explains every field."""
    _out: OutputFolder

    @property
    def folder(self) -> Path:
        """Where the files are; a temporary folder, gone with this object, where no `out` was given."""
        return self._out.path

    @property
    def ratio(self) -> float | None:
        """Positive tumour cells of all tumour cells, 0–1; None where no tumour cell was counted."""
        value: float | None = self.summary["tumour"]["ratio"]
        return value

    @property
    def positive(self) -> int:
        """Positive tumour cells."""
        return int(self.summary["tumour"]["positive"])

    @property
    def negative(self) -> int:
        """Negative tumour cells."""
        return int(self.summary["tumour"]["nuclei"]) - self.positive

    @property
    def interval(self) -> tuple[float, float] | None:
        """The ratio when all doubtful cells are taken as negative, and as positive; None where that is not known.

        It says how much hangs on the cut-off. It is no confidence interval.
        """
        tumour = self.summary["tumour"]
        low, high = tumour.get("ratio_low"), tumour.get("ratio_high")
        return None if low is None or high is None else (low, high)

    @property
    def flags(self) -> tuple[str, ...]:
        """What makes the number doubtful, in short words."""
        return tuple(dict.fromkeys([*self.summary["trust"]["flags"], *self.summary["stain"]["flags"]]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """The same in sentences."""
        return tuple(self.summary["warnings"])

    def to_frame(self) -> pandas.DataFrame:
        """One row a cell, the columns of cells.csv."""
        return read_frame(self.folder / "cells.csv")

    def to_geojson(self) -> dict[str, Any]:
        """The cells as QuPath reads them: a FeatureCollection, px."""
        value: dict[str, Any] = json.loads((self.folder / "cells.geojson").read_text(encoding="utf-8"))
        return value

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draws the slide with its cells on Matplotlib axes."""
        return show_picture(self.folder / "overlay.jpg", axes, title_of(self.summary))


def count(
    slide: PathLike | npt.NDArray[np.uint8],
    marker: str,
    *,
    mpp: Mpp = None,
    roi: PathLike | None = None,
    cells: PathLike | None = None,
    out: PathLike | None = None,
    config: PathLike | Config | None = None,
    settings: Settings = None,
    jobs: int = 1,
    force: bool = False,
    progress: Tracker = None,
) -> Count:
    """Counts positive and negative tumour cells of an IHC slide, as `vstain count` does.

    Parameters
    ----------
    slide
        The IHC slide, a picture of a field, or its pixels: uint8[H, W, 3], RGB.
    marker
        "ki67", "er", "pr", "her2" or "pdl1".
    mpp
        µm per level-0 px, one number or (x, y), in place of what the file says. There is no default: a wrong pixel
        size gives a wrong count, so pixels, and files that say nothing, are refused without it.
    roi
        The tumour: QuPath's GeoJSON, or a mask of the scan. None: nuclei and their neighbourhood decide.
    cells
        Cells of another program, which are measured instead of looking for nuclei.
    out
        Folder for the files. None: a temporary one.
    config, settings
        A TOML file, and single settings such as `{"counting.value_definition": "positive_count"}`.
    jobs
        Processes. More than 1 needs a script with `if __name__ == "__main__":`.
    force
        Count again, and take over a folder of another count.
    progress
        A function of (what, done, of how many), or True.

    Returns
    -------
    Count
        `ratio` (0–1), `interval`, `flags`, `summary`, `to_frame()`, `to_geojson()`, `plot()`.

    Raises
    ------
    ConfigError
        An unknown marker or setting.
    ResolutionError
        No pixel size, or one that nuclei cannot be seen at.
    InputError
        A slide that cannot be read, without tissue, or whose stain is not DAB.
    OutputError
        The folder cannot be written, or holds another run.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> found = vs.count("ihc.tiff", "ki67")
    >>> 0 < found.ratio < 1, len(found.to_frame()) > 100
    (True, True)
    >>> pixels = vs.open_slide("ihc.tiff").read_level(0, 400, 400, (800, 800))
    >>> vs.count(pixels, "ki67", mpp=0.46).positive > 10
    True
    >>> low, high = found.interval
    >>> low <= found.ratio <= high
    True
    """
    folder = OutputFolder(out)
    with written_picture(slide, mpp) as path:
        summary = count_slide(
            CountRequest(
                slide=slide_of(path, mpp),
                marker=parse_marker(marker),
                out=folder.path,
                roi=None if roi is None else Path(roi),
                cells=None if cells is None else Path(cells),
            ),
            config_of(config, settings),
            jobs=jobs,
            force=force,
            progress=progress_of(progress),
        )
    return Count(summary, folder)
