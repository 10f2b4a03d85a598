"""PAIRS.csv → slide pairs, checked as a whole: every bad row is reported at once, with its line number.

Messages name lines, never patients: they land in terminals and logs.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virtual_stain.errors import ConfigError, InputError, PairError
from virtual_stain.markers import Marker, parse_marker
from virtual_stain.patients import PatientKey, damaged_by_spreadsheet, normalised
from virtual_stain.slides.resolution import READING_RANGE, REGISTRATION_RANGE
from virtual_stain.slides.slide import SlideRef
from virtual_stain.tables import SURPLUS, find_file, has_decimal_comma, parse_pixel_size, read_table

REQUIRED = ("pair", "patient", "marker", "he", "ihc")
OPTIONAL = ("he_mpp", "ihc_mpp", "section", "fold", "he_roi", "ihc_roi")
_MPP = ("he_mpp", "ihc_mpp")
_TO_REGISTER = ("pair", "he", "ihc")  # of REQUIRED; patient, marker, folds and regions say nothing of where tissue lies
_MAX_NAME_BYTES = 100


@dataclass(frozen=True, slots=True)
class SlidePair:
    """What registration needs of a row."""

    pair: str
    he: SlideRef
    ihc: SlideRef
    line: int = 0
    """Line in the file, from 1."""
    section: int | None = None
    """Which of several sections on the IHC slide, from 1; None: the one that fits best."""


@dataclass(frozen=True, slots=True)
class StainPair:
    """One row of PAIRS.csv: two slides of the same block."""

    pair: str
    """Unique, and safe as the name of a file."""
    patient: str = field(repr=False)
    """As in the file; only its keyed hash goes any further."""
    marker: Marker
    he: SlideRef
    ihc: SlideRef
    fold: int | None = None
    he_roi: Path | None = None
    """Region of the tumour on the H&E slide: QuPath GeoJSON or a mask."""
    ihc_roi: Path | None = None
    line: int = 0
    """Line in the file, from 1."""
    section: int | None = None
    """Which of several sections on the IHC slide, from 1; None: the one that fits best."""


def read_pairs(path: Path, *, n_folds: int | None = None) -> tuple[StainPair, ...]:
    """Reads `pair,patient,marker,he,ihc[,he_mpp,ihc_mpp,section,fold,he_roi,ihc_roi]`; paths relative to the file.

    Separators comma, semicolon or tab; UTF-8 with or without BOM; empty lines are skipped. `n_folds`: also check the
    fold column against it. Raises PairError that lists every bad row.
    """
    problems: list[str] = []
    pairs: list[StainPair] = []
    for line, row in _rows(path, REQUIRED):
        found: list[str] = []
        pair = _parse_row(path.parent, line, row, n_folds, found)
        problems += [f"line {line}: {p}" for p in found]
        if pair is not None:
            pairs.append(pair)
    problems += _names_twice((p.pair, p.line) for p in pairs)
    problems += _slides_twice((p.he, p.ihc, (p.marker.value, p.section), p.line) for p in pairs)
    problems += damaged_by_spreadsheet((p.patient, p.line) for p in pairs)
    problems += _contradictions(pairs)
    _raise_if_any(path, problems, pairs)
    return tuple(pairs)


def read_slide_pairs(path: Path) -> tuple[SlidePair, ...]:
    """Reads `pair,he,ihc[,he_mpp,ihc_mpp,section]` of such a table, for registration alone: whatever the other columns
    hold, and at any pixel size at which two slides can be registered. Raises PairError that lists every bad row."""
    problems: list[str] = []
    pairs: list[SlidePair] = []
    for line, row in _rows(path, _TO_REGISTER):
        found: list[str] = []
        pair = _parse_slides(path.parent, line, row, _TO_REGISTER, REGISTRATION_RANGE, found)
        problems += [f"line {line}: {p}" for p in found]
        if pair is not None:
            pairs.append(pair)
    problems += _names_twice((p.pair, p.line) for p in pairs)
    problems += _slides_twice((p.he, p.ihc, p.section, p.line) for p in pairs)
    _raise_if_any(path, problems, pairs)
    return tuple(pairs)


def _raise_if_any(path: Path, problems: list[str], pairs: Sequence[StainPair | SlidePair]) -> None:
    if problems:
        problems.sort(key=lambda text: int(text.split(":")[0].split()[1]))
        raise PairError(
            f"{path}: {len(problems)} problem{'s' if len(problems) > 1 else ''}:\n"
            + "\n".join(f"  - {p}" for p in problems),
            hint="Correct these rows; nothing was started.",
        )
    if not pairs:
        raise PairError(f"{path}: expected at least one slide pair. Received a table without rows.")


def assign_folds(
    pairs: Sequence[StainPair], key: PatientKey, n_folds: int, earlier: Mapping[str, int] | None = None
) -> dict[str, int]:
    """patient_id → fold: the `fold` column where a row of the patient has one; the others are spread evenly, in the
    order of their hashes (by the hash alone, a fold of a small cohort would often stay empty).

    `earlier`: patient_id → fold of records that were built before: a patient's fold never changes when patients are
    added. `read_pairs` has refused a patient in two folds.
    """
    given: dict[str, int] = {}
    for pair in pairs:
        if pair.fold is not None:
            given[key.patient_id(pair.patient)] = pair.fold
    patients = list(dict.fromkeys(key.patient_id(pair.patient) for pair in pairs))
    folds = {p: f for p, f in (earlier or {}).items() if p in patients and 0 <= f < n_folds} | given
    filled = [list(folds.values()).count(fold) for fold in range(n_folds)]
    for patient in sorted(set(patients) - set(folds), key=_fold_hash):
        own = fold_of(patient, n_folds)
        folds[patient] = min(range(n_folds), key=lambda fold: (filled[fold], (fold - own) % n_folds))
        filled[folds[patient]] += 1
    return {patient: folds[patient] for patient in patients}


def fold_of(patient_id: str, n_folds: int) -> int:
    """The fold that a hashed patient falls into."""
    return _fold_hash(patient_id) % n_folds


def _fold_hash(patient_id: str) -> int:
    return int(hashlib.sha256(f"fold:{patient_id}".encode("ascii")).hexdigest()[:16], 16)


def _rows(path: Path, required: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(line, row) with lower-case column names and stripped values."""
    try:
        table = read_table(path)
    except InputError as error:
        raise PairError(error.message, hint=error.hint) from None
    if not table.header:
        raise PairError(f"{path}: the file is empty.", hint=f"Its first line is: {','.join(required)}")
    _check_columns(path, table.names, required)
    yield from table.records(decimals=_MPP)


