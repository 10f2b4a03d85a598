"""Verdicts of people on tiles: `pair,col,row,label_id,verdict,reviewer,reason`, verdict accept, reject or skip.

A verdict is bound to the label it was given on (`label_id`): when pixels, transform or cells change it is stale, and
is reported instead of applied.
"""

from __future__ import annotations

import csv
import enum
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virtual_stain.errors import InputError
from virtual_stain.files import write_text
from virtual_stain.review.correction import Correction
from virtual_stain.tables import quote_formula, read_text, table_of, unquoted

COLUMNS = ("pair", "col", "row", "label_id", "verdict", "reviewer", "reason")
CORRECTION = "correction"
"""An eighth column, there only where somebody corrected cells (review/correction.py, as JSON)."""
TEMPLATE = "review-template.csv"
STALE = "review-stale.csv"


class Decision(enum.StrEnum):
    """What a person says about a tile's label."""

    ACCEPT = "accept"
    REJECT = "reject"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Place:
    """A tile, wherever its label stands."""

    pair: str
    col: int
    row: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """One filled row."""

    place: Place
    label_id: str
    decision: Decision
    reviewer: str
    reason: str = ""
    line: int = 0
    correction: Correction | None = None
    """Corrected cells; only with accept."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tile that may become a record if its label is accepted."""

    place: Place
    label_id: str


@dataclass(frozen=True, slots=True)
class Review:
    """Verdicts sorted into those that apply and those that do not."""

    applied: Mapping[Place, Verdict] = field(default_factory=dict)
    stale: tuple[Verdict, ...] = ()
    """Given on a label that has changed since, or on a tile that is gone."""
    earlier: tuple[Verdict, ...] = ()
    """Stale since an earlier run."""
    waiting: tuple[Verdict, ...] = ()
    """Of pairs that failed in this run: neither applied nor stale."""
    refused: frozenset[Place] = frozenset()
    """Places with a stale reject or skip: the waiver does not cover them, they need a new look."""

    def n_for(self, pair: str) -> int:
        """Tiles of a pair that have a verdict."""
        return sum(place.pair == pair for place in self.applied)


def read_verdicts(path: Path) -> tuple[Verdict, ...]:
    """The filled rows; rows with an empty verdict are still to do and are left out.

    Raises InputError that lists every bad row with its line number: a verdict is never guessed. Two rows on the same
    label are an error where they differ: a table is one reader's, or what was settled.
    """
    return _read(read_text(path, "the verdicts"), str(path), per_reader=False)


def parse_verdicts(text: str, name: str) -> tuple[Verdict, ...]:
    """The same of a table with several readers: what one says does not contradict another. `name` is for messages."""
    return _read(text, name, per_reader=True)


def _read(text: str, path: str, *, per_reader: bool) -> tuple[Verdict, ...]:
    problems: list[str] = []
    verdicts: list[Verdict] = []
    seen: dict[tuple[Place, str, str], Verdict] = {}
    for line, row in _rows(text, path):
        try:
            verdict = _parse(line, row)
        except ValueError as error:
            problems.append(f"line {line}: {error}")
            continue
        if verdict is None:
            continue
        reader = verdict.reviewer if per_reader else ""
        first = seen.setdefault((verdict.place, verdict.label_id, reader), verdict)
        if first.decision is verdict.decision and first.correction != verdict.correction:
            problems.append(f"line {line}: other corrected cells than line {first.line} of the same tile")
        elif first.decision is not verdict.decision:
            problems.append(
                f"line {line}: {verdict.decision.value}, but line {first.line} says {first.decision.value} "
                "of the same tile"
            )
        elif first is verdict:
            verdicts.append(verdict)
    if problems:
        raise InputError(
            f"{path}: {len(problems)} problem{'s' if len(problems) > 1 else ''}:\n"
            + "\n".join(f"  - {p}" for p in problems),
            hint=f"The columns are: {','.join(COLUMNS)}; verdict is accept, reject or skip. A table of several readers "
            "who differ is taken in with vstain review DIR --import FILE, and build-records then settles it.",
        )
    return tuple(verdicts)


def read_stale(folder: Path) -> tuple[Verdict, ...]:
    """What earlier runs found stale; a file that cannot be read is put aside as review-stale.1.csv, .2 …"""
    path = folder / STALE
    if not path.is_file():
        return ()
    try:
        return _every_verdict(path)
    except (InputError, ValueError):
        _put_aside(path)
        return ()


