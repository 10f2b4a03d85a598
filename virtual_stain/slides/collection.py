"""Slides from folders, patterns and tables: one way for every verb that takes many, and names that cannot collide."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from virtual_stain.errors import ConfigError, InputError
from virtual_stain.slides.endings import DICOM, IMAGES, SCANS, left_out_text
from virtual_stain.slides.slide import SlideRef
from virtual_stain.tables import SURPLUS, find_file, parse_pixel_size, read_table

Say = Callable[[str], None]
Row = Mapping[str, str]

TABLES = frozenset({".csv", ".tsv"})
"""Endings of tables in the place of a slide."""
_RESULTS = ("overlay.ome.tif", "aligned.ome.tif")
"""Pictures of ours that look like slides."""


def expand(given: Path, say: Say = lambda _: None, *, images: bool = False) -> list[Path]:
    """A slide as it is; a folder: every slide below it; a pattern (quoted from the shell): what it matches. Sorted.

    Hidden files and folders, results of earlier runs and what is no slide are left out; `say` is told how many and
    which. `images`: also plain images, whose pixel size is known. Raises InputError where there is none.
    """
    if given.is_dir():
        linked: list[Path] = []
        below = list(_files_below(given, linked))
        there = [p for p in below if not _hidden(p, given)]
        found = [p for p in there if not _is_our_picture(p) and _is_taken(p, images=images)]
        left_out = [(p, _why_left_out(p)) for p in sorted(set(there) - set(found))]
        left_out += [(p, "hidden, or below a folder of results") for p in sorted(set(below) - set(there))]
        if left_out:
            say(left_out_text(given, len(found), left_out))
        if linked:
            say(f"{given}: linked folders that were read already: {', '.join(map(str, linked))}")
        what = f"no slide below this folder ({' '.join(sorted(SCANS))})"
        hint = "Plain images and DICOM files must be named one by one, or in a table: --slides FILE.csv"
    elif not given.exists() and any(c in given.name for c in "*?["):
        found = [p for p in given.parent.glob(given.name) if p.is_file()]
        what, hint = "no file matches", "Put patterns in quotes, or let the shell expand them."
    else:
        return [given]
    if not found:
        raise InputError(f"{given}: {what}.", hint=hint)
    return sorted(found)


def found_slides(given: Path, say: Say = lambda _: None, *, mpp: tuple[float, float] | None) -> list[SlideRef]:
    """What `given` stands for. Slides of one folder or pattern that have one name are told apart by their folders."""
    paths = expand(given, say, images=mpp is not None)
    return told_apart([SlideRef(path, mpp) for path in paths])


def told_apart(refs: Sequence[SlideRef]) -> list[SlideRef]:
    """Slides of one name get those of their folders in front: a/001.svs and b/001.svs are a-001 and b-001.

    As many folders as it takes. Slides that cannot be told apart so (a.svs and a.tif in one folder) keep one name.
    """
    done = list(refs)
    for depth in range(1, max((len(r.path.parts) for r in refs), default=1)):
        taken = Counter(name_key(r.stem) for r in done)
        same = [i for i, r in enumerate(done) if taken[name_key(r.stem)] > 1]
        if not same:
            break
        for i in same:
            parts = [p for p in refs[i].path.parts[-1 - depth : -1] if p not in (os.sep, "..", ".")]
            done[i] = replace(refs[i], name="-".join([*parts, refs[i].stem]))
    return done


def name_key(name: str) -> str:
    """Names of one key may be one file: file systems differ in whether they tell capitals and accents apart."""
    return unicodedata.normalize("NFC", name).casefold()


def refuse_equal_names(refs: Iterable[SlideRef]) -> None:
    """Raises ConfigError where two slides have one name: results that overwrite each other would be silent."""
    by_name: dict[str, list[str]] = {}
    for ref in refs:
        by_name.setdefault(name_key(ref.stem), []).append(str(ref.path))
    twice = [paths for paths in by_name.values() if len(paths) > 1]
    if twice:
        lines = "\n".join(f"  - {', '.join(paths)}" for paths in twice)
        raise ConfigError(
            f"expected slides of different names, since the results are named after them. Received:\n{lines}",
            hint="Give each a name in a table: --slides FILE.csv with the columns slide,mpp,name",
        )


@dataclass(frozen=True, slots=True)
class TableOfSlides:
    """The rows of a table of slides: each slide, and what else its row says."""

    refs: tuple[SlideRef, ...]
    rows: tuple[Row, ...]


def read_table_of_slides(
    path: Path, columns: Sequence[str], mpp: tuple[float, float] | None, check: Callable[[Row], None] = lambda _: None
) -> TableOfSlides:
    """`columns`: those that the verb knows; slide alone must be there. Slides are relative to the table's folder.

    `mpp` is the default, in a row `0.25` or `0.25,0.26` (quoted). `check` raises ValueError for a bad row. Raises
    InputError that lists every bad row with its line number.
    """
    table = read_table(path, "the table of slides")
    given = [name for name in table.names if name in columns]
    if "slide" not in given or len(set(given)) < len(given):
        raise InputError(
            f"{path}: expected the columns {','.join(columns)} (all but slide may be left out). "
            f"Received: {','.join(table.header) or 'nothing'}"
        )
    _refuse_misspelt(path, table.names, columns)
    refs: list[SlideRef] = []
    rows: list[Row] = []
    problems: list[str] = []
    for line, row in table.records(decimals=("mpp",)):
        values = {name: row.get(name, "") for name in columns}
        try:
            refs.append(_ref(row, path.parent, mpp))
            check(values)
        except ValueError as error:
            problems.append(f"line {line}: {error}")
        rows.append(values)
    if not refs and not problems:
        problems.append("no rows below the header")
    if problems:
        raise InputError(f"{path}: the table has errors:\n" + "\n".join(f"  - {p}" for p in problems))
    return TableOfSlides(tuple(refs), tuple(rows))


def _refuse_misspelt(path: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    """A column of notes is welcome, but a misspelt mpp must not be taken for one."""
    for name in names:
        close = difflib.get_close_matches(name, columns, n=1, cutoff=0.6)
        if name not in columns and close:
            raise InputError(f"{path}: unknown column {name!r}: did you mean {close[0]!r}?")


def _ref(row: Row, folder: Path, default: tuple[float, float] | None) -> SlideRef:
    if SURPLUS in row:
        raise ValueError("more fields than columns; an mpp of two numbers must be quoted")
    slide, mpp, name = (row.get(column, "") for column in ("slide", "mpp", "name"))
    if not slide:
        raise ValueError("slide: expected a path. Received: nothing")
    if name and (name in (".", "..") or any(c in "/\\\0\n" for c in name)):
        raise ValueError(f"name: expected a file name without folders. Received: {name!r}")
    return SlideRef(find_file(folder, slide), _mpp(mpp) or default, name or None)


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


def _is_taken(path: Path, *, images: bool) -> bool:
    ending = path.suffix.lower()
    return ending in SCANS or (images and ending in IMAGES and not _is_result(path))


def _is_our_picture(path: Path) -> bool:
    return path.name in _RESULTS and _is_result(path)


def _is_result(path: Path) -> bool:
    return (path.parent / "run.json").is_file()


def _why_left_out(path: Path) -> str:
    ending = path.suffix.lower()
    if _is_result(path):
        return "results of an earlier run"
    if ending in IMAGES:
        return "plain images: name them, or give their pixel size with --mpp"
    return "DICOM: many files are one slide, name one of them" if ending in DICOM else "no slides"


def _files_below(folder: Path, linked: list[Path]) -> Iterator[Path]:
    """All files, also behind links to other folders, each folder once; `linked` gets the other ways to one."""
    entered: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        status = Path(place).stat()
        identity = status.st_dev, status.st_ino
        if identity in entered:
            folders.clear()
            linked.append(Path(place))
            continue
        entered.add(identity)
        names_of_slides = {Path(name).stem for name in names if name.lower().endswith(".mrxs")}
        folders[:] = [folder for folder in folders if folder not in names_of_slides]  # a slide's own parts
        folders.sort()  # of two ways to a folder always the same one
        yield from (path for name in names if (path := Path(place) / name).is_file())


def _hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") or part.endswith("-vstain") for part in path.relative_to(below).parts)
