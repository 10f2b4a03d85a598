"""Registering an H&E slide with its IHC slide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
)
from virtual_stain.api.frames import show_picture
from virtual_stain.config import Config
from virtual_stain.errors import InputError
from virtual_stain.registration.landmarks import read_pair_landmarks
from virtual_stain.registration.result import Registration
from virtual_stain.registration.store import read_registration
from virtual_stain.workflows.pair_registration import OVERLAY
from virtual_stain.workflows.register_files import RegistrationJob, register_files

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class PairRegistration(HasFolder):
    """A registered pair: where each place of the H&E slide lies on the IHC slide, with the estimated error."""

    details: Registration
    """The whole result, with transform and evidence."""
    _out: OutputFolder

    @property
    def verdict(self) -> str | None:
        """ "accept", "review" or "reject". None if a pixel size is missing."""
        return None if self.details.verdict is None else self.details.verdict.value

    @property
    def error_median_um(self) -> float | None:
        """Estimated median error over the tissue, µm. None if it is not known."""
        return self.details.error_median_um

    @property
    def error_p95_um(self) -> float | None:
        """Estimated 95th percentile of the error over the tissue, µm. None if it is not known."""
        return self.details.error_p95_um

    @property
    def flags(self) -> tuple[str, ...]:
        """Findings about the pair, as short words. `docs/registration.md` explains them."""
        return self.details.flags

    def to_ihc(self, he_px0: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Maps points of the H&E slide to the IHC slide: level-0 px (x, y) in, float64[N, 2] level-0 px out."""
        return self.details.transform.to_ihc(he_px0)

    def to_he(self, ihc_px0: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Maps points of the IHC slide to the H&E slide, as the inverse of `to_ihc`. NaN where there is no inverse."""
        return self.details.transform.to_he(ihc_px0)

    def errors_um_at(self, he_px0: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Estimated error at points of the H&E slide, µm: (median, 95th percentile), float64[N] each.

        Infinite where nothing is known. Raises InputError if a pixel size is missing.
        """
        if self.details.he_mpp is None or self.details.ihc_mpp is None:
            raise InputError("a pixel size is missing: errors are not known in µm.", hint="Give mpp_he and mpp_ihc.")
        return self.details.evidence.errors_at(he_px0)

    def to_frame(self) -> pandas.DataFrame:
        """A table with one row for each held-out window.

        Columns: `x_px0` and `y_px0` on the H&E slide, `distance`, and `recognised` (0–1).
        """
        import pandas

        evidence = self.details.evidence
        return pandas.DataFrame(
            {
                "x_px0": evidence.centres_px0[:, 0],
                "y_px0": evidence.centres_px0[:, 1],
                "distance": evidence.distances,
                "recognised": evidence.trust,
            }
        )

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draws both slides over each other on Matplotlib axes."""
        median = self.error_median_um
        known = "no error known" if median is None else f"median error {median:.1f} µm"
        return show_picture(self.folder / OVERLAY, axes, f"{self.verdict or 'no verdict'}, {known}")


def register(
    he: PathLike,
    ihc: PathLike,
    *,
    mpp_he: Mpp = None,
    mpp_ihc: Mpp = None,
    landmarks: PathLike | None = None,
    out: PathLike | None = None,
    config: PathLike | Config | None = None,
    settings: Settings = None,
    force: bool = False,
    progress: Tracker = None,
) -> PairRegistration:
    """Registers a pair of slides, as `vstain register` does. A rejected pair is returned too, with its verdict.

    Parameters
    ----------
    he, ihc
        The H&E slide and the IHC slide.
    mpp_he, mpp_ihc
        Pixel sizes in µm per level-0 px, one number or (x, y) each. They replace what the files state.
    landmarks
        CSV with the columns `he_x,he_y,ihc_x,ihc_y` (level-0 px). The search starts from these points.
    out
        Folder for the files. None: a temporary folder.
    config, settings
        A TOML file, and single settings that change it, such as `{"registration.review_median_um": 50.0}`.
    force
        Register again, even if the result is there. Also take over the folder of another pair.
    progress
        A function that is called as (what, done, total), or True for a bar on stderr. None: quiet.

    Returns
    -------
    PairRegistration
        `verdict`, `error_median_um`, `error_p95_um`, `flags`, `to_ihc(points)`, `to_he(points)`, `plot()`.

    Raises
    ------
    InputError
        A slide cannot be read or has no tissue, or the landmarks cannot be read.
    OutputError
        The folder cannot be written, or holds another run.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> pair = vs.register("he.tiff", "ihc.tiff")
    >>> pair.verdict, pair.error_median_um < 30
    ('accept', True)
    >>> pair.to_ihc([[600.0, 700.0]]).shape
    (1, 2)
    """
    folder = OutputFolder(out)
    job = RegistrationJob(
        he=slide_of(he, mpp_he),
        ihc=slide_of(ihc, mpp_ihc),
        out=folder.path,
        config=config_of(config, settings),
        force=force,
        landmarks=None if landmarks is None else read_pair_landmarks(Path(landmarks)),
    )
    return PairRegistration(register_files(job, progress_of(progress)), folder)


def load_registration(folder: PathLike) -> PairRegistration:
    """Loads a registration that `register` or `vstain register` has written.

    Parameters
    ----------
    folder
        The folder that was given as `out`, or `work/<pair>` in a folder of records.

    Raises
    ------
    InputError
        There is no registration, or it cannot be read.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> vs.register("he.tiff", "ihc.tiff", out="registered").verdict
    'accept'
    >>> vs.load_registration("registered").verdict
    'accept'
    """
    return PairRegistration(read_registration(Path(folder)), OutputFolder(folder))