def apply_verdicts(
    verdicts: Iterable[Verdict],
    candidates: Iterable[Candidate],
    *,
    failed: Collection[str] = (),
    earlier: Iterable[Verdict] = (),
) -> Review:
    """A verdict applies where the label is still the one it was given on; those of `failed` pairs wait."""
    current = {c.place: c.label_id for c in candidates}
    applied: dict[Place, Verdict] = {}
    stale: list[Verdict] = []
    waiting: list[Verdict] = []
    for verdict in verdicts:
        if verdict.place.pair in failed:
            waiting.append(verdict)
        elif current.get(verdict.place) == verdict.label_id:
            applied[verdict.place] = verdict
        else:
            stale.append(verdict)
    before = tuple(earlier)
    refused = frozenset(v.place for v in (*before, *stale) if v.decision is not Decision.ACCEPT)
    return Review(applied, tuple(stale), before, tuple(waiting), refused)


def write_template(folder: Path, candidates: Sequence[Candidate], review: Review) -> Path:
    """Writes `folder`/review-template.csv: one row a tile, filled where a verdict applies or waits, and the stale ones
    beside, after those of earlier runs.

    A template in the way that holds verdicts which are in none of these is kept as review-template.1.csv, .2 …: a
    pathologist's work is never overwritten.
    """
    path = folder / TEMPLATE
    stale = list(dict.fromkeys(_filled(v) for v in (*review.earlier, *review.stale)))
    waiting = [_filled(v) for v in review.waiting]
    _keep_filled(path, {*(_filled(v) for v in review.applied.values()), *stale, *waiting})
    if review.stale:
        write_text(folder / STALE, _to_csv(stale))
    rows = []
    for candidate in candidates:
        verdict = review.applied.get(candidate.place)
        place = candidate.place
        blank = (place.pair, str(place.col), str(place.row), candidate.label_id, "", "", "")
        rows.append(blank if verdict is None else _filled(verdict))
    write_text(path, _to_csv([*rows, *waiting]))
    return path


def _every_verdict(path: Path) -> tuple[Verdict, ...]:
    """All filled rows, also where they say the same or the opposite of one tile; ValueError at the first bad one."""
    parsed = (_parse(line, row) for line, row in _rows(read_text(path, "the verdicts"), str(path)))
    return tuple(verdict for verdict in parsed if verdict is not None)


def _keep_filled(path: Path, known: Collection[tuple[str, ...]]) -> None:
    if not path.is_file():
        return
    try:
        lost = any(_filled(v) not in known for v in _every_verdict(path))
    except (InputError, ValueError):
        lost = True  # half filled, or not ours: keep it as well
    if lost:
        _put_aside(path)


def _put_aside(path: Path) -> None:
    number = 1
    while (kept := path.with_name(f"{path.stem}.{number}.csv")).exists():
        number += 1
    path.rename(kept)


def _filled(verdict: Verdict) -> tuple[str, ...]:
    place = verdict.place
    return (
        place.pair,
        str(place.col),
        str(place.row),
        verdict.label_id,
        verdict.decision.value,
        quote_formula(verdict.reviewer),
        quote_formula(verdict.reason),
        *(() if verdict.correction is None else (verdict.correction.to_json(),)),
    )


def _to_csv(rows: Iterable[Sequence[str]]) -> str:
    listed = list(rows)
    columns = (*COLUMNS, CORRECTION) if any(len(row) > len(COLUMNS) for row in listed) else COLUMNS
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([*row, *[""] * (len(columns) - len(row))] for row in listed)
    return stream.getvalue()


def _rows(text: str, path: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    table = table_of(text, path)
    missing = [name for name in COLUMNS if name not in table.names and name != "reason"]
    if missing:
        raise InputError(
            f"{path}: expected the columns {','.join(COLUMNS)}. Missing: {', '.join(missing)}",
            hint=f"vstain build-records writes {TEMPLATE} to fill in.",
        )
    yield from table.records()


def _parse(line: int, row: Mapping[str, str]) -> Verdict | None:
    text = row.get("verdict", "").lower()
    if not text:
        return None
    try:
        decision = Decision(text)
    except ValueError:
        raise ValueError(f"verdict: expected accept, reject or skip. Received: {text!r}") from None
    for name in ("col", "row"):
        if not re.fullmatch(r"\d{1,9}", row.get(name, ""), re.ASCII):
            raise ValueError(f"{name}: expected a whole number. Received: {row.get(name, '')!r}")
    if not re.fullmatch(r"[0-9a-f]{32}", row.get("label_id", "")):
        raise ValueError(f"label_id: expected 32 hex digits, as in the template. Received: {row.get('label_id', '')!r}")
    if not row.get("reviewer"):
        raise ValueError("reviewer is empty: a verdict without a name cannot be answered for")
    correction = Correction.parse(row[CORRECTION]) if row.get(CORRECTION) else None
    if correction is not None and decision is not Decision.ACCEPT:
        raise ValueError(f"{CORRECTION}: expected corrected cells only where the verdict is accept")
    place = Place(row["pair"], int(row["col"]), int(row["row"]))
    texts = (unquoted(row["reviewer"]), unquoted(row.get("reason", "")))
    return Verdict(place, row["label_id"], decision, *texts, line, correction)
