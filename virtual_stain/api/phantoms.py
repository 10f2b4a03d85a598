"""Synthetic slide pairs of which everything is known, for trying things out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtual_stain.api.arguments import PathLike, Tracker, progress_of
from virtual_stain.api.frames import read_frame
from virtual_stain.config.phantom import PhantomSettings, settings_from_options
from virtual_stain.errors import ConfigError
from virtual_stain.phantom.cohort import write_cohort

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True)
class Phantoms:
    """A folder of phantom pairs."""

    folder: Path
    pairs_csv: Path
    """The table of pairs that `build_records` takes."""

    @property
    def he(self) -> tuple[Path, ...]:
        """The H&E slides, pair by pair."""
        return tuple(sorted(self.folder.glob("slides/*_he.*")))

    @property
    def ihc(self) -> tuple[Path, ...]:
        """The IHC slides, in the same order."""
        return tuple(sorted(self.folder.glob("slides/*_ihc.*")))

    def to_frame(self) -> pandas.DataFrame:
        """A table with one row for each pair and the columns of pairs.csv."""
        return read_frame(self.pairs_csv)


def make_phantom(
    out: PathLike,
    *,
    pairs: int = 1,
    size_mm: float = 2.2,
    marker: str = "ki67",
    seed: int = 0,
    jobs: int = 1,
    force: bool = False,
    progress: Tracker = None,
    **options: Any,
) -> Phantoms:
    """Makes H&E/IHC slide pairs with complete truth, as `vstain phantom` does.

    Parameters
    ----------
    out
        Folder for `slides/`, `truth/` and `pairs.csv`.
    pairs
        Number of slide pairs. Each is a patient of its own.
    size_mm
        Side of the tissue, mm.
    marker
        "ki67", "er", "pr", "her2" or "pdl1".
    seed
        The same seed and options give the same bytes.
    jobs
        Number of processes. More than 1 needs a script with `if __name__ == "__main__":`.
    force
        Replace pairs that were made with other settings.
    progress
        A function that is called as (what, done, total), or True for a bar on stderr. None: quiet.
    **options
        Fields of `PhantomSettings`, such as `he_mpp=0.25`, `mode="restain"`, `hard=True`, `lab="tinted"`.

    Raises
    ------
    ConfigError
        An option is unknown, or a value is out of range.
    OutputError
        The folder cannot be written, or it holds pairs that were made with other settings.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> phantoms = vs.make_phantom("phantoms", size_mm=0.4)
    >>> [path.name for path in phantoms.he + phantoms.ihc]
    ['p001_he.tiff', 'p001_ihc.tiff']
    """
    unknown = sorted(set(options) - {f.name for f in dataclasses.fields(PhantomSettings)})
    if unknown:
        raise ConfigError(f"phantom: unknown options: {', '.join(unknown)}")
    artefacts = options.pop("artefacts", ())
    words = artefacts if isinstance(artefacts, str) else ",".join(artefacts)
    settings = settings_from_options(
        {"pairs": pairs, "size_mm": size_mm, "marker": marker, "seed": seed, "artefacts": words, **options}
    )
    table = write_cohort(Path(out), settings, jobs=jobs, force=force, progress=progress_of(progress))
    return Phantoms(Path(out), table)