def _check_columns(path: Path, names: list[str], required: Sequence[str]) -> None:
    problems = [f"column {name!r} is missing" for name in required if name not in names]
    problems += [
        f"column {name!r} stands there twice" for name in sorted({n for n in names if n and names.count(n) > 1})
    ]
    for name in names:
        if name in REQUIRED + OPTIONAL:
            continue
        # a column of notes is welcome, but a misspelt he_mpp must not be taken for one
        close = difflib.get_close_matches(name.replace(" ", "_"), REQUIRED + OPTIONAL, n=1, cutoff=0.75)
        if close:
            problems.append(f"unknown column {name!r}: did you mean {close[0]!r}?")
    if problems:
        raise PairError(
            f"{path}: the first line does not name the columns:\n" + "\n".join(f"  - {p}" for p in problems),
            hint=f"Its first line is: {','.join(required)}  (optional: {','.join(OPTIONAL)})",
        )


def _parse_row(
    folder: Path, line: int, row: Mapping[str, str], n_folds: int | None, problems: list[str]
) -> StainPair | None:
    """The pair of a row; None, and sentences in `problems`, when it is bad."""
    before = len(problems)
    slides = _parse_slides(folder, line, row, REQUIRED, READING_RANGE, problems)
    marker: Marker | None = None
    if row.get("marker"):
        try:
            marker = parse_marker(row["marker"])
        except ConfigError as error:
            problems.append(error.message)
    fold = _parse_fold(row.get("fold", ""), n_folds, problems)
    he_roi, ihc_roi = (_parse_path(folder, c, row.get(c, ""), problems) for c in ("he_roi", "ihc_roi"))
    if len(problems) > before or marker is None or slides is None:
        return None
    return StainPair(
        pair=slides.pair,
        patient=row["patient"],
        marker=marker,
        he=slides.he,
        ihc=slides.ihc,
        fold=fold,
        he_roi=he_roi,
        ihc_roi=ihc_roi,
        line=line,
        section=slides.section,
    )


def _parse_slides(
    folder: Path,
    line: int,
    row: Mapping[str, str],
    required: Sequence[str],
    mpp_range: tuple[float, float],
    problems: list[str],
) -> SlidePair | None:
    """Name and slides of a row; None, and sentences in `problems`, when they are bad."""
    before = len(problems)
    if SURPLUS in row:
        problems.append("more values than columns (a comma inside a value needs quotes)")
    for name in required:
        if not row.get(name):
            problems.append(f"{name} is empty")
    name = unicodedata.normalize("NFC", row.get("pair", ""))
    if name:
        problems += _name_problems(name)
    he_mpp, ihc_mpp = (_parse_mpp(c, row.get(c, ""), mpp_range, problems) for c in _MPP)
    he, ihc = (_parse_path(folder, c, row.get(c, ""), problems) for c in ("he", "ihc"))
    section = _parse_section(row.get("section", ""), problems)
    if he is not None and ihc is not None and _identity(he) == _identity(ihc):
        problems.append("he and ihc are the same file")
    if len(problems) > before or he is None or ihc is None:
        return None
    return SlidePair(name, SlideRef(he, he_mpp), SlideRef(ihc, ihc_mpp), line, section)


