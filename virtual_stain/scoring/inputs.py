"""Which slides to score and where their results go; everything that can be refused is refused before work begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.errors import ConfigError
from virtual_stain.slides.collection import TABLES, expand, found_slides, read_table_of_slides, refuse_equal_names
from virtual_stain.slides.slide import SlideRef

__all__ = ["COLUMNS", "ScoreInput", "collect_inputs", "expand", "read_slide_table"]

Say = Callable[[str], None]
COLUMNS = ("slide", "mpp", "name")


@dataclass(frozen=True, slots=True)
class ScoreInput:
    """One slide and the folder of its results."""

    ref: SlideRef
    folder: Path

    @property
    def stem(self) -> str:
        """Beginning of all file names of its results."""
        return self.ref.stem


def collect_inputs(
    slides: Sequence[Path],
    table: Path | None,
    *,
    out: Path | None,
    mpp: tuple[float, float] | None,
    say: Say = lambda _: None,
) -> tuple[ScoreInput, ...]:
    """The slides of the command line and of the tables, in this order; folders and patterns stand for what they hold.

    A .csv or .tsv among `slides` is a table, too.
    `out`: one folder for all results; None: `./<stem>-vstain` each. `mpp`: µm/px for every slide without its own in
    the table. `say` is told which files of a folder are left out.

    Raises ConfigError (no slide at all, two of one stem), InputError (all bad rows at once).
    """
    tables = [] if table is None else [table]
    refs: list[SlideRef] = []
    for given in slides:
        if given.suffix.lower() in TABLES:
            tables.append(given)
        else:
            refs += found_slides(given, say, mpp=mpp)
    refs += [ref for path in tables for ref in read_slide_table(path, mpp)]
    if not refs:
        raise ConfigError("expected at least one slide.", hint="vstain score SLIDE… or --slides FILE.csv")
    refuse_equal_names(refs)
    return tuple(ScoreInput(ref, Path(f"{ref.stem}-vstain") if out is None else out) for ref in refs)


def read_slide_table(path: Path, mpp: tuple[float, float] | None = None) -> list[SlideRef]:
    """`slide,mpp,name` (the last two may be missing or empty); slides relative to the table's folder.

    `mpp` is the default, in a row `0.25` or `0.25,0.26` (quoted). Raises InputError that lists every bad row with
    its line number.
    """
    return list(read_table_of_slides(path, COLUMNS, mpp).refs)
