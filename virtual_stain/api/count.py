"""Counting the cells of an IHC slide."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

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
    written_picture,
)
from virtual_stain.api.frames import read_frame, show_picture
from virtual_stain.config import Config
from virtual_stain.markers import parse_marker
from virtual_stain.workflows.count_slide import CountRequest, count_slide
from virtual_stain.workflows.count_words import headline_of

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Count(HasFolder):
    """The counted cells of an IHC slide."""

    summary: dict[str, Any]
    """The content of summary.json. `docs/counting.md` explains every field."""
    _out: OutputFolder

    @property
    def ratio(self) -> float | None:
        """Positive tumour cells / all tumour cells, 0–1. None if no tumour cell was counted."""
        value: float | None = self.summary["tumour"]["ratio"]
        return value

    @property
    def positive(self) -> int:
        """Number of positive tumour cells."""
        return int(self.summary["tumour"]["positive"])

    @property
    def negative(self) -> int:
        """Number of negative tumour cells."""
        return int(self.summary["tumour"]["nuclei"]) - self.positive

    @property
    def interval(self) -> tuple[float, float] | None:
        """The ratio if all doubtful cells are taken as negative, and if all are taken as positive. None if not known.

        It shows how much the ratio depends on the cut-off. It is not a confidence interval.
        """
        tumour = self.summary["tumour"]
        low, high = tumour.get("ratio_low"), tumour.get("ratio_high")
        return None if low is None or high is None else (low, high)

    @property
    def flags(self) -> tuple[str, ...]:
        """Reasons to doubt the ratio, as short words."""
        return tuple(dict.fromkeys([*self.summary["trust"]["flags"], *self.summary["stain"]["flags"]]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to doubt the ratio, as sentences."""
        return tuple(self.summary["warnings"])

    def to_frame(self) -> pandas.DataFrame:
        """A table with one row for each cell and the columns of cells.csv."""
        return read_frame(self.folder / "cells.csv")

    def to_geojson(self) -> dict[str, Any]:
        """The cells as a GeoJSON FeatureCollection that QuPath reads; coordinates in px."""
        value: dict[str, Any] = json.loads((self.folder / "cells.geojson").read_text(encoding="utf-8"))
        return value

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draws the slide with its cells on Matplotlib axes."""
        return show_picture(self.folder / "overlay.jpg", axes, headline_of(self.summary))


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
        The IHC slide, a picture of a field of view, or its pixels as uint8[H, W, 3], RGB.
    marker
        "ki67", "er", "pr", "her2" or "pdl1".
    mpp
        Pixel size in µm per level-0 px, one number or (x, y). It replaces what the file states. There is no default,
        because a wrong pixel size gives a wrong count. Without it, pixels and files that state no pixel size are
        refused.
    roi
        Outline of the tumour: GeoJSON from QuPath, or a mask of the scan. None: the nuclei and their neighbourhood
        decide which cells are tumour cells.
    cells
        Cells that another program has found. They are measured, and no nuclei are looked for.
    out
        Folder for the files. None: a temporary folder.
    config, settings
        A TOML file, and single settings that change it, such as `{"counting.value_definition": "positive_count"}`.
    jobs
        Number of processes. More than 1 needs a script with `if __name__ == "__main__":`.
    force
        Count again, even if the result is there. Also take over the folder of another count.
    progress
        A function that is called as (what, done, total), or True for a bar on stderr. None: quiet.

    Returns
    -------
    Count
        `ratio` (0–1), `interval`, `flags`, `summary`, `to_frame()`, `to_geojson()`, `plot()`.

    Raises
    ------
    ConfigError
        The marker or a setting is unknown.
    ResolutionError
        There is no pixel size, or nuclei cannot be seen at this pixel size.
    InputError
        The slide cannot be read, has no tissue, or its stain is not DAB.
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
