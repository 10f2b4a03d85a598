"""Which slides to score and where their results go; everything that can be refused is refused before work begins."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.errors import ConfigError, InputError
from virtual_stain.slides.slide import SlideRef

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
        found = [p for p in given.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and not _hidden(p, given)]
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


def _hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") or part.endswith("-vstain") for part in path.relative_to(below).parts)


def read_slide_table(path: Path, mpp: tuple[float, float] | None = None) -> list[SlideRef]:
    """`slide,mpp,name` (the last two may be missing or empty); slides relative to the table's folder.

    `mpp` is the default, in a row `0.25` or `0.25,0.26` (quoted). Raises InputError that lists every bad row with
    its line number.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Excel writes the mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a table of slides (CSV, UTF-8). It cannot be read: {error}") from None
    reader = csv.DictReader(text.splitlines(), restkey="", strict=True)
    refs: list[SlideRef] = []
    problems: list[str] = []
    try:
        header = [name.strip() for name in reader.fieldnames or ()]
        unknown = [name for name in header if name not in COLUMNS]
        if "slide" not in header or unknown or len(set(header)) < len(header):
            raise InputError(
                f"{path}: expected the columns {','.join(COLUMNS)} (mpp and name may be left out). "
                f"Received: {','.join(header) or 'nothing'}"
            )
        reader.fieldnames = header
        for row in reader:
            try:
                refs.append(_ref(row, path.parent, mpp))
            except ValueError as error:
                problems.append(f"line {reader.line_num}: {error}")
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: {error}")
    if not refs and not problems:
        problems.append("no rows below the header")
    if problems:
        raise InputError(f"{path}: the table has errors:\n" + "\n".join(f"  - {p}" for p in problems))
    return refs


def _ref(row: dict[str, str], folder: Path, default: tuple[float, float] | None) -> SlideRef:
    if "" in row:
        raise ValueError("more fields than columns; an mpp of two numbers must be quoted")
    values = {name: (row.get(name) or "").strip() for name in COLUMNS}
    if not values["slide"]:
        raise ValueError("slide: expected a path. Received: nothing")
    name = values["name"] or None
    if name is not None and (name in (".", "..") or any(c in "/\\\0\n" for c in name)):
        raise ValueError(f"name: expected a file name without folders. Received: {name!r}")
    return SlideRef(folder / values["slide"], _mpp(values["mpp"]) or default, name)


def _mpp(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 < n < 1e6 for n in numbers):
        raise ValueError(f"mpp: expected µm/px, one number or two as X,Y. Received: {text!r}")
    return numbers[0], numbers[-1]


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
