"""SQLite files that several processes write: write-ahead log, every transaction synced before the caller goes on.

Every call has a connection of its own: threads and processes need no lock of ours, and readers never wait for writers.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from virtual_stain.errors import InputError, OutputError

_BUSY_S = 30.0


@contextlib.contextmanager
def connection(path: Path, what: str, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """An open database; `what` it holds is for messages. Raises OutputError, InputError (not a database)."""
    try:
        uri = f"{path.absolute().as_uri()}?mode={'rwc' if write else 'ro'}"
        opened = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        with contextlib.closing(opened) as db:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA trusted_schema = OFF")  # a file from elsewhere may hold triggers of its own
            if write:
                db.execute("PRAGMA synchronous = FULL")
            yield db
    except sqlite3.OperationalError as error:
        raise OutputError(
            f"{path}: {what} cannot be {'written' if write else 'read'}: {error}.",
            hint="Is the disk full, the folder read-only, or on a network drive that cannot lock files?",
        ) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite's own message may quote damaged text
        raise InputError(f"{path}: expected {what} (SQLite). Received something else: {error}") from error


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; takes the write lock at once, so that what is read inside still holds when it is written."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def create(path: Path, what: str, schema: str, version: int) -> None:
    """Makes the tables where the file is new. Raises InputError for a file of another version, OutputError."""
    with connection(path, what, write=True) as db:
        found = int(db.execute("PRAGMA user_version").fetchone()[0])
        if found not in (0, version):
            raise InputError(
                f"{path}: expected {what} of version {version}. Received: version {found}",
                hint="It was written by another version of vstain: use that one, or move the file away.",
            )
        if found:
            _require_sound(db, path, what, schema)
        else:
            _use_write_ahead_log(db)
            with transaction(db):
                if not db.execute("PRAGMA user_version").fetchone()[0]:  # another process may have been first
                    for statement in _statements(schema):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {version}")


def require_ours(path: Path, what: str, schema: str, version: int) -> None:
    """For readers: raises InputError unless the file holds the tables of `schema`, and nothing else that acts."""
    with connection(path, what) as db:
        found = int(db.execute("PRAGMA user_version").fetchone()[0])
        if found != version:
            raise InputError(f"{path}: expected {what} of version {version}. Received: version {found}")
        _require_sound(db, path, what, schema)


def _require_sound(db: sqlite3.Connection, path: Path, what: str, schema: str) -> None:
    """A trigger or view that is not ours could change what is written or read; a torn page could lose it."""
    with contextlib.closing(sqlite3.connect(":memory:")) as ours:
        ours.executescript(schema)
        expected = _objects(ours)
    known = {name for _, name, _ in expected}
    found = {o for o in _objects(db) if o[1] in known or o[0] in ("trigger", "view")}  # more tables do nothing
    if found != expected:
        names = sorted({name for _, name, _ in found ^ expected})
        raise InputError(
            f"{path}: expected {what} with the tables of vstain. Received others: {', '.join(names)[:200]}",
            hint="Move the file away: it was made or changed by another program.",
        )
    problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise InputError(f"{path}: expected {what}. Received a damaged file: {problem:.200}")


def _objects(db: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """(type, name, definition) of every table, index, trigger and view; SQLite's own left out."""
    rows = db.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'")
    return {(str(kind), str(name), " ".join(str(sql).split())) for kind, name, sql in rows}


def _use_write_ahead_log(db: sqlite3.Connection) -> None:
    """Waits for others itself: SQLite changes the journal at once or not at all, whatever the connection's timeout."""
    end = time.monotonic() + _BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _statements(script: str) -> Iterator[str]:
    """One by one: `executescript` would end the transaction that it is called in."""
    statement = ""
    for part in script.split(";")[:-1]:
        statement += part + ";"
        if sqlite3.complete_statement(statement):  # a trigger's body has semicolons of its own
            yield statement
            statement = ""
