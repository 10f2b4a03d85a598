"""`DIR/review.sqlite`: one row a decision, never changed and never removed.

Undo is a row of its own that names the row it takes back. Every write is one transaction, synced before the caller is
answered (WAL, synchronous = FULL): a kill between two verdicts loses none. Readers never wait for writers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import time
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.database import connection, require_ours, transaction
from virtual_stain.database import create as create_database
from virtual_stain.errors import InputError
from virtual_stain.review.correction import Correction
from virtual_stain.review.verdicts import Decision, Place, Verdict

DATABASE = "review.sqlite"
_VERSION = 1
_WHAT = "verdicts"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS decision (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time_unix_s REAL NOT NULL,
    reviewer TEXT NOT NULL,
    pair TEXT NOT NULL,
    col INTEGER NOT NULL,
    row INTEGER NOT NULL,
    label_id TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('accept', 'reject', 'skip', 'undo')),
    reason TEXT NOT NULL DEFAULT '',
    correction TEXT NOT NULL DEFAULT '',
    undoes INTEGER REFERENCES decision (id),
    batch INTEGER,
    origin TEXT NOT NULL DEFAULT 'page',
    request_id TEXT UNIQUE
) STRICT;
CREATE INDEX IF NOT EXISTS decision_place ON decision (pair, col, row);
CREATE INDEX IF NOT EXISTS decision_undoes ON decision (undoes) WHERE undoes IS NOT NULL;
CREATE TRIGGER IF NOT EXISTS decision_is_final BEFORE UPDATE ON decision
    BEGIN SELECT RAISE(ABORT, 'a decision is never overwritten'); END;
CREATE TRIGGER IF NOT EXISTS decision_is_kept BEFORE DELETE ON decision
    BEGIN SELECT RAISE(ABORT, 'a decision is never removed'); END;
"""
_FIELDS = "id, time_unix_s, reviewer, pair, col, row, label_id, verdict, reason, correction, undoes, batch, origin"
_STANDS = "NOT EXISTS (SELECT 1 FROM decision u WHERE u.undoes = d.id)"


class RepeatedRequestError(InputError):
    """A decision under the id of another one: taken for a repetition, it would be lost."""


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """One row."""

    id: int
    time_unix_s: float
    verdict: Verdict
    batch: int | None
    """Id of the first row of the batch it was part of."""
    origin: str
    """page, batch, csv or geojson."""


