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
            if write:
                db.execute("PRAGMA synchronous = FULL")
            yield db
    except sqlite3.OperationalError as error:
        raise OutputError(
            f"{path}: {what} cannot be {'written' if write else 'read'}: {error}.",
            hint="Is the disk full, the folder read-only, or on a network drive that cannot lock files?",
        ) from error
    except sqlite3.DatabaseError as error:
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
        if not found:
            _use_write_ahead_log(db)
            with transaction(db):
                if not db.execute("PRAGMA user_version").fetchone()[0]:  # another process may have been first
                    for statement in _statements(schema):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {version}")


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
