"""PAIRS.csv → slide pairs, checked as a whole: every bad row is reported at once, with its line number.

Messages name lines, never patients: they land in terminals and logs.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virtual_stain.errors import ConfigError, PairError
from virtual_stain.markers import Marker, parse_marker
from virtual_stain.patients import PatientKey, normalised
from virtual_stain.slides.slide import SlideRef

REQUIRED = ("pair", "patient", "marker", "he", "ihc")
OPTIONAL = ("he_mpp", "ihc_mpp", "fold", "he_roi", "ihc_roi")
_EXAMPLE = "pair,patient,marker,he,ihc"
_MAX_NAME_BYTES = 100
_MPP = (0.05, 2.0)  # µm/px at which cells can be read


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


def read_pairs(path: Path, *, n_folds: int | None = None) -> tuple[StainPair, ...]:
    """Reads `pair,patient,marker,he,ihc[,he_mpp,ihc_mpp,fold,he_roi,ihc_roi]`; paths relative to the file.

    Separators comma, semicolon or tab; UTF-8 with or without BOM; empty lines are skipped. `n_folds`: also check the
    fold column against it. Raises PairError that lists every bad row.
    """
    rows = list(_rows(path))
    problems: list[str] = []
    pairs: list[StainPair] = []
    for line, row in rows:
        found: list[str] = []
        pair = _parse_row(path.parent, line, row, n_folds, found)
        problems += [f"line {line}: {p}" for p in found]
        if pair is not None:
            pairs.append(pair)
    problems += _contradictions(pairs)
    if problems:
        problems.sort(key=lambda text: int(text.split(":")[0].split()[1]))
        raise PairError(
            f"{path}: {len(problems)} problem{'s' if len(problems) > 1 else ''}:\n"
            + "\n".join(f"  - {p}" for p in problems),
            hint="Correct these rows; nothing was started.",
        )
    if not pairs:
        raise PairError(f"{path}: expected at least one slide pair. Received a table without rows.")
    return tuple(pairs)


def assign_folds(pairs: Sequence[StainPair], key: PatientKey, n_folds: int) -> dict[str, int]:
    """patient_id → fold: the `fold` column where a row of the patient has one, else from the hashed patient.

    A patient's own fold never changes when patients are added. `read_pairs` has refused a patient in two folds.
    """
    given: dict[str, int] = {}
    for pair in pairs:
        if pair.fold is not None:
            given[key.patient_id(pair.patient)] = pair.fold
    return {
        patient: given.get(patient, fold_of(patient, n_folds))
        for patient in (key.patient_id(pair.patient) for pair in pairs)
    }


def fold_of(patient_id: str, n_folds: int) -> int:
    """The fold that a hashed patient falls into."""
    return int(hashlib.sha256(f"fold:{patient_id}".encode("ascii")).hexdigest()[:16], 16) % n_folds


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(line, row) with lower-case column names and stripped values."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PairError(f"{path}: the table of pairs cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise PairError(
            f"{path}: expected UTF-8 text. Received: {error}", hint='Save the table as "CSV UTF-8".'
        ) from None
    lines = text.splitlines(keepends=True)
    start = next((i for i, line in enumerate(lines) if line.strip() and not line.lower().startswith("sep=")), None)
    if start is None:
        raise PairError(f"{path}: the file is empty.", hint=f"Its first line is: {_EXAMPLE}")
    head = lines[start]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO("".join(lines[start:]), newline=""), delimiter=delimiter, strict=True)
    try:
        names = _column_names(path, next(reader))
        before = reader.line_num
        for values in reader:
            line, before = start + before + 1, reader.line_num
            if any(v.strip() for v in values):
                if len(values) > len(names) and any(v.strip() for v in values[len(names) :]):
                    values = [*values[: len(names)], "…"]
                yield line, {**dict(zip([*names, "…"], (v.strip() for v in values), strict=False))}
    except csv.Error as error:
        raise PairError(f"{path}: line {start + reader.line_num}: not valid CSV: {error}") from None


def _column_names(path: Path, header: list[str]) -> list[str]:
    names = [h.strip().lower() for h in header]
    problems = [f"column {name!r} is missing" for name in REQUIRED if name not in names]
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
            hint=f"Its first line is: {_EXAMPLE}  (optional: {','.join(OPTIONAL)})",
        )
    return names


def _parse_row(
    folder: Path, line: int, row: Mapping[str, str], n_folds: int | None, problems: list[str]
) -> StainPair | None:
    """The pair of a row; None, and sentences in `problems`, when it is bad."""
    before = len(problems)
    if "…" in row:
        problems.append("more values than columns (a comma inside a value needs quotes)")
    for name in REQUIRED:
        if not row.get(name):
            problems.append(f"{name} is empty")
    name = unicodedata.normalize("NFC", row.get("pair", ""))
    if name:
        problems += _name_problems(name)
    marker: Marker | None = None
    if row.get("marker"):
        try:
            marker = parse_marker(row["marker"])
        except ConfigError as error:
            problems.append(error.message)
    he_mpp = _parse_mpp("he_mpp", row.get("he_mpp", ""), problems)
    ihc_mpp = _parse_mpp("ihc_mpp", row.get("ihc_mpp", ""), problems)
    fold = _parse_fold(row.get("fold", ""), n_folds, problems)
    files = {c: _parse_path(folder, c, row.get(c, ""), problems) for c in ("he", "ihc", "he_roi", "ihc_roi")}
    he, ihc = files["he"], files["ihc"]
    if he is not None and ihc is not None and _identity(he) == _identity(ihc):
        problems.append("he and ihc are the same file")
    if len(problems) > before or marker is None or he is None or ihc is None:
        return None
    return StainPair(
        pair=name,
        patient=row["patient"],
        marker=marker,
        he=SlideRef(he, he_mpp),
        ihc=SlideRef(ihc, ihc_mpp),
        fold=fold,
        he_roi=files["he_roi"],
        ihc_roi=files["ihc_roi"],
        line=line,
    )


def _name_problems(name: str) -> list[str]:
    """Why a pair's name cannot be the name of a folder and of shards."""
    if not re.fullmatch(r"\w[\w.-]*", name) or ".." in name or name.endswith("."):
        return [f"pair: expected letters, digits, - _ and . only, as in case-01. Received: {name!r}"]
    if len(name.encode("utf-8")) > _MAX_NAME_BYTES:
        return [f"pair: expected at most {_MAX_NAME_BYTES} bytes. Received: {len(name.encode('utf-8'))}"]
    return []