class ReviewStore:
    """Verdicts in SQLite; safe from several threads and processes: every call has a connection of its own."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Raises InputError (not ours, or none and `create` is off), OutputError (cannot be written)."""
        self.path = path
        if not create and not path.is_file():
            raise InputError(f"{path}: no such file.", hint="vstain review DIR makes it.")
        if create:
            create_database(path, _WHAT, _SCHEMA, _VERSION)
        else:
            require_ours(path, _WHAT, _SCHEMA, _VERSION)

    def add(self, verdicts: Sequence[Verdict], *, origin: str = "page", request_id: str | None = None) -> list[int]:
        """Appends decisions in one transaction, synced to disk when it returns; their ids.

        `request_id`: of a single decision; one that is there already, sent again because its answer was lost, is not
        written twice. Raises OutputError; RepeatedRequestError where it stood with another decision.
        """
        now = time.time()
        with self._connection(write=True) as db, transaction(db):
            if request_id is not None:
                query = f"SELECT {_FIELDS} FROM decision WHERE request_id = ?"
                known = db.execute(query, (request_id,)).fetchone()
                if known is not None:
                    if [_stored(known).verdict] != [dataclasses.replace(v, line=0) for v in verdicts]:
                        raise RepeatedRequestError("this request_id was given with another decision before.")
                    return [known["id"]]
            ids: list[int] = []
            for verdict in verdicts:
                batch = (ids[0] if ids else None) if origin == "batch" else None
                ids.append(_insert(db, now, verdict, origin, batch, request_id))
            return ids

    def undo(self, reviewer: str) -> list[Verdict]:
        """Takes the reviewer's latest decision back (a batch as a whole); what was taken back, [] if there is nothing.

        Imported decisions stay: they were not made here.
        """
        with self._connection(write=True) as db, transaction(db):
            last = db.execute(
                f"SELECT {_FIELDS} FROM decision d WHERE reviewer = ? AND verdict != 'undo' AND origin IN "
                f"('page', 'batch') AND {_STANDS} ORDER BY id DESC LIMIT 1",
                (reviewer,),
            ).fetchone()
            if last is None:
                return []
            rows = [last]
            if last["origin"] == "batch":
                first = last["batch"] or last["id"]
                rows = db.execute(
                    f"SELECT {_FIELDS} FROM decision WHERE (id = ? OR batch = ?)", (first, first)
                ).fetchall()
            now = time.time()
            for row in rows:
                db.execute(
                    "INSERT INTO decision (time_unix_s, reviewer, pair, col, row, label_id, verdict, undoes) "
                    "VALUES (?, ?, ?, ?, ?, ?, 'undo', ?)",
                    (now, reviewer, row["pair"], row["col"], row["row"], row["label_id"], row["id"]),
                )
            return [_stored(row).verdict for row in rows]

    def decisions(self, place: Place | None = None) -> list[StoredDecision]:
        """What stands, of all tiles or of one: every decision that was not taken back, oldest first."""
        where, values = f"verdict != 'undo' AND {_STANDS}", tuple[object, ...]()
        if place is not None:
            where, values = where + " AND pair = ? AND col = ? AND row = ?", (place.pair, place.col, place.row)
        with self._connection() as db:
            rows = db.execute(f"SELECT {_FIELDS} FROM decision d WHERE {where} ORDER BY id", values).fetchall()
        return [_stored(row) for row in rows]

    def changed_places(self, after: int) -> list[Place]:
        """Tiles about which anything was written, taken back included, in rows beyond the id `after`."""
        with self._connection() as db:
            rows = db.execute("SELECT DISTINCT pair, col, row FROM decision WHERE id > ?", (after,)).fetchall()
        return [Place(*row) for row in rows]

    def last_id(self) -> int:
        """Id of the newest row, undo included: it changes whenever anything does."""
        with self._connection() as db:
            return int(db.execute("SELECT coalesce(max(id), 0) FROM decision").fetchone()[0])

    def _connection(self, *, write: bool = False) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        return connection(self.path, _WHAT, write=write)


def clean_name(text: str) -> str:
    """A reviewer's name in one spelling: NFC, single spaces. Raises ValueError when nothing is left."""
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not name or len(name) > 100 or any(unicodedata.category(c).startswith("C") for c in name):
        raise ValueError("reviewer: expected a name of 1 to 100 printable characters")
    return name


def _insert(
    db: sqlite3.Connection, now: float, verdict: Verdict, origin: str, batch: int | None, request_id: str | None
) -> int:
    place = verdict.place
    correction = "" if verdict.correction is None else verdict.correction.to_json()
    cursor = db.execute(
        "INSERT INTO decision (time_unix_s, reviewer, pair, col, row, label_id, verdict, reason, correction, batch, "
        "origin, request_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            now,
            verdict.reviewer,
            place.pair,
            place.col,
            place.row,
            verdict.label_id,
            verdict.decision.value,
            verdict.reason,
            correction,
            batch,
            origin,
            request_id,
        ),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _stored(row: sqlite3.Row) -> StoredDecision:
    correction = Correction.parse(row["correction"]) if row["correction"] else None
    try:
        decision = Decision(row["verdict"])
    except ValueError:
        raise InputError(
            f"decision {row['id']}: expected a verdict. Received: {row['verdict']!r:.80}: the database is damaged.",
            hint="Restore review.sqlite from a copy, or from the CSV that review writes.",
        ) from None
    verdict = Verdict(
        Place(row["pair"], row["col"], row["row"]),
        row["label_id"],
        decision,
        row["reviewer"],
        row["reason"],
        correction=correction,
    )
    return StoredDecision(row["id"], row["time_unix_s"], verdict, row["batch"], row["origin"])


def standing(decisions: Iterable[StoredDecision]) -> list[StoredDecision]:
    """The latest decision of every reviewer on every label, oldest first."""
    latest: dict[tuple[str, Place, str], StoredDecision] = {}
    for decision in decisions:
        verdict = decision.verdict
        latest[(verdict.reviewer, verdict.place, verdict.label_id)] = decision
    return sorted(latest.values(), key=lambda d: d.id)
