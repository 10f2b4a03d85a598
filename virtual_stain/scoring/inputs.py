"""Which slides to score and where their results go; everything that can be refused is refused before work begins."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.errors import ConfigError, InputError
from virtual_stain.slides.slide import SlideRef
from virtual_stain.tables import find_file, parse_pixel_size, read_table

COLUMNS = ("slide", "mpp", "name")
SUFFIXES = (".ndpi", ".svs", ".tif", ".tiff", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
"""What counts as a slide in a folder; plain images and DICOM files (one slide is many of them) must be named."""


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
    slides: Sequence[Path], table: Path | None, *, out: Path | None, mpp: tuple[float, float] | None
) -> tuple[ScoreInput, ...]:
    """The slides of the command line and of the table, in this order; folders and patterns stand for what they hold.

    `out`: one folder for all results; None: `./<stem>-vstain` each. `mpp`: µm/px for every slide without its own in
    the table. Raises ConfigError (no slide at all, two of one stem), InputError (all bad rows at once).
    """
    refs = [SlideRef(path, mpp) for given in slides for path in expand(given)]
    if table is not None:
        refs += read_slide_table(table, mpp)
    if not refs:
        raise ConfigError("expected at least one slide.", hint="vstain score SLIDE… or --slides FILE.csv")
    _refuse_equal_stems(refs)
    return tuple(ScoreInput(ref, Path(f"{ref.stem}-vstain") if out is None else out) for ref in refs)


def expand(given: Path) -> list[Path]:
    """A slide as it is; a folder: every slide below it; a pattern (quoted from the shell): what it matches. Sorted.

    Hidden files and folders and the results of earlier runs are left out. Raises InputError where there is none.
    """
    if given.is_dir():
        found = [p for p in _files_below(given) if p.suffix.lower() in SUFFIXES and not _hidden(p, given)]
        what = f"no slide below this folder ({' '.join(SUFFIXES)})"
        hint = "Plain images and DICOM files must be named one by one, or in a table: --slides FILE.csv"
    elif not given.exists() and any(c in given.name for c in "*?["):
        found = [p for p in given.parent.glob(given.name) if p.is_file()]
        what, hint = "no file matches", "Put patterns in quotes, or let the shell expand them."
    else:
        return [given]
    if not found:
        raise InputError(f"{given}: {what}.", hint=hint)
    return sorted(found)


def _files_below(folder: Path) -> Iterator[Path]:
    """All files, also behind links to other folders; a loop of links ends where it began."""
    entered: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        status = Path(place).stat()
        identity = status.st_dev, status.st_ino
        if identity in entered:
            folders.clear()
            continue
        entered.add(identity)
        folders.sort()  # of two ways to a folder always the same one
        yield from (path for name in names if (path := Path(place) / name).is_file())


def _hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") or part.endswith("-vstain") for part in path.relative_to(below).parts)


def read_slide_table(path: Path, mpp: tuple[float, float] | None = None) -> list[SlideRef]:
    """`slide,mpp,name` (the last two may be missing or empty); slides relative to the table's folder.

    `mpp` is the default, in a row `0.25` or `0.25,0.26` (quoted). Raises InputError that lists every bad row with
    its line number.
    """
    table = read_table(path, "the table of slides")
    given = [name for name in table.names if name in COLUMNS]
    if "slide" not in given or len(set(given)) < len(given):
        raise InputError(
            f"{path}: expected the columns {','.join(COLUMNS)} (mpp and name may be left out). "
            f"Received: {','.join(table.header) or 'nothing'}"
        )
    _refuse_misspelt(path, table.names)
    refs: list[SlideRef] = []
    problems: list[str] = []
    for line, row in table.records():
        try:
            refs.append(_ref(row, path.parent, mpp))
        except ValueError as error:
            problems.append(f"line {line}: {error}")
    if not refs and not problems:
        problems.append("no rows below the header")
    if problems:
        raise InputError(f"{path}: the table has errors:\n" + "\n".join(f"  - {p}" for p in problems))
    return refs


def _refuse_misspelt(path: Path, names: Sequence[str]) -> None:
    """A column of notes is welcome, but a misspelt mpp must not be taken for one."""
    for name in names:
        close = difflib.get_close_matches(name, COLUMNS, n=1, cutoff=0.6)
        if name not in COLUMNS and close:
            raise InputError(f"{path}: unknown column {name!r}: did you mean {close[0]!r}?")


def _ref(row: Mapping[str, str], folder: Path, default: tuple[float, float] | None) -> SlideRef:
    if "…" in row:
        raise ValueError("more fields than columns; an mpp of two numbers must be quoted")
    values = {name: row.get(name, "") for name in COLUMNS}
    if not values["slide"]:
        raise ValueError("slide: expected a path. Received: nothing")
    name = values["name"] or None
    if name is not None and (name in (".", "..") or any(c in "/\\\0\n" for c in name)):
        raise ValueError(f"name: expected a file name without folders. Received: {name!r}")
    return SlideRef(find_file(folder, values["slide"]), _mpp(values["mpp"]) or default, name)


def _mpp(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        numbers = parse_pixel_size(text)
    except ValueError as error:
        raise ValueError(f"mpp: {error}") from None
    if not all(0 < n < 1e6 for n in numbers):
        raise ValueError(f"mpp: expected µm/px above 0. Received: {text!r}")
    return numbers


def _refuse_equal_stems(refs: Sequence[SlideRef]) -> None:
    by_stem: dict[str, list[str]] = {}
    for ref in refs:
        # file systems differ in whether they tell these apart; results that overwrite each other would be silent
        key = unicodedata.normalize("NFC", ref.stem).casefold()
        by_stem.setdefault(key, []).append(str(ref.path))
    twice = [paths for paths in by_stem.values() if len(paths) > 1]
    if twice:
        lines = "\n".join(f"  - {', '.join(paths)}" for paths in twice)
        raise ConfigError(
            f"expected slides of different names, since the results are named after them. Received:\n{lines}",
            hint="Give each a name in a table: --slides FILE.csv with the columns slide,mpp,name",
        )