def _parse_mpp(column: str, text: str, problems: list[str]) -> tuple[float, float] | None:
    """`0.25` or `0.25,0.26` (x, y), µm/px."""
    if not text:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(_MPP[0] <= v <= _MPP[1] for v in values):
        problems.append(
            f"{column}: expected µm per px from {_MPP[0]} to {_MPP[1]}, with a decimal point (0.25, or x,y). "
            f"Received: {text!r}"
        )
        return None
    return values[0], values[-1]


def _parse_fold(text: str, n_folds: int | None, problems: list[str]) -> int | None:
    if not text:
        return None
    highest = "" if n_folds is None else f" to {n_folds - 1}"
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or (n_folds is not None and int(text) >= n_folds):
        problems.append(f"fold: expected a whole number from 0{highest}. Received: {text!r}")
        return None
    return int(text)


def _parse_path(folder: Path, column: str, text: str, problems: list[str]) -> Path | None:
    if not text:
        return None
    path = folder / text
    try:
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


def _contradictions(pairs: Iterable[StainPair]) -> list[str]:
    """What is wrong between rows."""
    problems: list[str] = []
    names: dict[str, int] = {}
    folds: dict[str, tuple[int, int]] = {}
    slides: dict[tuple[int, int], tuple[str, int]] = {}
    for pair in pairs:
        first = names.setdefault(pair.pair.casefold(), pair.line)  # some file systems do not tell a from A
        if first != pair.line:
            problems.append(f"line {pair.line}: pair {pair.pair!r} is also in line {first}")
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