def _name_problems(name: str) -> list[str]:
    """Why a pair's name cannot be the name of a folder and of shards."""
    if not re.fullmatch(r"\w[\w.-]*", name) or ".." in name or name.endswith("."):
        return [f"pair: expected letters, digits, - _ and . only, as in case-01. Received: {name!r}"]
    if len(name.encode("utf-8")) > _MAX_NAME_BYTES:
        return [f"pair: expected at most {_MAX_NAME_BYTES} bytes. Received: {len(name.encode('utf-8'))}"]
    return []


def _parse_mpp(
    column: str, text: str, mpp_range: tuple[float, float], problems: list[str]
) -> tuple[float, float] | None:
    """`0.25` or `0.25,0.26` (x, y), µm/px."""
    if not text:
        return None
    values: tuple[float, float] | None = None
    with contextlib.suppress(ValueError):
        values = parse_pixel_size(text)
    if values is None or not all(mpp_range[0] <= v <= mpp_range[1] for v in values):
        comma = ": a decimal comma?" if has_decimal_comma(text) else ""
        problems.append(
            f"{column}: expected µm per px from {mpp_range[0]} to {mpp_range[1]}, with a decimal point (0.25, 8.0, or "
            f"x,y). Received: {text!r}{comma}"
        )
        return None
    return values


def _parse_fold(text: str, n_folds: int | None, problems: list[str]) -> int | None:
    if not text:
        return None
    highest = "" if n_folds is None else f" to {n_folds - 1}"
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or (n_folds is not None and int(text) >= n_folds):
        problems.append(f"fold: expected a whole number from 0{highest}. Received: {text!r}")
        return None
    return int(text)


def _parse_section(text: str, problems: list[str]) -> int | None:
    if text and not re.fullmatch(r"[1-9]", text, re.ASCII):
        problems.append(f"section: expected a number from 1 to 9, as registration.html counts them. Received: {text!r}")
        return None
    return int(text) if text else None


def _parse_path(folder: Path, column: str, text: str, problems: list[str]) -> Path | None:
    if not text:
        return None
    path = folder / text
    try:
        path = find_file(folder, text)
        found = path.is_file()
    except (OSError, ValueError):  # a name too long, or with a null byte
        found = False
    if not found:
        problems.append(f"{column}: no such file: {path}")
        return None
    return path


def _identity(path: Path) -> tuple[int, int]:
    """The same for two spellings of, or links to, one file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _names_twice(pairs: Iterable[tuple[str, int]]) -> list[str]:
    """Of (name, line)."""
    problems: list[str] = []
    names: dict[str, int] = {}
    for name, line in pairs:
        first = names.setdefault(name.casefold(), line)  # some file systems do not tell a from A
        if first != line:
            problems.append(f"line {line}: pair {name!r} is also in line {first}")
    return problems


def _slides_twice(pairs: Iterable[tuple[SlideRef, SlideRef, object, int]]) -> list[str]:
    """Of (H&E, IHC, what else tells rows apart, line): the same two slides under two names would count twice."""
    problems: list[str] = []
    seen: dict[tuple[object, ...], int] = {}
    for he, ihc, apart, line in pairs:
        first = seen.setdefault((_identity(he.path), _identity(ihc.path), apart), line)
        if first != line:
            problems.append(f"line {line}: the same two slides stand in line {first} under another name")
    return problems


def _contradictions(pairs: Iterable[StainPair]) -> list[str]:
    """What is wrong between rows, of patients."""
    problems: list[str] = []
    folds: dict[str, tuple[int, int]] = {}
    slides: dict[tuple[int, int], tuple[str, int]] = {}
    for pair in pairs:
        patient = normalised(pair.patient)
        if pair.fold is not None:
            fold, other = folds.setdefault(patient, (pair.fold, pair.line))
            if fold != pair.fold:
                problems.append(
                    f"line {pair.line}: a patient in two folds: fold {pair.fold} here, {fold} in line {other}"
                )
        for column, ref in (("he", pair.he), ("ihc", pair.ihc)):
            owner, other = slides.setdefault(_identity(ref.path), (patient, pair.line))
            if owner != patient:
                problems.append(f"line {pair.line}: {column} is the slide of another patient, in line {other}")
    return problems
