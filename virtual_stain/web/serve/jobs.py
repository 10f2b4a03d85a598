"""The queue of slides to score, in `OUT/jobs.sqlite`: it survives a restart, and two processes share it.

The web process submits, cancels and reads; the model process claims, reports and ends jobs.
"""

from __future__ import annotations

import contextlib
import enum
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.database import connection, create, transaction

DATABASE = "jobs.sqlite"
MAX_ATTEMPTS = 2
_WHAT = "jobs"
_VERSION = 1
_SCHEMA = """
CREATE TABLE job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_unix_s REAL NOT NULL,
    started_unix_s REAL,
    ended_unix_s REAL,
    slide TEXT NOT NULL,
    name TEXT NOT NULL,
    model TEXT NOT NULL,
    mpp_x REAL,
    mpp_y REAL,
    state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    cancel INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    stage TEXT NOT NULL DEFAULT '',
    tiles_done INTEGER NOT NULL DEFAULT 0,
    tiles_total INTEGER,
    tiles_since_unix_s REAL,
    message TEXT NOT NULL DEFAULT '',
    hint TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX job_state ON job (state, id);
"""


class State(enum.StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Job:
    """One slide to score with one model."""

    id: int
    created_unix_s: float
    started_unix_s: float | None
    ended_unix_s: float | None
    slide: str
    """Path below the root."""
    name: str
    """Beginning of the result's file names."""
    model: str
    mpp: tuple[float, float] | None
    state: State
    attempts: int
    stage: str
    tiles_done: int
    tiles_total: int | None
    tiles_since_unix_s: float | None
    message: str
    """Why it failed, in the user's words."""
    hint: str

    @property
    def remaining_s(self) -> float | None:
        """From the rate since the first tile; None while there is none."""
        running = self.state is State.RUNNING
        if not (running and self.tiles_done and self.tiles_total and self.tiles_since_unix_s):
            return None
        rate = self.tiles_done / max(time.time() - self.tiles_since_unix_s, 1e-3)
        return max(0.0, (self.tiles_total - self.tiles_done) / rate)


@dataclass(frozen=True, slots=True)
class NewJob:
    """What is submitted."""

    slide: str
    name: str
    model: str
    mpp: tuple[float, float] | None = None


class JobStore:
    """Safe from several threads and processes."""

    def __init__(self, folder: Path) -> None:
        """Raises OutputError, InputError."""
        self.path = folder / DATABASE
        create(self.path, _WHAT, _SCHEMA, _VERSION)

    def submit(self, jobs: Sequence[NewJob], *, limit: int) -> list[int] | None:
        """All or none; None where more than `limit` slides would wait."""
        with self._connection(write=True) as db, transaction(db):
            waiting = db.execute("SELECT count(*) FROM job WHERE state = 'queued'").fetchone()[0]
            if waiting + len(jobs) > limit:
                return None
            ids = []
            for job in jobs:
                mpp = job.mpp or (None, None)
                cursor = db.execute(
                    "INSERT INTO job (created_unix_s, slide, name, model, mpp_x, mpp_y) VALUES (?, ?, ?, ?, ?, ?)",
                    (time.time(), job.slide, job.name, job.model, *mpp),
                )
                assert cursor.lastrowid is not None
                ids.append(cursor.lastrowid)
            return ids

    def get(self, number: int) -> Job | None:
        with self._connection() as db:
            row = db.execute("SELECT * FROM job WHERE id = ?", (number,)).fetchone()
        return None if row is None else _job(row)

    def listing(self, *, limit: int, before: int | None = None) -> list[Job]:
        """Newest first."""
        with self._connection() as db:
            rows = db.execute(
                "SELECT * FROM job WHERE id < ? ORDER BY id DESC LIMIT ?", (before or 2**62, limit)
            ).fetchall()
        return [_job(row) for row in rows]

    def counts(self) -> dict[State, int]:
        with self._connection() as db:
            found = dict(db.execute("SELECT state, count(*) FROM job GROUP BY state").fetchall())
        return {state: int(found.get(state.value, 0)) for state in State}

    def ahead_of(self, number: int) -> int:
        """Slides that wait or run before this one."""
        with self._connection() as db:
            query = "SELECT count(*) FROM job WHERE id < ? AND state IN ('queued', 'running')"
            return int(db.execute(query, (number,)).fetchone()[0])

    def cancel(self, number: int) -> None:
        """A queued job at once; a running one when the model process next looks."""
        with self._connection(write=True) as db, transaction(db):
            db.execute("UPDATE job SET cancel = 1 WHERE id = ? AND state IN ('queued', 'running')", (number,))
            db.execute(
                "UPDATE job SET state = 'cancelled', ended_unix_s = ? WHERE id = ? AND state = 'queued'",
                (time.time(), number),
            )

    # -- the model process

    def take_up(self) -> None:
        """What an earlier model process left running is queued again; given up where that happened before."""
        with self._connection(write=True) as db, transaction(db):
            db.execute(
                "UPDATE job SET state = 'cancelled', ended_unix_s = ? WHERE state = 'running' AND cancel = 1",
                (time.time(),),
            )
            db.execute(
                "UPDATE job SET state = 'failed', ended_unix_s = ?, message = ?, hint = ? "
                "WHERE state = 'running' AND attempts >= ?",
                (
                    time.time(),
                    f"the model process ended {MAX_ATTEMPTS} times while it scored this slide.",
                    "Out of memory, or a crash inside a library: model-process.log in the server's folder tells more.",
                    MAX_ATTEMPTS,
                ),
            )
            db.execute(f"UPDATE job SET {_QUEUED} WHERE state = 'running'")

    def put_all_back(self) -> None:
        """At a start of the server: what an earlier one left running is scored again, and that try does not count."""
        with self._connection(write=True) as db, transaction(db):
            db.execute(f"UPDATE job SET {_QUEUED}, attempts = attempts - 1 WHERE state = 'running' AND cancel = 0")

    def claim(self) -> Job | None:
        """The oldest waiting job, now running."""
        with self._connection(write=True) as db, transaction(db):
            row = db.execute("SELECT id FROM job WHERE state = 'queued' ORDER BY id LIMIT 1").fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE job SET state = 'running', attempts = attempts + 1, started_unix_s = ? WHERE id = ?",
                (time.time(), row["id"]),
            )
            return _job(db.execute("SELECT * FROM job WHERE id = ?", (row["id"],)).fetchone())

    def report(self, number: int, stage: str, done: int, total: int | None, since_unix_s: float | None) -> bool:
        """Notes progress; True where somebody wants it cancelled."""
        with self._connection(write=True) as db:
            # progress may be lost with the power: it is not worth a sync
            db.execute("PRAGMA synchronous = OFF")
            db.execute(
                "UPDATE job SET stage = ?, tiles_done = ?, tiles_total = ?, tiles_since_unix_s = ? WHERE id = ?",
                (stage, done, total, since_unix_s, number),
            )
            return bool(db.execute("SELECT cancel FROM job WHERE id = ?", (number,)).fetchone()[0])

    def put_back(self, number: int) -> None:
        """The server goes down: the slide is scored after the next start, and this try does not count."""
        with self._connection(write=True) as db, transaction(db):
            db.execute(f"UPDATE job SET {_QUEUED}, attempts = attempts - 1 WHERE id = ?", (number,))

    def end(self, number: int, state: State, message: str = "", hint: str = "") -> None:
        with self._connection(write=True) as db, transaction(db):
            db.execute(
                "UPDATE job SET state = ?, ended_unix_s = ?, message = ?, hint = ?, stage = '' WHERE id = ?",
                (state.value, time.time(), message, hint, number),
            )

    def _connection(self, *, write: bool = False) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        return connection(self.path, _WHAT, write=write)


_QUEUED = "state = 'queued', started_unix_s = NULL, stage = '', tiles_done = 0, tiles_total = NULL"


def _job(row: sqlite3.Row) -> Job:
    mpp = None if row["mpp_x"] is None else (row["mpp_x"], row["mpp_y"])
    names = [n for n in Job.__dataclass_fields__ if n not in ("mpp", "state")]
    return Job(mpp=mpp, state=State(row["state"]), **{name: row[name] for name in names})
